"""How long to wait before the next attempt: exponential with full jitter, so that many daemons do not march in step."""

from __future__ import annotations

import random

FIRST = 0.5  # seconds


class Backoff:
    """Waits that double from FIRST to `longest` seconds, each drawn anew from the upper part of its range.

    Full jitter (M. Brooker, "Exponential Backoff and Jitter", 2015), but never shorter than FIRST: a server that asks
    for patience must not be asked again at once.
    """

    def __init__(self, longest: float = 60.0) -> None:
        self.longest = longest
        self.failures = 0

    def failed(self, at_least: float | None = None) -> float:
        """Count a failure; the seconds to wait, `at_least` what the server has asked for."""
        self.failures += 1
        ceiling = min(self.longest, FIRST * 2 ** min(self.failures, 30))
        wait = random.uniform(FIRST, max(FIRST, ceiling))
        return max(wait, at_least or 0.0)

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0
