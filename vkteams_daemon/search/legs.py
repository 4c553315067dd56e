"""Legs of a search side by side: each on a connection of its own, in a transaction that sees what the question's sees.

A question never waits for a further connection. If none is free, a leg runs on the connection of its caller, when its
result is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg_pool import PoolTimeout

from vkteams_daemon.store.connections import Connection, Pool

T = TypeVar("T")

_PATIENCE = 0.001  # seconds; with 0 the pool gives nothing


class Legs:
    """The legs of one question. Without a pool each runs on its caller's connection.

    Args:
        pool: gives the further connections.
        threads: run the legs.
        begin: begins the question's transaction on such a connection; it gets the snapshot.
    """

    def __init__(
        self,
        pool: Pool | None = None,
        threads: ThreadPoolExecutor | None = None,
        begin: Callable[[Connection, str], None] = lambda connection, snapshot: None,
    ) -> None:
        self._pool = pool
        self._threads = threads
        self._begin = begin
        self._snapshot: str | None = None
        self._running: list[Future[Any]] = []

    def start(self, connection: Connection, leg: Callable[[Connection], T]) -> Callable[[], T]:
        """Start a leg; returns what waits for its result.

        Args:
            connection: the caller's, in the question's transaction; the first caller's is that of the question.
            leg: gets a connection.
        """
        here = partial(leg, connection)
        if self._pool is None or self._threads is None:
            return here
        try:
            other = self._pool.getconn(timeout=_PATIENCE)
        except PoolTimeout:
            return here  # the pool opens one more meanwhile, for a later question
        try:
            if self._snapshot is None:
                [(self._snapshot,)] = connection.execute("SELECT pg_catalog.pg_export_snapshot()").fetchall()
            running = self._threads.submit(self._run, self._pool, other, leg)
        except BaseException:
            self._pool.putconn(other)
            raise
        self._running.append(running)

        def result() -> T:
            try:
                return running.result()
            except psycopg.errors.QueryCanceled:
                raise
            except psycopg.OperationalError:  # that connection was lost
                return here()

        return result

    def wait(self) -> None:
        """Wait until no leg runs; each is bounded by the time limit of its statements."""
        wait(self._running)

    def _run(self, pool: Pool, other: Connection, leg: Callable[[Connection], T]) -> T:
        assert self._snapshot is not None
        try:
            with other.transaction():
                self._begin(other, self._snapshot)
                return leg(other)
        finally:
            pool.putconn(other)


@contextlib.contextmanager
def waited_for(legs: Legs) -> Iterator[Legs]:
    """End the block when no leg runs any more: the snapshot lasts as long as the question's transaction."""
    try:
        yield legs
    finally:
        legs.wait()
