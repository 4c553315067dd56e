"""A locked table that holds other sessions up, and the wait until it does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from tests.harness.waiting import until


@contextlib.contextmanager
def locked(url: str, table: str, mode: str = "ACCESS EXCLUSIVE") -> Iterator[psycopg.Connection]:
    """Lock a table of a database; `rollback` of the connection lets it go before the end."""
    with psycopg.connect(url) as blocker:
        blocker.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())
        yield blocker


def wait_blocked(url: str, table: str) -> int:
    """Wait until a session waits for this table; the number of its process of the server."""
    query = (
        "SELECT pid FROM pg_locks WHERE NOT granted AND relation = to_regclass(%s)"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    with psycopg.connect(url, autocommit=True) as watcher:
        row = until(lambda: watcher.execute(query, (table,)).fetchone(), 30, f"a session that waits for {table}")
    assert row
    return int(row[0])
