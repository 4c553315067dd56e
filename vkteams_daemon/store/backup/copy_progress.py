"""The progress of pg_dump and pg_restore, as the server tells it: the rows of the tables that they copy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import psycopg

from vkteams_daemon.errors import StoreError
from vkteams_daemon.store.connections import Connection

_INTERVAL = 0.5  # seconds between two looks
_COPIED = (
    "SELECT coalesce(pg_catalog.sum(p.tuples_processed), 0)::bigint, coalesce(pg_catalog.min(p.relid::bigint), 0)"
    " FROM pg_catalog.pg_stat_progress_copy p JOIN pg_catalog.pg_stat_activity a ON a.pid = p.pid"
    " WHERE a.application_name = %s AND a.datname = pg_catalog.current_database()"
)

Progress = Callable[[int, int], None]
"""Called with the rows that are done, and all rows."""


@contextlib.contextmanager
def watch_copies(
    connect: Callable[[], Connection], program: str, total: Callable[[], int], progress: Progress
) -> Iterator[None]:
    """Report the rows that a program has copied, while the block runs. An error here ends only the reports.

    Args:
        connect: opens a connection.
        program: its application_name.
        total: all rows; 0 while they are not known.
        progress: called now and then.
    """
    stop = threading.Event()

    def run() -> None:
        finished, table, current = 0, 0, 0
        with contextlib.suppress(psycopg.Error, StoreError), connect() as connection:
            while not stop.wait(_INTERVAL):
                row = connection.execute(_COPIED.encode(), (program,)).fetchone()
                rows, relation = row or (0, 0)
                if relation != table:
                    finished, table = finished + current, relation
                current = rows
                if total():
                    progress(min(finished + current, total()), total())

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
