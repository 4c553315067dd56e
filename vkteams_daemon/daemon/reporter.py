"""Writes the status file, at intervals and after every change of state, and logs a line of statistics now and then."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

import msgspec

from vkteams_daemon.daemon.status import Percentiles, Status
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import VkTeamsError

log = logging.getLogger(__name__)

WRITE_LIMIT = 30.0  # seconds after which a write of the file is overdue


class Reporter:
    """Runs in a thread of its own, so that a slow disk delays no other thread.

    Args:
        status: the content of the file.
        refresh: updates the status; called before each write.
        write: writes the file. A VkTeamsError is logged once, until a write succeeds again.
        pulse: this loop's.

    Attributes:
        pulse: as given.
    """

    def __init__(
        self, status: Status, refresh: Callable[[], None], write: Callable[[], None], pulse: Pulse | None = None
    ) -> None:
        self._status = status
        self._refresh = refresh
        self._write = write
        self.pulse = pulse or Pulse("status")
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._failing = False
        self._dump_requested = False

    def run(self, status_interval: Callable[[], float], stats_interval: Callable[[], float]) -> None:
        """The loop, until `stop`. The intervals, in seconds, are read before each wait: a reload may change them."""
        last_line = time.monotonic()
        while not self._stop.is_set():
            self.pulse.busy(WRITE_LIMIT)
            dump, self._dump_requested = self._dump_requested, False
            self.write_now()
            if dump:
                log.info("statistics %s", json.dumps(msgspec.to_builtins(self._status), ensure_ascii=False))
            if time.monotonic() - last_line >= stats_interval():
                last_line = time.monotonic()
                log.info("statistics %s", self._statistics_line())
            self.pulse.idle()
            self._wake.wait(status_interval())
            self._wake.clear()

    def write_soon(self) -> None:
        """Let the thread write the file without waiting for the interval: the state has changed."""
        self._wake.set()

    def stop(self) -> None:
        """End the loop."""
        self._stop.set()
        self._wake.set()

    def write_now(self) -> None:
        """Write the file, in the calling thread."""
        with self._lock:
            self._refresh()
            try:
                self._write()
            except VkTeamsError as error:
                if not self._failing:
                    log.error("%s", error)
                self._failing = True
                return
            if self._failing:
                log.info("the status file is written again")
            self._failing = False

    def dump(self) -> None:
        """Let the thread write the full statistics to the file and to the log."""
        self._dump_requested = True
        self._wake.set()

    def _statistics_line(self) -> str:
        counts, embedding = self._status.events, self._status.embedding
        return (
            f"received={counts.received} saved={counts.saved} duplicate={counts.duplicate} filtered={counts.filtered} "
            f"quarantined={counts.quarantined} embedded={embedding.embedded} queued={embedding.queued} "
            f"rss={self._status.rss_bytes >> 20}M"
        )


def percentiles(milliseconds: list[float]) -> Percentiles:
    """The median and the 99th percentile, by nearest rank; both None for an empty list."""
    if not milliseconds:
        return Percentiles()
    ordered = sorted(milliseconds)
    last = len(ordered) - 1
    return Percentiles(p50=round(ordered[last // 2], 3), p99=round(ordered[-(-last * 99 // 100)], 3))
