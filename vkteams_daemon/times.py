"""Times as people and agents write and read them: a duration ago (`2h`), a date, a date with a time, words (`вчера`).

A time without an offset is the reader's own, and a date is a day of the reader's own zone. The zone is set once for a
command, and for each call of an agent (`in_zone`). Everything for programs (JSON, the tokens file) is UTC.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from vkteams_daemon import time_expressions
from vkteams_daemon.config import parse_duration
from vkteams_daemon.errors import ConfigError, UsageError, quoted

_EXAMPLES = "write 2h, 7d, 2026-11-24, 2026-11-24T08:30, 24.11.2026, yesterday, вчера 18:00 or last week"
_zone: ContextVar[tzinfo | None] = ContextVar("zone", default=None)


class SystemZone(tzinfo):
    """The zone of this process as the C library knows it (TZ, /etc/localtime), with its changes of the clocks."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """The offset at that moment on the wall; of a moment that comes twice `fold` says which."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, moment: datetime | None) -> None:
        """Unknown."""

    def tzname(self, moment: datetime | None) -> str | None:
        """The abbreviation, such as MSK."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, moment: datetime) -> datetime:
        """The moment on the wall."""
        stamp = (moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        local = datetime.fromtimestamp(stamp // 1_000_000)
        return local.replace(microsecond=stamp % 1_000_000, tzinfo=self)


def named_zone(name: str) -> tzinfo:
    """The zone of this name, such as Europe/Moscow.

    Raises:
        UsageError: there is no such zone.
    """
    try:
        return UTC if name.upper() in ("UTC", "Z") else ZoneInfo(name)
    except (ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError with the name
        raise UsageError(_no_zone(name)) from error
    except KeyError:
        raise UsageError(_no_zone(name)) from None


def _no_zone(name: str) -> str:
    return f"{quoted(name)} is not a time zone: write a name such as Europe/Moscow or UTC"


def choose_zone(configured: str) -> tzinfo:
    """The zone of the person who asks: TZ, otherwise `[search] timezone`, otherwise this machine's."""
    return SystemZone() if os.environ.get("TZ") or not configured else named_zone(configured)


def zone() -> tzinfo:
    """The reader's zone; this machine's if nobody has set another."""
    return _zone.get() or SystemZone()


@contextlib.contextmanager
def in_zone(zone: tzinfo) -> Iterator[None]:
    """For a `with` block: times are read and shown in this zone."""
    token = _zone.set(zone)
    try:
        yield
    finally:
        _zone.reset(token)


def local(moment: datetime) -> datetime:
    """The moment in the reader's zone."""
    return moment.astimezone(zone())


def shown(moment: datetime, *, seconds: bool = False) -> str:
    """The moment for people, in the reader's zone: `Tue 2026-11-24 18:05 MSK`."""
    return local(moment).strftime(f"%a %Y-%m-%d %H:%M{':%S' if seconds else ''} %Z")


def shown_span(since: datetime | None, until: datetime | None) -> str:
    """What --since and --until were taken for, for people; empty without them."""
    parts = [f"since {shown(since)}" if since else "", f"until {shown(until)}" if until else ""]
    return ", ".join(filter(None, parts))


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """The start of a span, inclusive: `2h` is two hours ago, a day is its beginning.

    Raises:
        UsageError: the text is no duration, no date and no time, or could be several.
    """
    return _parse_time(text, now).start


def parse_until(text: str, now: datetime | None = None) -> datetime:
    """The end of a span, exclusive: `2h` is two hours ago, a day is the beginning of the next.

    Raises:
        UsageError: the text is no duration, no date and no time, or could be several.
    """
    return _parse_time(text, now).end


def check_span(since: datetime | None, until: datetime | None) -> None:
    """Refuse an empty span.

    Raises:
        UsageError: `since` is not before `until`.
    """
    if since and until and since >= until:
        raise UsageError(
            "no time lies between since and until",
            hint=f"They are {shown(since)} and {shown(until)}; the earlier one comes first.",
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


def _parse_time(text: str, now: datetime | None) -> time_expressions.Span:
    try:
        if (span := time_expressions.read(text, now or datetime.now(UTC), zone())) is not None:
            return span
    except time_expressions.Ambiguous as error:
        raise UsageError(f"{quoted(text)} is not clear: {error}") from error
    raise UsageError(f"{quoted(text)} is not a time: {_EXAMPLES}")
