"""One connection that holds a bot's lock: opened when needed, watched by a time limit, ended from any thread.

The server ends the session of a holder that was stopped or cut off, and with it the lock; whatever fails here ends it
as well. What a session is known to do is worth more than the few milliseconds that a new one costs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator

import psycopg

from vkteams_daemon.errors import DatabaseSlow, DatabaseUnavailable
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import projection
from vkteams_daemon.system.deadlines import DEADLINES

_SETTINGS = (
    "SET synchronous_commit = on; SET statement_timeout = 0;"
    " SET idle_session_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s';"
    " SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;"
    # Whoever waits for a lock must notice that its client has gone; some systems cannot tell, and refuse the setting.
    " DO $$ BEGIN SET client_connection_check_interval = '2s'; EXCEPTION WHEN data_exception THEN NULL; END $$"
)
_KEY = "hashtextextended('vkteams bot ' || current_schema() || ' ' || %(bot)s, 0)"
# No timeout of the server ends a session that waits in mid-statement for a client that was stopped.
_END_DEAF_HOLDER = (
    "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database()"
    f" AND (l.classid::bigint << 32 | l.objid::bigint) = {_KEY} AND a.usename = current_user"
    " AND a.state = 'active' AND a.wait_event_type = 'Client'"
    " AND a.query_start < clock_timestamp() - make_interval(secs => %(patience)s)"
)


class Session:
    """The connection. One thread works with it at a time; `ping` and `abort` belong to any.

    Args:
        connect: opens a connection of its own.
        limit: seconds after which whatever the connection waits for is abandoned, with DatabaseSlow.
    """

    def __init__(self, connect: Callable[[], Connection], limit: float) -> None:
        self._connect = connect
        self._limit = limit
        self._connection: Connection | None = None
        self._busy = threading.Lock()

    @property
    def open(self) -> bool:
        """Whether the last that is known of the connection is that it stands."""
        connection = self._connection
        return connection is not None and not connection.closed

    @contextlib.contextmanager
    def exclusive(self, *, reconnect: bool = True) -> Iterator[Connection]:
        """The connection, for this thread alone; any exception ends it. The driver's errors come out as ours.

        Raises:
            DatabaseUnavailable: there is none, and without `reconnect` none is opened.
        """
        with self._busy:
            try:
                with translate_errors(), self._limited():
                    if not self.open:
                        if not reconnect:
                            raise DatabaseUnavailable("the writer's connection is closed")
                        self._open()
                    assert self._connection is not None
                    yield self._connection
            except Exception:
                self._drop()
                raise

    def lock(self, connection: Connection, bot_id: str) -> bool:
        """Try to take the bot's lock, which the session then keeps; ends a holder that has turned deaf."""
        bot = {"bot": bot_id, "patience": self._limit}
        row = connection.execute(f"SELECT pg_try_advisory_lock({_KEY})".encode(), bot).fetchone()
        if row and row[0]:
            return True
        connection.execute(_END_DEAF_HOLDER.encode(), bot)
        return False

    def ping(self) -> None:
        """Keep the session alive; a no-op while the connection is at work.

        Raises:
            DatabaseUnavailable: the connection is gone, and with it the lock.
        """
        if not self._busy.acquire(blocking=False):
            return
        try:
            if self._connection is not None:
                with translate_errors(), self._limited():
                    self._connection.execute("SELECT 1")
        except Exception:
            self._drop()
            raise
        finally:
            self._busy.release()

    def abort(self) -> None:
        """End whatever the connection waits for; who waits gets DatabaseUnavailable."""
        connection = self._connection
        if connection is None or connection.closed:
            return
        with (
            contextlib.suppress(OSError, psycopg.Error),
            socket.socket(fileno=os.dup(connection.fileno())) as wire,
        ):
            wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the lock goes with it."""
        with self._busy:
            self._drop()

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self.abort()

        try:
            with DEADLINES.limit(self._limit, end):
                yield
        except psycopg.Error as error:
            if not late.is_set():
                raise
            raise DatabaseSlow(
                f"the database has not finished within {self._limit:g} seconds (write_timeout)"
            ) from error

    def _open(self) -> None:
        # Kept before it is used: `abort` must be able to end whatever this waits for.
        self._connection = self._connect()
        self._connection.execute(_SETTINGS)
        projection.prepare_connection(self._connection)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
