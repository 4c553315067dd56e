"""Reads times as people and agents write them: a duration ago (`2h`), a date, a date with a time, words (`вчера`).

A time without an offset is UTC. Every time that this program prints is UTC too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vkteams_daemon import time_expressions
from vkteams_daemon.config import parse_duration
from vkteams_daemon.errors import ConfigError, UsageError, quoted

_EXAMPLES = "write 2h, 7d, 2026-11-24, 2026-11-24T08:30, 24.11.2026, yesterday, вчера 18:00 or last week"


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """The start of a span, inclusive: `2h` is two hours ago, a day is its beginning.

    Raises:
        UsageError: the text is no duration, no date and no time.
    """
    return _parse_time(text, now or datetime.now(UTC), end_of_day=False)


def parse_until(text: str, now: datetime | None = None) -> datetime:
    """The end of a span, exclusive: `2h` is two hours ago, a day is the beginning of the next.

    Raises:
        UsageError: the text is no duration, no date and no time.
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
        raise UsageError(f"{quoted(text)} is not a span of time: write 90m, 12h or 30d") from error
    if span <= timedelta(0):
        raise UsageError(f"{quoted(text)} is not above zero")
    return span


def _parse_time(text: str, now: datetime, *, end_of_day: bool) -> datetime:
    try:
        if (span := time_expressions.read(text, now)) is not None:
            return (span.end if end_of_day else span.start).astimezone(UTC)
        if not any(letter in text for letter in ":tT"):  # a date alone, of which the calendar has no next day
            raise ValueError(text)
        time = datetime.fromisoformat(text.strip())
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{quoted(text)} is not a time: {_EXAMPLES}") from error
