"""Reads times as people and agents write them: a duration ago (`2h`), a date, or a date with a time.

A time without an offset is UTC. Every time that this program prints is UTC too.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from vkteams_daemon.config import parse_duration
from vkteams_daemon.errors import ConfigError, UsageError

_EXAMPLES = "write 2h, 7d, 2026-11-24, 2026-11-24T08:30 or 2026-11-24T08:30+03:00"


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """The start of a span, inclusive: `2h` is two hours ago, a date is the beginning of that day.

    Raises:
        UsageError: the text is neither a duration nor an ISO 8601 date or time.
    """
    return _parse_time(text, now or datetime.now(UTC), end_of_day=False)


def parse_until(text: str, now: datetime | None = None) -> datetime:
    """The end of a span, exclusive: `2h` is two hours ago, a date is the beginning of the next day.

    Raises:
        UsageError: the text is neither a duration nor an ISO 8601 date or time.
    """
    return _parse_time(text, now or datetime.now(UTC), end_of_day=True)


def check_span(since: datetime | None, until: datetime | None) -> None:
    """Refuse an empty span.

    Raises:
        UsageError: `since` is not before `until`.
    """
    if since and until and since >= until:
        raise UsageError(
            "no time lies between since and until",
            hint=f"They are {since:%Y-%m-%d %H:%M:%S} and {until:%Y-%m-%d %H:%M:%S}, UTC; the earlier one comes first.",
        )


def parse_age(text: str) -> timedelta:
    """A duration above zero: `90s`, `12h`, `30d`.

    Raises:
        UsageError: the text is no duration, or the duration is zero or reaches back before the year 1.
    """
    try:
        span = timedelta(seconds=parse_duration(text))
        datetime.now(UTC) - span  # raises OverflowError before the year 1
    except (OverflowError, ConfigError) as error:
        raise UsageError(f"{text!r} is not a span of time: write 90m, 12h or 30d") from error
    if span <= timedelta(0):
        raise UsageError(f"{text!r} is not above zero")
    return span


def _parse_time(text: str, now: datetime, *, end_of_day: bool) -> datetime:
    try:
        if re.fullmatch(r"\s*[0-9]+[smhdw]\s*", text):
            return now - timedelta(seconds=parse_duration(text))
        time = datetime.fromisoformat(text.strip())
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        is_date = re.fullmatch(r"\s*\d{4}-?\d{2}-?\d{2}\s*", text)
        return time + timedelta(days=1) if is_date and end_of_day else time
    except (ValueError, OverflowError, ConfigError) as error:
        raise UsageError(f"{text!r} is not a time: {_EXAMPLES}") from error
