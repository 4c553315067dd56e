"""The cursors of the server's own lists: where the next page begins. Opaque to whoever passes them on.

Whoever passes one on may have written it: it says where to go on, and gives nobody more to see.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from vkteams_daemon.errors import UsageError

T = TypeVar("T")

_MOST = 10**9


def after(sent_at: datetime, chat_id: str, msg_id: str) -> str:
    """The cursor behind a message."""
    return _written([sent_at.isoformat(), chat_id, msg_id])


def message(cursor: str) -> tuple[datetime, str, str]:
    """The message that the cursor stands behind.

    Raises:
        UsageError: it is no such cursor.
    """
    return _read(cursor, _message)


def beyond(given: int) -> str:
    """The cursor behind so many entries of a list."""
    return _written(given)


def given(cursor: str) -> int:
    """How many entries the cursor stands behind.

    Raises:
        UsageError: it is no such cursor.
    """
    return _read(cursor, _given)


def _message(value: Any) -> tuple[datetime, str, str]:
    sent_at, chat_id, msg_id = value
    moment = datetime.fromisoformat(sent_at)
    if moment.tzinfo is None or not isinstance(chat_id, str) or not isinstance(msg_id, str) or "\0" in chat_id + msg_id:
        raise ValueError("no message")
    return moment, chat_id, msg_id


def _given(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MOST:
        raise ValueError("no number")
    return value


def _written(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value, ensure_ascii=False).encode()).decode().rstrip("=")


def _read(cursor: str, meant: Callable[[Any], T]) -> T:
    try:
        return meant(json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))))
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError("the cursor cannot be read", hint="Pass on the one that the last page gave.") from error
