"""The cursors of the server's own lists: where the next page begins.

A client may write a cursor itself. It says where to go on, and shows no client more than the client may see.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from vkteams_daemon.search.cursor import decode, encode

_MAX_OFFSET = 10**9


def message_cursor(sent_at: datetime, chat_id: str, msg_id: str) -> str:
    """The cursor after this message."""
    return encode([sent_at.isoformat(), chat_id, msg_id])


def parse_message_cursor(cursor: str) -> tuple[datetime, str, str]:
    """The sent_at, chat_id and msg_id of the message that the cursor stands after.

    Raises:
        UsageError: it is no such cursor.
    """
    return decode(cursor, _message)


def offset_cursor(offset: int) -> str:
    """The cursor after so many entries of a list."""
    return encode(offset)


def parse_offset_cursor(cursor: str) -> int:
    """How many entries the cursor stands after.

    Raises:
        UsageError: it is no such cursor.
    """
    return decode(cursor, _offset)


def _message(value: Any) -> tuple[datetime, str, str]:
    sent_at, chat_id, msg_id = value
    moment = datetime.fromisoformat(sent_at)
    if moment.tzinfo is None or not isinstance(chat_id, str) or not isinstance(msg_id, str) or "\0" in chat_id + msg_id:
        raise ValueError("no message")
    return moment, chat_id, msg_id


def _offset(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX_OFFSET:
        raise ValueError("no number")
    return value
