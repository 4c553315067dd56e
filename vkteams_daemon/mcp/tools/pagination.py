"""The cursors of the server's own lists: where the next page begins.

A client may write a cursor itself. It says where to go on, and shows no client more than the client may see.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from vkteams_daemon.search.cursor import check_list, check_moment, check_number, check_text, decode, encode


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
    return decode(cursor, check_number)


def _message(value: Any) -> tuple[datetime, str, str]:
    sent_at, chat_id, msg_id = check_list(value, 3)
    return check_moment(sent_at), check_text(chat_id), check_text(msg_id)
