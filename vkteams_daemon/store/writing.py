"""The writer: one poll's batch becomes one transaction that holds its events, what they say, and the cursor.

The writer owns one direct connection. It holds the bot's session advisory lock, so that one process listens to one bot,
and the bot's epoch, raised at each take-over, so that a holder that wakes up late cannot commit. Only `cursor` after a
successful `store` or `acquire` may be sent to the API as lastEventId.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import psycopg

from vkteams_daemon.botapi.events import Event, hashed_id
from vkteams_daemon.botapi.facts import Facts
from vkteams_daemon.errors import DatabaseUnavailable, FenceLost
from vkteams_daemon.store import derived, halving
from vkteams_daemon.store.database import Connection, translated
from vkteams_daemon.store.rows import COPY_FROM, Rows

EVENTS = Rows("events", (
    ("bot_id", "text"), ("generation", "int4"), ("event_id", "int8"), ("type", "text"), ("chat_id", "text"),
    ("user_id", "text"), ("subject", "text"), ("occurred_at", "timestamptz"), ("received_at", "timestamptz"),
    ("event", "text"), ("raw", "bytea"), ("error", "text"),
))  # fmt: skip

_INSERT_EVENTS = (
    "INSERT INTO events (bot_id, generation, event_id, type, chat_id, user_id, subject, occurred_at, received_at,"
    " payload, raw, error)"
    " SELECT bot_id, generation, event_id, type, chat_id, user_id, subject, occurred_at, received_at,"
    " event::jsonb -> 'payload', raw, error FROM {incoming}"
)
# The server drops a holder that was stopped or cut off: its session ends, and with it the lock. Folding reads a row
# and writes it back under a lock taken before, so every statement must see what was committed before it. Only a few
# rows by their keys are ever joined: the temporary tables have no statistics, and a guess must not scan the archive.
_SESSION = (
    "SET synchronous_commit = on; SET default_transaction_isolation = 'read committed'; SET statement_timeout = 0;"
    " SET idle_session_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s';"
    " SET client_connection_check_interval = '2s'; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2;"
    " SET tcp_keepalives_count = 3; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off"
)
_LOCK_KEY = "hashtextextended('vkteams bot ' || current_schema() || ' ' || %(bot)s, 0)"
# No timeout of the server ends a session that waits in mid-statement for a client that was stopped.
_END_DEAF_HOLDER = (
    "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database()"
    f" AND (l.classid::bigint << 32 | l.objid::bigint) = {_LOCK_KEY} AND a.usename = current_user"
    " AND a.state = 'active' AND a.wait_event_type = 'Client'"
    " AND a.query_start < clock_timestamp() - make_interval(secs => %(patience)s)"
)
_STORED = (
    "SELECT event_id, type, chat_id, subject, error IS NOT NULL, CASE WHEN error IS NOT NULL THEN raw END FROM events"
    " WHERE bot_id = %s AND generation = %s AND event_id = ANY(%s)"
)


Keyed = tuple[int, Event]  # an event and its generation


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a bot stands: what is at or below `last_event_id` of this generation is stored."""

    generation: int
    last_event_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one batch; `queued` is how many messages have a new text to embed."""

    saved: int = 0
    duplicate: int = 0
    filtered: int = 0
    quarantined: int = 0
    late: int = 0
    queued: int = 0
    moved: bool = False
    restarted: bool = False


class Writer:
    """Writes one bot's events. `store`, `acquire` and `close` belong to one thread; `ping` and `abort` to any.

    Args:
        connect: opens the writer's own connection.
        bot_id: whose events these are.
        nick: the bot's nick, for the `bots` table.
        chat_ids: keep only these chats and their threads; empty keeps everything.
        write_timeout: seconds after which a stuck transaction is abandoned.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        bot_id: str,
        *,
        nick: str | None = None,
        chat_ids: Sequence[str] = (),
        write_timeout: float = 30.0,
    ) -> None:
        self._connect = connect
        self._bot_id = bot_id
        self._nick = nick
        self._chat_ids = frozenset(chat_ids)
        self._threads: set[str] = set()
        self._highest = 0
        self._write_timeout = write_timeout
        self._connection: Connection | None = None
        self._busy = threading.Lock()
        self.cursor: Cursor | None = None
        self.erase = False

    @property
    def holds(self) -> bool:
        """Whether the last that is known of the connection is that it holds the bot's lock."""
        connection = self._connection
        return self.cursor is not None and connection is not None and not connection.closed

    def acquire(self) -> bool:
        """Connect where needed, try to take the bot's lock, raise the epoch and read the cursor.

        Returns:
            False while another process listens to this bot.
        """
        with self._exclusive() as connection:
            bot = {"bot": self._bot_id, "patience": self._write_timeout}
            row = connection.execute(f"SELECT pg_try_advisory_lock({_LOCK_KEY})".encode(), bot).fetchone()
            if not row or not row[0]:
                self.cursor = None
                connection.execute(_END_DEAF_HOLDER.encode(), bot)
                return False
            with connection.transaction():
                taken = connection.execute(
                    "INSERT INTO bots AS b (bot_id, nick, epoch) VALUES (%s, %s, 1) ON CONFLICT (bot_id) DO UPDATE"
                    " SET epoch = b.epoch + 1, nick = coalesce(excluded.nick, b.nick), updated_at = now()"
                    " RETURNING generation, last_event_id, epoch",
                    (self._bot_id, self._nick),
                ).fetchone()
            assert taken is not None
            cursor = Cursor(*taken)
            self._threads = self._known_threads(connection)
            # A cursor that was set back by hand has stored events above it.
            self._highest = max(cursor.last_event_id, self._highest_stored(connection, cursor.generation))
            self.cursor = cursor
            return True

    def store(self, events: Sequence[Event]) -> Stored:
        """Commit one batch and the cursor that covers it, in one transaction.

        Raises:
            FenceLost: another holder has moved the cursor or raised the epoch; nothing was committed.
            DatabaseUnavailable: the connection broke; whether it committed is unknown until `acquire` reads the cursor.
            StoreError: the database refuses for a reason that does not lie in the events; nothing was committed.
        """
        if self.cursor is None:
            raise FenceLost("the bot's lock is not held")
        before = self.cursor
        with self._exclusive(fresh=False) as connection:
            try:
                after, outcome = self._commit(connection, events, before, self._insert)
            except psycopg.Error as error:
                if not halving.is_refusal(error):
                    raise
                # Now with savepoints: they cost something, and the server refuses data once in a blue moon.
                after, outcome = self._commit(connection, events, before, self._insert_healthy)
            self._highest = after.last_event_id if outcome.restarted else max(self._highest, after.last_event_id)
            self.cursor = after
            return outcome

    def ping(self) -> None:
        """Keep the session alive; a no-op while a transaction is under way.

        Raises:
            DatabaseUnavailable: the connection is gone, and with it the lock.
        """
        if not self._busy.acquire(blocking=False):
            return
        try:
            connection = self._connection
            if connection is not None:
                with translated(), self._limited():
                    connection.execute("SELECT 1")
        except Exception:
            self._drop()
            raise
        finally:
            self._busy.release()

    def abort(self) -> None:
        """End whatever the connection waits for, from any thread; its caller gets DatabaseUnavailable."""
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
    def _exclusive(self, *, fresh: bool = True) -> Any:
        with self._busy:
            try:
                with translated(), self._limited():
                    if self._connection is None or self._connection.closed:
                        if not fresh:
                            raise DatabaseUnavailable("the writer's connection is closed")
                        self._open()
                    yield self._connection
            except Exception:
                # Whatever failed, the next attempt starts from a connection that is known to be good: a session that
                # is left in an unknown state is worth less than the few milliseconds of a new one.
                self._drop()
                raise

    @contextlib.contextmanager
    def _limited(self) -> Any:
        timer = threading.Timer(self._write_timeout, self.abort)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _open(self) -> None:
        # Kept before it is used: `abort` must be able to end whatever this waits for.
        self._connection = self._connect()
        self._connection.execute(_SESSION)
        self._connection.execute(derived.temporary_tables([EVENTS]).encode())

    def _drop(self) -> None:
        self.cursor = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _known_threads(self, connection: Connection) -> set[str]:
        if not self._chat_ids:
            return set()
        rows = connection.execute(
            "SELECT chat_id FROM chats WHERE parent_chat_id = ANY(%s)", (list(self._chat_ids),)
        ).fetchall()
        return {row[0] for row in rows}

    def _wanted(self, event: Event) -> bool:
        """Whether the filter keeps it: no filter, no chat to go by, a named chat, or a thread of one."""
        if not self._chat_ids or event.chat_id is None:
            return True
        for chat in event.facts.chats:
            if chat.parent_chat_id in self._chat_ids:
                self._threads.add(chat.chat_id)
        return event.chat_id in self._chat_ids or event.chat_id in self._threads

    def _highest_stored(self, connection: Connection, generation: int) -> int:
        row = connection.execute(
            "SELECT max(event_id) FROM events WHERE bot_id = %s AND generation = %s", (self._bot_id, generation)
        ).fetchone()
        return row[0] or 0 if row else 0

    def _commit(
        self,
        connection: Connection,
        events: Sequence[Event],
        before: Cursor,
        insert: Callable[[Connection, list[Keyed]], tuple[int, int]],
    ) -> tuple[Cursor, Stored]:
        """One transaction; `insert` writes events and returns how many were quarantined and how many texts are new."""
        kept = [event for event in events if self._wanted(event)]
        with connection.transaction():
            self._fence(connection, before)
            new, restarted = self._sort_out(connection, kept, before)
            generation = before.generation + restarted
            # In the order of their ids, however the API has arranged them: replay goes by it too.
            batch = [(generation, event) for event in sorted(new, key=lambda event: event.event_id)]
            bad, queued = insert(connection, batch) if batch else (0, 0)
            passed = [event.event_id for event in (new if restarted else events) if event.numbered]
            after = _advanced(before, passed, restarted)
            if after != before:
                self._move(connection, before, after)
        late = 0 if restarted else sum(event.numbered and event.event_id <= before.last_event_id for event in new)
        return after, Stored(
            saved=len(new),
            duplicate=len(kept) - len(new),
            filtered=len(events) - len(kept),
            quarantined=bad,
            late=late,
            queued=queued,
            moved=after != before,
            restarted=restarted,
        )

    def _sort_out(self, connection: Connection, events: list[Event], before: Cursor) -> tuple[list[Event], bool]:
        """The events that are not stored yet, and whether their ids have started over."""
        distinct = _distinct(events)
        known = self._stored(connection, before, [e.event_id for e in distinct if e.event_id <= self._highest])
        new = [event for event in distinct if event.event_id not in known]
        others = [e for e in distinct if e.event_id in known and e.numbered and not known[e.event_id].is_of(e)]
        if not others:
            return new, False
        # It may have shared its id with another event when it came first, and have been given a key of its own.
        keys = {_own_key(event): event for event in others}
        for key in self._stored(connection, before, list(keys)):
            others.remove(keys[key])
        return new + others, bool(others)

    def _stored(self, connection: Connection, before: Cursor, ids: list[int]) -> dict[int, _Known]:
        """What is stored under these ids. Above the highest that was ever stored nothing is: the fence sees to that."""
        if not ids:
            return {}
        rows = connection.execute(_STORED.encode(), (self._bot_id, before.generation, ids)).fetchall()
        return {row[0]: _Known(tuple(row[1:4]), *row[4:]) for row in rows}

    def _insert(self, connection: Connection, batch: list[Keyed]) -> tuple[int, int]:
        copy = len(batch) >= COPY_FROM
        rows = [(self._bot_id, *_event_row(generation, event)) for generation, event in batch]
        facts = [(event.facts, event.received_at) for _, event in batch if event.error is None]
        # Few round trips for a small batch; a pipeline does not take COPY.
        with contextlib.nullcontext() if copy else connection.pipeline():
            EVENTS.run(connection, _INSERT_EVENTS, rows, copy)
            queued = derived.write(connection, facts, erase=self.erase, copy=copy)
        return sum(event.error is not None for _, event in batch), queued

    def _insert_healthy(self, connection: Connection, batch: list[Keyed]) -> tuple[int, int]:
        """Insert a batch of which the database refuses something; what it refuses is quarantined."""

        def quarantine(item: Keyed, reason: str) -> tuple[int, int]:
            return self._insert(connection, [(item[0], _quarantined(item[1], reason))])

        written = halving.write(connection, batch, lambda part: self._insert(connection, list(part)), quarantine)
        return sum(bad for bad, _ in written), sum(queued for _, queued in written)

    def _fence(self, connection: Connection, before: Cursor) -> None:
        row = connection.execute(
            "SELECT generation, last_event_id, epoch FROM bots WHERE bot_id = %s FOR UPDATE", (self._bot_id,)
        ).fetchone()
        if row is None or Cursor(*row) != before:
            raise FenceLost("another process has taken over this bot")

    def _move(self, connection: Connection, before: Cursor, after: Cursor) -> None:
        moved = connection.execute(
            "UPDATE bots SET generation = %s, last_event_id = %s, updated_at = now()"
            " WHERE bot_id = %s AND generation = %s AND last_event_id = %s AND epoch = %s",
            (after.generation, after.last_event_id, self._bot_id, *astuple(before)),
        )
        if moved.rowcount != 1:
            raise FenceLost("another process has taken over this bot")


