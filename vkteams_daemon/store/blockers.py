"""Finds who holds a lock that a session waits for, and ends those of our own sessions whose client has fallen silent.

A process that is stopped (SIGSTOP, a suspended machine) or cut off keeps its session and its locks. The server's idle
timers are not armed in the middle of a COPY, nor after every pipeline. So a process that waits for a lock looks itself.

`SilentSessions` looks once and remembers what it saw. `LockWatch` is the thread that looks, over a connection of its
own, while a statement of this process takes long.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store import distribution
from vkteams_daemon.store.bundled.cluster import READER
from vkteams_daemon.store.connections import Connection, abort, login_role, translate_errors
from vkteams_daemon.system.deadlines import DEADLINES

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds; the default of [database] patience
_END_WAIT = 1000  # milliseconds that the server may need to end a session
_STATEMENT_TIMEOUT = "5s"
LOOK_LIMIT = 10.0  # seconds after which the server does not answer a look

_CHAIN = (
    "WITH RECURSIVE {edges}chain (pid) AS ({seeds} UNION"
    " SELECT b.pid FROM chain CROSS JOIN LATERAL"
    " (SELECT pg_catalog.unnest(pg_catalog.pg_blocking_pids(chain.pid)){more}) AS b (pid))"
    " SELECT chain.pid, a.backend_start, coalesce(a.usename::text, ''), coalesce(a.application_name, ''),"
    " pg_catalog.host(a.client_addr), coalesce(a.state = 'active', false), a.state_change, p.bytes_processed,"
    " coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::float8,"
    " coalesce(a.wait_event_type = 'Client', false), coalesce(a.wait_event_type = 'Lock', false),"
    " coalesce(a.usename = %(reader)s OR (a.usename = session_user AND a.application_name LIKE 'vkteams%%'), false),"
    " coalesce(a.usename = %(reader)s, false) AND EXISTS"
    " (SELECT FROM pg_catalog.pg_locks l WHERE l.pid = chain.pid AND l.locktype = 'advisory' AND l.granted)"
    " FROM chain LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = chain.pid"
    " LEFT JOIN pg_catalog.pg_stat_progress_copy p ON p.pid = chain.pid WHERE chain.pid <> ALL(%(waiting)s::int[])"
)
# A session of the coordinator may wait for another one on a worker. Citus puts the machine before the process number.
_EDGES = (
    "edges (waiting, blocking) AS MATERIALIZED (SELECT (w.waiting_gpid %% 10000000000::bigint)::int4,"
    " (w.blocking_gpid %% 10000000000::bigint)::int4 FROM pg_catalog.citus_lock_waits w"
    " WHERE w.waiting_nodeid = pg_catalog.citus_coordinator_nodeid()"
    " AND w.blocking_nodeid = pg_catalog.citus_coordinator_nodeid()), "
)
_MORE = " UNION ALL SELECT edges.blocking FROM edges WHERE edges.waiting = chain.pid"
_OF_WAITING = "SELECT pg_catalog.unnest(%(waiting)s::int[])"
# A session that only tries to get an advisory lock does not wait, so nobody blocks it.
_OF_ADVISORY = (
    "SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
    " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())"
    " AND (l.classid::bigint << 32 | l.objid::bigint) = "
)
# A transaction that has locked rows of a table holds this lock of the table as well.
_OF_ROW_LOCKS = (
    "SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.granted"
    " AND l.mode = 'RowShareLock' AND l.pid <> pg_catalog.pg_backend_pid()"
    " AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())"
    " AND l.relation = pg_catalog.to_regclass(%(table)s::text)"
)
# Between two statements the process number may have passed to another session, and a client may have spoken again.
_END = (
    "SELECT pg_catalog.pg_terminate_backend(a.pid, %s) FROM pg_catalog.pg_stat_activity a"
    " WHERE a.pid = %s AND a.backend_start = %s AND a.state_change IS NOT DISTINCT FROM %s"
)


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that holds a lock which another one waits for.

    Attributes:
        started: when the session began; None for a prepared transaction.
        active: whether the server is executing a statement; during a COPY it may wait for its client in one.
        changed_at: when the state last changed.
        copied: bytes that a COPY has taken so far.
        silent_for: seconds since the state last changed.
        waits_for_client: whether the server waits until the client says something, or takes something.
        waits_for_lock: whether it waits for a lock itself.
        ours: whether it is a session of this product.
        misused: whether it holds an advisory lock that its role never needs.
    """

    pid: int
    started: datetime | None
    role: str
    application: str
    address: str | None
    active: bool
    changed_at: datetime | None
    copied: int | None
    silent_for: float
    waits_for_client: bool
    waits_for_lock: bool
    ours: bool
    misused: bool

    def __str__(self) -> str:
        if self.started is None:
            return "a prepared transaction" if not self.pid else f"server process {self.pid}"
        where = f" on {self.address}" if self.address else ""
        return f"{self.application or 'a session'} of role {self.role}{where} (server process {self.pid})"


