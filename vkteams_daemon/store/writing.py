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
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from vkteams_daemon.botapi.events import Event, hashed_id
from vkteams_daemon.botapi.facts import Facts
from vkteams_daemon.errors import DatabaseUnavailable, FenceLost
from vkteams_daemon.store import derived
from vkteams_daemon.store.database import Connection, first_line, translated
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
# The server drops a holder that was stopped or cut off: its session ends, and with it the lock.
_SESSION = (
    "SET synchronous_commit = on; SET idle_session_timeout = '10s'; SET idle_in_transaction_session_timeout = '10s';"
    " SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3"
)
_LOCK_KEY = "hashtextextended('vkteams bot ' || current_schema() || ' ' || %s, 0)"
# Data that the server refuses for what it is: 22 data exception, 23 constraint, 54 program limit exceeded.
_CULPRIT_CLASSES = ("22", "23", "54")


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a bot stands: what is at or below `last_event_id` of this generation is stored."""

    generation: int
    last_event_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one batch."""

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
            row = connection.execute(f"SELECT pg_try_advisory_lock({_LOCK_KEY})".encode(), (self._bot_id,)).fetchone()
            if not row or not row[0]:
                self.cursor = None
                return False
            with connection.transaction():
                taken = connection.execute(
                    "INSERT INTO bots AS b (bot_id, nick, epoch) VALUES (%s, %s, 1) ON CONFLICT (bot_id) DO UPDATE"
                    " SET epoch = b.epoch + 1, nick = coalesce(excluded.nick, b.nick), updated_at = now()"
                    " RETURNING generation, last_event_id, epoch",
                    (self._bot_id, self._nick),
                ).fetchone()
            assert taken is not None
            self._threads = self._known_threads(connection)
            self.cursor = Cursor(*taken)
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
        with self._exclusive(fresh=False) as connection:
            before = self.cursor
            kept = [event for event in events if self._wanted(event)]
            with connection.transaction():
                self._fence(connection, before)
                batch, outcome = self._sort_out(connection, kept, before)
                if batch:
                    bad, queued = self._write(connection, batch)
                    outcome = replace(outcome, quarantined=bad, queued=queued)
                passed = [event.event_id for _, event in batch if event.numbered]
                passed += [event.event_id for event in events if event.numbered and not self._wanted(event)]
                after = _advanced(before, passed, outcome.restarted)
                if after != before:
                    self._move(connection, after)
            self.cursor = after
            return replace(outcome, filtered=len(events) - len(kept), moved=after != before)

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
                        self._connection = self._open()
                    yield self._connection
            except FenceLost:
                self._drop()
                raise
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

    def _open(self) -> Connection:
        connection = self._connect()
        try:
            connection.execute(_SESSION)
            connection.execute(derived.temporary_tables([EVENTS]).encode())
        except BaseException:
            connection.close()
            raise
        return connection

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

    def _sort_out(
        self, connection: Connection, events: list[Event], before: Cursor
    ) -> tuple[list[tuple[int, Event]], Stored]:
        """The events that are not stored yet, each with its generation, and what the rest was."""
        distinct = _distinct(events)
        known = self._stored(connection, distinct, before)
        new, restarted = [], False
        for event in distinct:
            found = known.get(event.event_id)
            if found is None:
                new.append(event)
            elif event.numbered and found != _identity(event):
                new.append(event)
                restarted = True
        duplicate = len(events) - len(new)
        generation = before.generation + restarted
        late = 0 if restarted else sum(event.numbered and event.event_id <= before.last_event_id for event in new)
        outcome = Stored(saved=len(new), duplicate=duplicate, late=late, restarted=restarted)
        return [(generation, event) for event in new], outcome

    def _stored(self, connection: Connection, events: Sequence[Event], before: Cursor) -> dict[int, tuple[Any, ...]]:
        """What is stored under these ids. Above the cursor nothing can be: the fence sees to that."""
        ids = [event.event_id for event in events if event.event_id <= before.last_event_id]
        if not ids:
            return {}
        rows = connection.execute(
            "SELECT event_id, type, chat_id, subject FROM events"
            " WHERE bot_id = %s AND generation = %s AND event_id = ANY(%s)",
            (self._bot_id, before.generation, ids),
        ).fetchall()
        return {row[0]: tuple(row[1:]) for row in rows}

    def _write(self, connection: Connection, batch: list[tuple[int, Event]]) -> tuple[int, int]:
        """Insert a batch; returns how many were quarantined and how many messages were queued."""
        try:
            with connection.transaction():
                return sum(e.error is not None for _, e in batch), self._insert(connection, batch)
        except psycopg.Error as error:
            # The driver's own refusals (a NUL in a text) are data errors too, and have no sqlstate.
            if not isinstance(error, psycopg.DataError) and (error.sqlstate or "")[:2] not in _CULPRIT_CLASSES:
                raise
            reason = first_line(error)
            if len(batch) == 1:
                generation, event = batch[0]
                if event.error == reason:
                    raise
                quarantined = _quarantined(event, reason)
        if len(batch) == 1:
            return self._write(connection, [(generation, quarantined)])
        # The culprits are found by halving: their batch-mates are stored as if they had come alone.
        half = len(batch) // 2
        first, second = self._write(connection, batch[:half]), self._write(connection, batch[half:])
        return first[0] + second[0], first[1] + second[1]

    def _insert(self, connection: Connection, batch: list[tuple[int, Event]]) -> int:
        copy = len(batch) >= COPY_FROM
        EVENTS.run(connection, _INSERT_EVENTS, [(self._bot_id, *_event_row(g, e)) for g, e in batch], copy)
        facts = [(event.facts, event.received_at) for _, event in batch if event.error is None]
        return derived.write(connection, facts, erase=self.erase, copy=copy)

    def _fence(self, connection: Connection, before: Cursor) -> None:
        row = connection.execute(
            "SELECT generation, last_event_id, epoch FROM bots WHERE bot_id = %s FOR UPDATE", (self._bot_id,)
        ).fetchone()
        if row is None or Cursor(*row) != before:
            raise FenceLost("another process has taken over this bot")

    def _move(self, connection: Connection, after: Cursor) -> None:
        connection.execute(
            "UPDATE bots SET generation = %s, last_event_id = %s, updated_at = now() WHERE bot_id = %s AND epoch = %s",
            (after.generation, after.last_event_id, self._bot_id, after.epoch),
        )


