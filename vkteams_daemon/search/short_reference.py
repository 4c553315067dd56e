"""Short references of messages, for a transcript: seven letters where a msg_id has nineteen digits.

A reference holds the day on which the message was sent (UTC) and a hash of its ids. It needs no table: the messages of
that day that the reader may see are looked through. An exact msg_id always goes before a reference.
"""

from __future__ import annotations

import hashlib
import re
import string
from datetime import UTC, datetime, timedelta

_DIGITS = string.digits + string.ascii_letters
_LETTERS = string.ascii_letters
_FIRST = datetime(2000, 1, 1, tzinfo=UTC)
_HASH = 4  # letters of the hash: one of 14.8 million; the messages of a day are thousands
_FORM = re.compile(rf"([A-Za-z]{{3}})([0-9A-Za-z]{{{_HASH}}})")


def reference(chat_id: str, msg_id: str, sent_at: datetime) -> str:
    """The reference of a message, such as `bKqX81f`."""
    day = (sent_at - _FIRST).days % len(_LETTERS) ** 3
    return _text(day, _LETTERS, 3) + _hash(chat_id, msg_id)


def day_of(text: str) -> datetime | None:
    """The beginning of the day (UTC) on which the message of this reference was sent; None if it is no reference."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    return _FIRST + timedelta(
        days=sum(_LETTERS.index(letter) * len(_LETTERS) ** place for place, letter in enumerate(reversed(match[1])))
    )


def is_of(text: str, chat_id: str, msg_id: str) -> bool:
    """Whether the reference is that of this message, which was sent on its day."""
    return text[-_HASH:] == _hash(chat_id, msg_id)


def _hash(chat_id: str, msg_id: str) -> str:
    digest = hashlib.sha256(f"{chat_id}\0{msg_id}".encode("utf-8", "surrogatepass")).digest()
    return _text(int.from_bytes(digest[:8]), _DIGITS, _HASH)


def _text(number: int, letters: str, length: int) -> str:
    text = ""
    for _ in range(length):
        number, digit = divmod(number, len(letters))
        text = letters[digit] + text
    return text
