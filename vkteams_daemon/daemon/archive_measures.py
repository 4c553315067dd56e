"""Measures the archive once a minute, for the status file and the metrics, and warns of queues without a worker."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from vkteams_daemon.daemon.status import Archive
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import DatabaseUnavailable
from vkteams_daemon.store import embedding_models
from vkteams_daemon.store.admin.measures import measure
from vkteams_daemon.store.database import Database

log = logging.getLogger(__name__)

INTERVAL = 60.0  # seconds between two measurements
MEASURE_LIMIT = 120.0  # seconds after which a measurement is overdue
IDLE = 300.0  # seconds without a worker after which a model's queue is a warning


def measure_loop(
    database: Database,
    status: Archive,
    state_dir: Path,
    warn: Callable[[str | None], None],
    stopping: threading.Event,
    pulse: Pulse,
    interval: float = INTERVAL,
) -> None:
    """Measure until `stopping` is set. What cannot be measured keeps its last value, and `measured_at` tells its age.

    The daemon does not wait for this thread when it stops. `warn` is called with the models that nobody works for, or
    with None.
    """
    while True:
        try:
            with pulse.turn(MEASURE_LIMIT):
                _measure_disk(status, state_dir)
                with database.connection() as connection:
                    measures = measure(connection)
                    idle = embedding_models.idle_models(connection, IDLE)
        except DatabaseUnavailable as error:
            log.debug("the archive is not measured: %s", error)
        else:
            status.bytes, status.quarantined = measures.octets, measures.quarantined
            status.gaps, status.queued_since = measures.gaps, measures.queued_since
            status.measured_at = datetime.now(UTC)
            warn("; ".join(map(str, idle)) or None)
        if stopping.wait(interval if status.measured_at else min(1.0, interval)):
            return


def _measure_disk(status: Archive, state_dir: Path) -> None:
    """Measure the free space where the state directory is, or will be once something is kept in it."""
    place = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    try:
        space = os.statvfs(place)
    except OSError as error:
        log.debug("%s: the free space is not known: %s", place, error)
    else:
        status.free_bytes = space.f_bavail * space.f_frsize