class SilentSessions:
    """Ends the blockers that are ours and silent. It remembers what it saw, so use one object for one wait.

    Args:
        patience: seconds. A blocker whose client has been silent for longer is ended.
        statement_limit: seconds. A blocker that has worked on one statement for longer is ended too: its client has
            given it up long ago.

    Attributes:
        foreign: the blockers that are not ours and have blocked for longer than the patience; "" if there are none.
        hung: the blockers of ours that were told to end and do not, because the server's process hangs; "" if there
            are none.
        alive: whether the client of a blocker has spoken since it was first seen.
    """

    def __init__(self, patience: float = PATIENCE, statement_limit: float = math.inf) -> None:
        self.patience = patience
        self.foreign = self.hung = ""
        self.alive = False
        self._statement_limit = statement_limit
        # What each session looked like, and since when, by the monotonic clock.
        self._seen: dict[tuple[int, datetime | None], tuple[tuple[Any, ...], float]] = {}
        self._blocks_since: dict[tuple[int, datetime | None], float] = {}
        self._ended_at: dict[tuple[int, datetime | None], float] = {}

    def end_blockers(self, connection: Connection, waiting: Sequence[int]) -> bool:
        """End the silent sessions that block these server processes; returns whether it ended one.

        Args:
            connection: in autocommit mode, and not one of the waiting ones.
            waiting: process numbers of the server. They may wait for a lock.
        """
        return self._end(connection, _OF_WAITING, {"waiting": list(waiting)})

    def end_holders(
        self,
        connection: Connection,
        key: str,
        parameters: Mapping[str, Any],
        abandoned: Collection[tuple[int, datetime | None]] = (),
    ) -> bool:
        """End the silent holders of an advisory lock, and who blocks them; returns whether it ended one.

        Args:
            connection: in autocommit mode.
            key: the SQL expression of the lock's key.
            parameters: of the expression.
            abandoned: process numbers and beginnings of sessions that this process has given up. They are ended at
                once, because nobody can speak for them any more.
        """
        return self._end(connection, _OF_ADVISORY + key, {"waiting": [], **parameters}, abandoned)

    def end_row_lockers(self, connection: Connection, table: str) -> bool:
        """End the silent sessions that have locked rows of a table; returns whether it ended one.

        Nobody waits for rows that are skipped while they are locked. So `end_blockers` does not find who keeps them.

        Args:
            connection: in autocommit mode.
            table: its name, as the search_path finds it.
        """
        return self._end(connection, _OF_ROW_LOCKS, {"waiting": [], "table": table})

    def forget(self) -> None:
        """Forget what was seen, because nobody waits any more."""
        self._seen.clear()
        self._blocks_since.clear()
        self._ended_at.clear()
        self.alive = False
        self._name_foreign([])
        self._name_hung([])

    def _end(
        self,
        connection: Connection,
        seeds: str,
        parameters: dict[str, Any],
        abandoned: Collection[tuple[int, datetime | None]] = (),
    ) -> bool:
        with login_role(connection):
            rows = _find(connection, seeds, {**parameters, "reader": READER})
        now = time.monotonic()
        seen, self._seen = self._seen, {}
        since, self._blocks_since = self._blocks_since, {}
        ended_at, self._ended_at = self._ended_at, {}
        foreign, hung, ended = [], [], False
        for blocker in (Blocker(*row) for row in rows):
            key = (blocker.pid, blocker.started)
            look = (blocker.changed_at, blocker.copied, blocker.waits_for_client)
            before = seen.get(key)
            self.alive = self.alive or (before is not None and before[0] != look)
            self._seen[key] = before if before and before[0] == look else (look, now)
            # In the middle of a statement, `silent_for` counts from its beginning. Then only what was seen counts.
            silent_for = now - self._seen[key][1] if blocker.active else blocker.silent_for
            given_up = key in abandoned or (blocker.active and silent_for >= self._statement_limit)
            if blocker.waits_for_lock and not given_up:
                continue
            self._blocks_since[key] = since.get(key, now)
            blocks_for = now - self._blocks_since[key]
            silent = blocker.waits_for_client and silent_for >= self.patience
            misused = blocker.misused and blocks_for >= self.patience
            if blocker.ours and (silent or misused or given_up):
                gone = self._terminate(connection, blocker)
                ended = ended or gone is True
                if gone is False:
                    self._ended_at[key] = ended_at.get(key, now)
                    if key in abandoned or now - self._ended_at[key] >= self.patience:
                        hung.append(blocker)
            elif not blocker.ours and blocks_for >= self.patience:
                foreign.append(blocker)
        self._name_foreign(foreign)
        self._name_hung(hung)
        return ended

    def _terminate(self, connection: Connection, blocker: Blocker) -> bool | None:
        """End a session; returns whether it is gone, or None if it has changed meanwhile and was left alone."""
        try:
            with login_role(connection):
                row = connection.execute(
                    _END.encode(), (_END_WAIT, blocker.pid, blocker.started, blocker.changed_at), prepare=False
                ).fetchone()
        except psycopg.errors.InsufficientPrivilege:
            log.debug("this role may not end %s", blocker)
            return None
        if row and row[0]:
            log.warning("ended the session of %s: it held a lock, and its client had fallen silent", blocker)
        return bool(row[0]) if row else None

    def _name_hung(self, blockers: Sequence[Blocker]) -> None:
        hung = ", ".join(sorted(map(str, blockers)))
        if hung and hung != self.hung:
            log.warning("a lock is held by %s, which was told to end and does not", hung)
        elif self.hung and not hung:
            log.info("%s has ended", self.hung)
        self.hung = hung

    def _name_foreign(self, blockers: Sequence[Blocker]) -> None:
        foreign = ", ".join(sorted(map(str, blockers)))
        if foreign == self.foreign:
            return
        if foreign:
            log.warning("a lock is held by %s, which is not ours to end", foreign)
        else:
            log.info("the lock that %s held is free", self.foreign)
        self.foreign = foreign


