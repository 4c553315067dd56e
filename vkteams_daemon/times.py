"""Moments as people and agents write them: so long ago, or a date, or a time.

A moment without an offset is UTC, as every moment that is shown.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from vkteams_daemon.config import parse_duration
from vkteams_daemon.errors import ConfigError, UsageError

_EXAMPLES = "write 2h, 7d, 2026-11-24, 2026-11-24T08:30 or 2026-11-24T08:30+03:00"


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """The moment from which on: `2h` is two hours ago, a date its first moment.

    Raises:
        UsageError: it is neither a duration nor an ISO 8601 date or time.
    """
    return _moment(text, now or datetime.now(UTC), day_ends=False)


def parse_until(text: str, now: datetime | None = None) -> datetime:
    """The moment before which: `2h` is two hours ago, a date the first moment of the day after it.

    Raises:
        UsageError: it is neither a duration nor an ISO 8601 date or time.
    """
    return _moment(text, now or datetime.now(UTC), day_ends=True)


def check_span(since: datetime | None, until: datetime | None) -> None:
    """Refuse two moments with nothing between them.

    Raises:
        UsageError: the first is not before the second.
    """
    if since and until and since >= until:
        raise UsageError(
            "no time lies between since and until",
            hint=f"They are {since:%Y-%m-%d %H:%M:%S} and {until:%Y-%m-%d %H:%M:%S}, UTC; the earlier one comes first.",
        )


def parse_age(text: str) -> timedelta:
    """A span of time above zero: `90s`, `12h`, `30d`.

    Raises:
        UsageError: it is none.
    """
    try:
        span = timedelta(seconds=parse_duration(text))
        datetime.now(UTC) - span  # what is older than the calendar is asked of nobody
    except (OverflowError, ConfigError) as error:
        raise UsageError(f"{text!r} is not a span of time: write 90m, 12h or 30d") from error
    if span <= timedelta(0):
        raise UsageError(f"{text!r} is not above zero")
    return span


def _moment(text: str, now: datetime, *, day_ends: bool) -> datetime:
    try:
        if re.fullmatch(r"\s*[0-9]+[smhdw]\s*", text):
            return now - timedelta(seconds=parse_duration(text))
        moment = datetime.fromisoformat(text.strip())
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        whole_day = re.fullmatch(r"\s*\d{4}-?\d{2}-?\d{2}\s*", text)
        return moment + timedelta(days=1) if whole_day and day_ends else moment
    except (ValueError, OverflowError, ConfigError) as error:
        raise UsageError(f"{text!r} is not a moment: {_EXAMPLES}") from error
