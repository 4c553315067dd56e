"""Limits the log to ten lines of each kind a minute, and says how many are left out. So no client can fill it."""

from __future__ import annotations

import logging
import time

PERIOD = 60.0  # seconds
PER_PERIOD = 10  # lines of one kind


class LogLimit(logging.Filter):
    """Lets ten records of each kind pass in a minute. A kind is the line of the source that logs it."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged. The first one of a minute says how many of its kind were left out before it."""
        kind = (record.pathname, record.lineno)
        now = time.monotonic()
        since, count = self._kinds.get(kind, (now, 0))
        left_out = 0
        if now - since >= PERIOD:
            since, count, left_out = now, 0, max(0, count - PER_PERIOD)
        self._kinds[kind] = (since, count + 1)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} ({left_out} more such lines were left out)", None
        return count < PER_PERIOD