@dataclass(frozen=True, slots=True)
class _Known:
    """What tells a stored event from another under its id; `raw` of a quarantined one, where it was not erased."""

    identity: tuple[str | None, str | None, str | None]
    quarantined: bool
    raw: bytes | None

    def is_of(self, event: Event) -> bool:
        # Of a quarantined event only its bytes are certain: another version of this program may read more of it.
        if self.quarantined and self.raw is not None:
            return self.raw == _source(event)
        return self.identity == _identity(event)


def _advanced(before: Cursor, passed: list[int], restarted: bool) -> Cursor:
    if restarted:
        return Cursor(before.generation + 1, max(passed, default=0), before.epoch)
    return replace(before, last_event_id=max([before.last_event_id, *passed]))


def _distinct(events: Sequence[Event]) -> list[Event]:
    """Without an event's repetitions in its own batch; a second event under a used id gets a key of its own."""
    kept: dict[int, Event] = {}
    for event in events:
        first = kept.setdefault(event.event_id, event)
        if first is not event and not _same(first, event):
            kept.setdefault(_own_key(event), replace(event, event_id=_own_key(event)))
    return list(kept.values())


def _same(one: Event, other: Event) -> bool:
    if one.error or other.error:
        return _source(one) == _source(other)
    return _identity(one) == _identity(other)


def _own_key(event: Event) -> int:
    return hashed_id(_source(event))


def _source(event: Event) -> bytes:
    return event.raw or event.json.encode()


def _identity(event: Event) -> tuple[str | None, str | None, str | None]:
    return event.type, event.chat_id, event.subject


def _quarantined(event: Event, reason: str) -> Event:
    """The event as bytes, without what the database may have refused of it."""
    return replace(event, json="", facts=Facts(), raw=_source(event), error=reason)


def _event_row(generation: int, event: Event) -> tuple[Any, ...]:
    return (
        generation, event.event_id, event.type, event.chat_id, event.user_id, event.subject, event.occurred_at,
        event.received_at, event.json or None, event.raw, event.error,
    )  # fmt: skip
