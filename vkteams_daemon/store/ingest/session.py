"""One connection that holds a bot's lock. It is opened when needed, has a time limit, and any thread can end it.

The server ends the session of a holder that is stopped or cut off, and the lock is released with it. Any exception here
closes the connection as well: a new connection costs a few milliseconds, and an old one may be in an unknown state.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import datetime

import psycopg

from vkteams_daemon.errors import DatabaseSlow, DatabaseUnavailable
from vkteams_daemon.store.blockers import PATIENCE, SilentSessions
from vkteams_daemon.store.connection_profiles import WRITER
from vkteams_daemon.store.connections import Connection, abort, login_role, translate_errors
from vkteams_daemon.store.derive import message_rows
from vkteams_daemon.system.deadlines import DEADLINES

_LOCK_KEY = "pg_catalog.hashtextextended('vkteams bot ' || current_schema()::text || ' ' || %(bot)s::text, 0::bigint)"


class Session:
    """The connection. One thread works with it at a time; any thread may call `ping` and `abort`.

    Args:
        connect: opens a connection for this session alone, in autocommit mode; the session applies its own profile.
        limit: seconds after which an operation is aborted with DatabaseSlow.
        patience: seconds after which a silent holder of the bot's lock is ended.
    """

    def __init__(self, connect: Callable[[], Connection], limit: float, patience: float = PATIENCE) -> None:
        self._connect = connect
        self._limit = limit
        self._connection: Connection | None = None
        self._busy = threading.Lock()
        # The server's processes, by number and beginning: of the connection, and of those that may have got the lock.
        self._process: tuple[int, datetime | None] = (0, None)
        self._earlier: set[tuple[int, datetime | None]] = set()
        # Every writer gives up a statement at its own limit, which is hardly more than twice ours.
        self._holders = SilentSessions(patience, 2 * limit + patience)

    @property
    def blocked_by(self) -> str:
        """The sessions that hold the bot's lock and are not ours; "" if there are none."""
        return self._holders.foreign

    @property
    def holder_is_alive(self) -> bool:
        """Whether the holder of the bot's lock has shown a sign of life since the first attempt to take the lock."""
        return self._holders.alive

    @property
    def open(self) -> bool:
        """Whether the connection is open, as far as this side knows."""
        connection = self._connection
        return connection is not None and not connection.closed

    @contextlib.contextmanager
    def exclusive(self, *, reconnect: bool = True) -> Iterator[Connection]:
        """The connection, for the calling thread alone. Any exception closes it.

        Args:
            reconnect: open a new connection if there is none.

        Raises:
            DatabaseUnavailable: there is no connection, and `reconnect` is False.
            DatabaseSlow: the time limit has passed.
            StoreError: any other error of the driver.
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

    def try_lock(self, connection: Connection, bot_id: str) -> bool:
        """Try to take the bot's lock; the session keeps it. If it is taken, a silent holder is ended.

        So is an earlier session of this process: its connection is lost, and the server has not noticed.

        Raises:
            DatabaseUnavailable: the holder was told to end and does not.
        """
        bot = {"bot": bot_id}
        self._earlier.add(self._process)  # the answer to the next statement may be lost
        while True:
            row = connection.execute(f"SELECT pg_catalog.pg_try_advisory_lock({_LOCK_KEY})".encode(), bot).fetchone()
            if row and row[0]:
                self._holders.forget()
                self._earlier = {self._process}
                return True
            self._earlier.discard(self._process)
            if self._holders.end_holders(connection, _LOCK_KEY, bot, self._earlier):
                continue
            if self._holders.hung:
                raise DatabaseUnavailable(
                    f"the lock of bot {bot_id} is held by {self._holders.hung}, which was told to end and does not",
                    hint="If it stays, that process of PostgreSQL hangs: look at its disk, or restart the server.",
                )
            return False

    def ping(self) -> None:
        """Keep the session alive; does nothing while another thread uses the connection.

        Raises:
            DatabaseUnavailable: the connection is gone, and the lock with it.
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
        """Abort the connection's current operation; the thread that waits for it gets DatabaseUnavailable."""
        if connection := self._connection:
            abort(connection)

    def close(self) -> None:
        """Close the connection; the server then releases the lock."""
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
        # Assign it before the first statement, so that `abort` can end that statement too.
        self._connection = self._connect()
        WRITER.apply(self._connection)
        self._process = _server_process(self._connection)
        message_rows.prepare_connection(self._connection)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _server_process(connection: Connection) -> tuple[int, datetime | None]:
    """The number and the beginning of the server's process; a pooler may have told another number."""
    with login_role(connection):
        row = connection.execute(
            "SELECT pid, backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()"
        ).fetchone()
    return (row[0], row[1]) if row else (0, None)
