"""The answered polls of a host, and the pauses between them. A restart is a pause only if it takes long."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime

from vkteams_daemon.store.gaps import Polls

_PAUSE = 600.0  # seconds; answers that follow sooner follow without a pause
_MAX_PAUSES = 100


class PollSeries:
    """The answered polls that the archive has not noted yet. One thread adds them, another one notes them."""

    def __init__(self) -> None:
        self._polls: Polls | None = None
        self._last_tick: float | None = None
        self._mutex = threading.Lock()

    @property
    def polls(self) -> Polls | None:
        """The polls; None before any."""
        return self._polls

    def resume(self, polls: Polls) -> None:
        """Go on with the polls of an earlier process of this host."""
        self._polls = polls

    def add(self, at: datetime) -> None:
        """Add an answer that came now, at this time."""
        tick = time.monotonic()
        with self._mutex:
            known = self._polls
            if known is None:
                self._polls = Polls(at, at)
            else:
                # The clock may have been set since the last answer; but who knows how long another process has ended.
                since = (at - known.last).total_seconds() if self._last_tick is None else tick - self._last_tick
                pauses = [*known.pauses, (known.last, at)] if since > _PAUSE else known.pauses
                self._polls = Polls(known.first, at, tuple(pauses[-_MAX_PAUSES:]))
            self._last_tick = tick

    def noted(self, polls: Polls) -> None:
        """The archive has noted these polls: their pauses are told."""
        with self._mutex:
            if self._polls is not None and polls.pauses:
                pauses = tuple(pause for pause in self._polls.pauses if pause not in polls.pauses)
                self._polls = replace(self._polls, first=polls.pauses[-1][1], pauses=pauses)
