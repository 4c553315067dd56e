"""Counts the events of the poll loop: for the status file, the metrics and the log."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling.pending_batch import PendingBatch
from vkteams_daemon.daemon.status import Events, Step
from vkteams_daemon.store.ingest.event_cursor import Cursor
from vkteams_daemon.store.ingest.writer import StoreResult

log = logging.getLogger(__name__)


class EventCounts:
    """Only the thread of the poll loop counts; any thread may read.

    Args:
        status: the events' part of the status file.
        observe: called with each step and the seconds it took.

    Attributes:
        latencies: milliseconds from an answer's arrival to its commit, the last thousand.
    """

    def __init__(self, status: Events, observe: Callable[[Step, float], None]) -> None:
        self.latencies: deque[float] = deque(maxlen=1000)
        self._status = status
        self._observe = observe
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=10_000)

    def per_second(self, window: float = 60.0) -> float:
        """Events received a second over the last `window` seconds."""
        since = time.monotonic() - window
        return round(sum(count for at, count in list(self._arrivals) if at >= since) / window, 3)

    def received(self, events: Sequence[Event], arrived: float) -> None:
        """Count the events of an answer that arrived at this monotonic time."""
        self._status.received += len(events)
        self._arrivals.append((arrived, len(events)))

    def cursor_read(self, cursor: Cursor | None, last_arrival: datetime | None) -> None:
        """Note the cursor and the arrival of the newest event, which the writer has read from the database."""
        self._status.last_event_id = cursor.last_event_id if cursor else None
        self._status.last_event_at = max(filter(None, (self._status.last_event_at, last_arrival)), default=None)

    def failed(self, pending: PendingBatch | None) -> None:
        """Note the batch that could not be stored, if there is one."""
        if pending is not None:
            self._status.failed = len(pending.events)

    def succeeded(self) -> None:
        """Note that no batch waits after a failure."""
        self._status.failed = 0

    def spooled(self, batch: PendingBatch) -> None:
        """Note that the spool has taken a batch."""
        self._status.last_event_at = batch.events[-1].received_at
        self.succeeded()

    def committed(self, batch: PendingBatch, stored: StoreResult, cursor: Cursor | None, *, from_spool: bool) -> None:
        """Count what one transaction has stored.

        Args:
            batch: the events of the transaction.
            stored: what happened to them.
            cursor: the writer's cursor after the commit.
            from_spool: whether the events have waited in the spool; then their latency says nothing.
        """
        if not from_spool and not stored.partial:
            seconds = time.monotonic() - batch.arrived
            self.latencies.append(1000 * seconds)
            self._observe("event_to_row", seconds)
        counts = self._status
        counts.saved += stored.saved
        counts.duplicate += max(0, stored.duplicate - batch.saved)
        counts.filtered += stored.filtered
        counts.quarantined += stored.quarantined
        counts.last_event_at = batch.events[-1].received_at
        counts.last_event_id = cursor.last_event_id if cursor else counts.last_event_id
        if stored.restarted and not stored.partial:
            log.error("the server has started its event ids over: a new generation is open (%s)", cursor)
        elif stored.late:
            log.warning("%d events came with ids below those that were acknowledged; %s", stored.late, cursor)
        if stored.quarantined:
            log.warning("%d events were quarantined; see `vkteamsctl database quarantine`", stored.quarantined)