def _advanced(before: Cursor, passed: list[int], restarted: bool) -> Cursor:
    if restarted:
        return Cursor(before.generation + 1, max(passed, default=0), before.epoch)
    return replace(before, last_event_id=max([before.last_event_id, *passed]))


def _distinct(events: Sequence[Event]) -> list[Event]:
    """Without an event's repetitions in its own batch; a second event under a used id gets a key of its own."""
    kept: dict[int, Event] = {}
    for event in events:
        first = kept.setdefault(event.event_id, event)
        if first is not event and (_identity(first) != _identity(event) or (event.error and first.raw != event.raw)):
            other = replace(event, event_id=hashed_id(event.raw or event.json.encode()))
            kept.setdefault(other.event_id, other)
    return list(kept.values())


def _identity(event: Event) -> tuple[str | None, str | None, str | None]:
    return event.type, event.chat_id, event.subject


def _quarantined(event: Event, reason: str) -> Event:
    """The event as bytes, without what the database may have refused of it."""
    return replace(event, json="", facts=Facts(), raw=event.raw or event.json.encode(), error=reason)


def _event_row(generation: int, event: Event) -> tuple[Any, ...]:
    return (
        generation, event.event_id, event.type, event.chat_id, event.user_id, event.subject, event.occurred_at,
        event.received_at, event.json or None, event.raw, event.error,
    )  # fmt: skip
