"""Keeps the status file fresh: every interval, on every change of state, and a statistics line now and then."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

import msgspec

from vkteams_daemon.daemon.status import Percentiles, Status
from vkteams_daemon.errors import VkTeamsError

log = logging.getLogger(__name__)


class Reporter:
    """Runs in a thread of its own, for a slow disk must hold up nobody else.

    Args:
        status: what is written.
        refresh: brings the status up to date; called before each write.
        write: writes the file; its VkTeamsError is logged once until it works again.
    """

    def __init__(self, status: Status, refresh: Callable[[], None], write: Callable[[], None]) -> None:
        self._status = status
        self._refresh = refresh
        self._write = write
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._failing = False
        self._dump_wanted = False

    def run(self, status_interval: Callable[[], float], stats_interval: Callable[[], float]) -> None:
        """Until `stop`; the intervals, in seconds, are asked for anew each time."""
        last_line = time.monotonic()
        while not self._stop.is_set():
            self.now()
            if self._dump_wanted:
                self._dump_wanted = False
                log.info("statistics %s", json.dumps(msgspec.to_builtins(self._status), ensure_ascii=False))
            if time.monotonic() - last_line >= stats_interval():
                last_line = time.monotonic()
                log.info("statistics %s", self._line())
            self._changed.wait(status_interval())
            self._changed.clear()

    def changed(self) -> None:
        """Something changed that readers of the file want to know now."""
        self._changed.set()

    def stop(self) -> None:
        """End the loop."""
        self._stop.set()
        self._changed.set()

    def now(self) -> None:
        """Write the file, from any thread."""
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
        """Let the full statistics go to the file and to the log, now."""
        self._dump_wanted = True
        self._changed.set()

    def _line(self) -> str:
        counts, embedding = self._status.events, self._status.embedding
        return (
            f"received={counts.received} saved={counts.saved} duplicate={counts.duplicate} filtered={counts.filtered} "
            f"quarantined={counts.quarantined} embedded={embedding.embedded} queued={embedding.queued} "
            f"rss={self._status.rss_bytes >> 20}M"
        )


def percentiles(milliseconds: list[float]) -> Percentiles:
    """The median and the 99th percentile, by nearest rank; None for both of an empty list."""
    if not milliseconds:
        return Percentiles()
    ordered = sorted(milliseconds)
    last = len(ordered) - 1
    return Percentiles(p50=round(ordered[last // 2], 3), p99=round(ordered[-(-last * 99 // 100)], 3))
