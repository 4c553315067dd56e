"""Measures of the archive that the daemon reports once a minute. Each of them reads a small table or an index."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from vkteams_daemon.store.connections import Connection, translate_errors


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures of the archive.

    Attributes:
        octets: the size of the database.
        quarantined: events in quarantine, of all bots.
        gaps: gaps that nobody has dismissed.
        queued_since: when the oldest message began to wait for a vector of any model; None if none waits.
    """

    octets: int
    quarantined: int
    gaps: int
    queued_since: datetime | None


def measure(connection: Connection) -> Measures:
    """Measure the archive now."""
    with translate_errors(), connection.cursor(row_factory=class_row(Measures)) as cursor:
        cursor.execute(
            "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()) AS octets,"
            " (SELECT count(*) FROM events WHERE error IS NOT NULL) AS quarantined,"
            " (SELECT count(*) FROM gaps WHERE dismissed_at IS NULL) AS gaps,"
            # One look at the index for each model: a minimum over all of them would read the whole queue.
            " (SELECT pg_catalog.min(oldest.enqueued_at) FROM embedding_models AS model CROSS JOIN LATERAL"
            " (SELECT enqueued_at FROM embedding_queue WHERE model_id = model.model_id ORDER BY enqueued_at LIMIT 1)"
            " AS oldest) AS queued_since"
        )
        row = cursor.fetchone()
    assert row is not None  # a SELECT without FROM has one row
    return row
