"""Computes the wait before the next attempt: exponential, with full jitter, so that daemons do not retry in step."""

from __future__ import annotations

import random

FIRST = 0.5  # seconds


class Backoff:
    """Random waits between FIRST and a limit that doubles with each failure, up to `longest` seconds.

    This is full jitter (M. Brooker, "Exponential Backoff and Jitter", 2015), but a wait is never shorter than FIRST: a
    server in trouble must not get the next request at once.
    """

    def __init__(self, longest: float = 60.0) -> None:
        self.longest = longest
        self.failures = 0

    def failed(self, at_least: float | None = None) -> float:
        """Count a failure. Returns the seconds to wait, never fewer than `at_least`, which the server has asked for."""
        self.failures += 1
        ceiling = min(self.longest, FIRST * 2 ** min(self.failures, 30))
        wait = random.uniform(FIRST, max(FIRST, ceiling))
        return max(wait, at_least or 0.0)

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0
