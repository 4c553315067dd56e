"""The time of arrival of events. It does not run backwards, although the system's clock may be set back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_MAX_CORRECTION = timedelta(days=1)  # a clock that is set back by more has been wrong, so it is followed


class Clock:
    """A clock that stands still when the system's clock is set back, until that clock has caught up.

    The time of arrival decides who is a member and which name is the latest, so it must follow the order of arrival.

    Args:
        clock: returns the time (aware).
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._latest = clock()

    def now(self) -> datetime:
        """The time, or the time of the last call if that is later by up to a day."""
        now = self._clock()
        if not now < self._latest < now + _MAX_CORRECTION:
            self._latest = now
        return self._latest
