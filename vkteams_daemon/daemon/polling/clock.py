"""When events arrive: the clock, which may be set back, and the order of arrival, which may not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

_CORRECTION = timedelta(days=1)  # a clock that was more than this ahead was wrong, and has been until now


class Clock:
    """The time of arrival.

    Who came and who went, and which name is the latest, goes by it: so it stands still where the clock is set back by a
    little, until the clock has caught up.

    Args:
        clock: gives the time (aware).
    """

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._latest = clock()

    def now(self) -> datetime:
        """The time, or the one given before where that is up to a day later."""
        now = self._clock()
        if not now < self._latest < now + _CORRECTION:
            self._latest = now
        return self._latest
