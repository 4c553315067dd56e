"""Values of payloads, read without trust in their types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from vkteams_daemon.system.text import visible

# Unix seconds: one day before the end of year 9999. In a session whose time zone is east of UTC, the driver cannot
# read a later time.
_MAX_TIME = 253402214400

_BLANK = "\u2800\u3164\uffa0\u115f\u1160 "  # letters that nobody sees, and the space between them


def parse_id(value: Any) -> str | None:
    """An id as text: a string, or the digits of an int; None for any other type, a float included."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**40 else None
    return None


def fold_id(text: str) -> str:
    """An id in the spelling in which ids are compared: one that is an e-mail address is the same in any case."""
    return text.lower() if "@" in text else text


def parse_time(value: Any) -> datetime | None:
    """Unix seconds (a number, or its decimal text) as a time; None for anything else, or beyond the calendar."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_TIME:
        return None
    return datetime.fromtimestamp(value, UTC)


def as_text(value: Any) -> str | None:
    """The value if it is a text."""
    return value if isinstance(value, str) else None


def known_name(value: Any) -> str | None:
    """A name or a title; None if it has no letter that can be seen: the API knows none."""
    if not isinstance(value, str) or not value.strip().strip(_BLANK):
        return None
    return value if value.isprintable() or visible(value).strip().strip(_BLANK) else None


def as_list(value: Any) -> list[Any]:
    """The value if it is a list, otherwise an empty one."""
    return value if isinstance(value, list) else []
