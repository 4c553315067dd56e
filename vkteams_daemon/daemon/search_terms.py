"""After an upgrade, makes the index terms of the stored messages again, beside the daemon's other work."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.rebuild import search_terms

log = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds until the first attempt, and until the next one after a failure
REPORT_INTERVAL = 60.0  # seconds between two lines of the log
BATCH_LIMIT = 300.0  # seconds after which a batch is overdue
_MAX_PAUSE = 0.2  # seconds


def refill_loop(
    connect: Callable[[], Connection],
    stopping: threading.Event,
    may_write: Callable[[], bool],
    pulse: Pulse,
    interval: float = INTERVAL,
) -> None:
    """Make index terms until every message has new ones; after an error of the database, try again.

    A batch is followed by a pause of the same length, so that the writer and searches keep half of the server.

    Args:
        connect: opens a new connection.
        stopping: ends it.
        may_write: whether this process listens to the bot; a standby leaves the work to the listener.
        pulse: this loop's.
        interval: seconds until the first attempt, and between two attempts.
    """
    reported = 0.0
    began = 0.0

    def report(done: int, total: int) -> None:
        nonlocal reported
        if done >= total or time.monotonic() - reported < REPORT_INTERVAL:
            return
        reported = time.monotonic()
        log.info("search: %d of %d older messages have new index terms", done, total)

    def pause() -> bool:
        nonlocal began
        ended = stopping.wait(min(_MAX_PAUSE, time.monotonic() - began))
        began = time.monotonic()
        pulse.busy(BATCH_LIMIT)
        return ended

    while not stopping.wait(interval):
        if not may_write():
            continue
        try:
            with pulse.turn(BATCH_LIMIT), connect() as connection:
                began = time.monotonic()
                if search_terms.refill(connection, progress=report, pause=pause) == 0:
                    return
        except VkTeamsError as error:
            log.debug("the index terms of older messages are not made yet: %s", error)
