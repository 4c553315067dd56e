"""The series of answered polls that a process is in."""

from __future__ import annotations

import time
from datetime import datetime

_PAUSE = 600.0  # seconds; answers that follow sooner belong to one series


class PollSeries:
    """The series of answered polls without a long pause. One thread adds answers, any may read.

    Attributes:
        since: when its first answer came; None before any.
        last: when its last answer came.
    """

    def __init__(self) -> None:
        self.since: datetime | None = None
        self.last: datetime | None = None
        self._last_tick = 0.0

    def add(self, at: datetime) -> None:
        """Add an answer that came now, at this time."""
        tick = time.monotonic()
        if self.since is None or tick - self._last_tick > _PAUSE:
            self.since = at
        self.last, self._last_tick = at, tick
