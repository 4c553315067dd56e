"""The cursor of an answer: where its next page begins. It is opaque to the client that passes it back.

The cursor of a search holds when the question was first asked, so that messages that arrived later move nothing, and
the last message returned, so that messages that were deleted later move nothing either.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.search.results import Ranked

T = TypeVar("T")

_MAX_NUMBER = 10**9


@dataclass(frozen=True, slots=True)
class Cursor:
    """The place in a ranking after which the next page begins.

    Attributes:
        question: the fingerprint of the question.
        asked_at: when the first page was asked for (aware).
        returned: how many messages the pages so far hold.
        last: the key of the last of them.
    """

    question: str
    asked_at: datetime
    returned: int
    last: tuple[str, str]

    @property
    def text(self) -> str:
        """The cursor as clients pass it back."""
        return encode([self.question, self.asked_at.isoformat(), self.returned, *self.last])

    def rest(self, ranked: Sequence[Ranked]) -> list[Ranked]:
        """The messages after the last one returned; if that one is gone, those after as many as were returned."""
        place = next((n for n, other in enumerate(ranked, 1) if other.key == self.last), self.returned)
        return list(ranked[place:])


def fingerprint(*parts: object) -> str:
    """A hash of a question and its filters."""
    return hashlib.blake2b(repr(parts).encode("utf-8", "replace"), digest_size=9).hexdigest()


def parse(text: str, question: str) -> Cursor:
    """Read the cursor of a search.

    Args:
        text: the cursor as the client passed it back.
        question: the fingerprint of the question that came with it.

    Raises:
        UsageError: the cursor is unreadable, or belongs to another question.
    """
    cursor = decode(text, _parse_fields)
    if cursor.question != question:
        raise UsageError(
            "the cursor belongs to another question", hint="Repeat the query and filters of its first page."
        )
    return cursor


def encode(value: Any) -> str:
    """A JSON value as an opaque text."""
    return base64.urlsafe_b64encode(json.dumps(value, ensure_ascii=False).encode()).decode().rstrip("=")


def decode(text: str, parse: Callable[[Any], T]) -> T:
    """Read a text of `encode`. A client may have written it: `parse` has to check the value.

    Args:
        text: the text.
        parse: makes the result of the JSON value; raises ValueError, TypeError or OverflowError if it cannot.

    Raises:
        UsageError: the text cannot be read.
    """
    try:
        return parse(json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UsageError("the cursor cannot be read", hint="Pass on the one that the last page gave.") from error


def check_text(value: Any) -> str:
    """An id of a cursor: a text that the database can hold.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("no text")
    value.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
    return value


def check_moment(value: Any) -> datetime:
    """A moment of a cursor, aware and in UTC.

    Raises:
        ValueError, OverflowError: it is something else, or outside the calendar of some time zone.
    """
    moment = datetime.fromisoformat(check_text(value))
    if moment.tzinfo is None:
        raise ValueError("no moment")
    moment = moment.astimezone(UTC)
    if not 1 < moment.year < 9999:
        raise ValueError("no moment of a message")
    return moment


def check_number(value: Any) -> int:
    """A count of a cursor: of messages or of entries that the pages so far hold.

    Raises:
        ValueError: it is something else.
    """
    if type(value) is not int or not 0 <= value < _MAX_NUMBER:
        raise ValueError("no number")
    return value


def check_list(value: Any, length: int) -> list[Any]:
    """A list of a cursor.

    Raises:
        ValueError: it is something else, or of another length.
    """
    if not isinstance(value, list) or len(value) != length:
        raise ValueError("no list of this length")
    return value


def _parse_fields(value: Any) -> Cursor:
    question, asked_at, returned, chat_id, msg_id = check_list(value, 5)
    return Cursor(
        check_text(question), check_moment(asked_at), check_number(returned), (check_text(chat_id), check_text(msg_id))
    )
