"""The days of the reader's zone, as thresholds that PostgreSQL can count between.

The zone may be this machine's, which has no name for PostgreSQL, and a server may have other rules for a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from vkteams_daemon import times

_MAX_DAYS = 20_000  # thresholds of one statement; older messages than so many days are one group


@dataclass(frozen=True, slots=True)
class Days:
    """Days that follow one another.

    Attributes:
        dates: the days, oldest first.
        starts: when each begins: its midnight; if the clocks skip that, the moment at which they do.
    """

    dates: list[date]
    starts: list[datetime]

    @property
    def begin_with_an_hour(self) -> bool:
        """Whether each begins with an hour of UTC, so that counts of these hours can be added up."""
        return all(start.timestamp() % 3600 == 0 for start in self.starts)


def days_between(first: datetime, last: datetime) -> Days:
    """The days of the reader's zone from the one of `first` to the one of `last`; of too many the newest."""
    zone = times.zone()
    newest = last.astimezone(zone).date()
    count = min((newest - first.astimezone(zone).date()).days + 1, _MAX_DAYS)
    dates = [newest - timedelta(days=count - 1 - n) for n in range(count)]
    return Days(dates, [datetime(day.year, day.month, day.day, tzinfo=zone) for day in dates])
