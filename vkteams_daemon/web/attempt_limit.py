"""Limits how often somebody may begin or end a sign-in."""

from __future__ import annotations

import time
from collections import deque

PERIOD = 600.0  # seconds
MOST = 300  # requests of one address in a period; a whole office may share it
_MOST_ADDRESSES = 10_000


class AttemptLimit:
    """Counts attempts by address. Used in the event loop alone."""

    def __init__(self) -> None:
        self._attempts: dict[str, deque[float]] = {}

    def is_reached(self, address: str) -> bool:
        """Count an attempt. Returns whether this address has made too many."""
        now = time.monotonic()
        if len(self._attempts) >= _MOST_ADDRESSES and address not in self._attempts:
            self._attempts = {each: times for each, times in self._attempts.items() if times[-1] > now - PERIOD}
            if len(self._attempts) >= _MOST_ADDRESSES:
                return True
        times = self._attempts.setdefault(address, deque(maxlen=MOST + 1))
        times.append(now)
        return len(times) > MOST and times[0] > now - PERIOD