class LockWatch:
    """A thread that ends silent blockers of this process's connections. It is idle while no statement takes long.

    Args:
        connect: opens a connection. Its time limit must be short.
        patience: seconds, see `SilentSessions`.
    """

    def __init__(self, connect: Callable[[], Connection], patience: float = PATIENCE) -> None:
        self._connect = connect
        self._interval = min(1.0, patience / 4)
        self._sessions = SilentSessions(patience)
        self._watched: weakref.WeakKeyDictionary[Connection, int] = weakref.WeakKeyDictionary()
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def foreign(self) -> str:
        """The sessions that block this process and are not ours, or do not end; "" if there are none."""
        return ", ".join(filter(None, (self._sessions.foreign, self._sessions.hung)))

    def start(self) -> None:
        """Start the thread, unless it runs."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="locks", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread. It may take a moment longer while the server does not answer it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)
            self._thread = None

    def add(self, connection: Connection) -> None:
        """Watch a connection until it is closed."""
        with self._mutex:
            self._watched[connection] = connection.info.backend_pid

    def _run(self) -> None:
        own: Connection | None = None
        busy: set[int] = set()
        while not self._stop.wait(self._interval):
            before, busy = busy, self._busy()
            waiting = sorted(busy & before)
            try:
                if waiting:
                    with translate_errors():
                        own = own or self._open()
                        # The server's process of this connection may hang as well; then look over another one.
                        with DEADLINES.limit(LOOK_LIMIT, functools.partial(abort, own)):
                            self._sessions.end_blockers(own, waiting)
                    continue
            except VkTeamsError as error:
                log.debug("cannot look for the holders of locks: %s", error)
            except Exception:  # the thread must go on, whatever a server of another version answers
                log.exception("cannot look for the holders of locks")
            else:
                self._sessions.forget()
            _close(own)
            own = None
        _close(own)

    def _busy(self) -> set[int]:
        """The server processes that execute a statement of this process now."""
        active = psycopg.pq.TransactionStatus.ACTIVE
        with self._mutex:
            watched = list(self._watched.items())
        return {pid for connection, pid in watched if connection.info.transaction_status == active}

    def _open(self) -> Connection:
        connection = self._connect()
        connection.execute(f"SET statement_timeout = '{_STATEMENT_TIMEOUT}'".encode())
        return connection


def _find(connection: Connection, seeds: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The sessions that the statement `seeds` finds, and those that block them, as rows of `Blocker`."""
    if distribution.is_distributed(connection):
        query = _CHAIN.format(seeds=seeds, edges=_EDGES, more=_MORE)
        try:
            return connection.execute(query.encode(), parameters, prepare=False).fetchall()
        except psycopg.Error as error:
            if connection.closed:
                raise
            log.debug("a machine of the cluster does not tell who waits there: %s", error)
    query = _CHAIN.format(seeds=seeds, edges="", more="")
    return connection.execute(query.encode(), parameters, prepare=False).fetchall()


def _close(connection: Connection | None) -> None:
    if connection is not None:
        with contextlib.suppress(psycopg.Error):
            connection.close()
