"""What an administrator looks at and repairs by hand: stored and quarantined events, cursors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, tuple_row

from vkteams_daemon.errors import AlreadyRunning, NotFound, UsageError
from vkteams_daemon.store.database import Connection, translated
from vkteams_daemon.store.models import active_model, has_index
from vkteams_daemon.store.writing import Writer

_EVENT = "bot_id, generation, event_id, type, chat_id, user_id, occurred_at, received_at, payload, error"
_BIGGEST_ID = 2**63 - 1
_FAREWELL = 2.0  # seconds; the server may take a moment to end the session of a daemon that has just stopped


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of `events`; `error` says why it is quarantined, otherwise it is None."""

    bot_id: str
    generation: int
    event_id: int
    type: str | None
    chat_id: str | None
    user_id: str | None
    occurred_at: datetime
    received_at: datetime
    payload: Any
    error: str | None


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A row of `schema_version`."""

    version: int
    applied_at: datetime


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a bot's archive stands.

    Attributes:
        generation: from 1 on; one more each time the server has started its ids over.
        last_event_id: the cursor: what the next poll sends as lastEventId.
        epoch: the fence, raised at each take-over.
        highest_stored: the highest event id of this generation in `events`; None before the first.
    """

    bot_id: str
    nick: str | None
    generation: int
    last_event_id: int
    epoch: int
    updated_at: datetime
    highest_stored: int | None


@dataclass(frozen=True, slots=True)
class VectorStore:
    """What semantic search stands on: pgvector's version, the active model's name, and whether its index is whole."""

    extension: str | None
    model: str | None
    indexed: bool


def schema_history(connection: psycopg.Connection[Any]) -> list[AppliedMigration]:
    """The migrations that this database has seen, oldest first."""
    with connection.cursor(row_factory=class_row(AppliedMigration)) as cursor:
        cursor.execute("SELECT version, applied_at FROM schema_version ORDER BY version")
        return cursor.fetchall()


def last_events(
    connection: psycopg.Connection[Any], *, limit: int = 20, chat_id: str | None = None, event_type: str | None = None
) -> list[StoredEvent]:
    """The newest stored events of every bot, newest first."""
    found: list[StoredEvent] = []
    for bot in cursors(connection):
        # Bot by bot, so that each is a walk back along the primary key and never a sort of the whole table.
        with connection.cursor(row_factory=class_row(StoredEvent)) as cursor:
            cursor.execute(
                f"SELECT {_EVENT} FROM events WHERE bot_id = %(bot)s"
                " AND (%(chat)s::text IS NULL OR chat_id = %(chat)s) AND (%(type)s::text IS NULL OR type = %(type)s)"
                " ORDER BY generation DESC, event_id DESC LIMIT %(limit)s".encode(),
                {"bot": bot.bot_id, "chat": chat_id, "type": event_type, "limit": limit},
                prepare=False,
            )
            found += cursor
    found.sort(key=lambda event: (event.received_at, event.generation, event.event_id), reverse=True)
    return found[:limit]


def quarantined(connection: psycopg.Connection[Any], *, limit: int = 100) -> list[StoredEvent]:
    """The events that this program could not read, oldest first."""
    with connection.cursor(row_factory=class_row(StoredEvent)) as cursor:
        cursor.execute(
            f"SELECT {_EVENT} FROM events WHERE error IS NOT NULL"
            " ORDER BY bot_id, generation, event_id LIMIT %s".encode(),
            (limit,),
        )
        return cursor.fetchall()


def count_quarantined(connection: psycopg.Connection[Any]) -> int:
    """How many events are quarantined."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT count(*) FROM events WHERE error IS NOT NULL")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def cursors(connection: psycopg.Connection[Any]) -> list[Cursor]:
    """The cursor of every bot that this archive has listened with."""
    with connection.cursor(row_factory=class_row(Cursor)) as cursor:
        cursor.execute(
            "SELECT b.bot_id, b.nick, b.generation, b.last_event_id, b.epoch, b.updated_at,"
            " (SELECT max(e.event_id) FROM events e WHERE e.bot_id = b.bot_id AND e.generation = b.generation)"
            " AS highest_stored FROM bots b ORDER BY b.bot_id"
        )
        return cursor.fetchall()


def cursor_of(connection: psycopg.Connection[Any], bot_id: str | None) -> Cursor:
    """The cursor of that bot, or of the only one there is.

    Raises:
        NotFound: there is none.
        UsageError: there are several, and none is named.
    """
    known = cursors(connection)
    if bot_id is None and len(known) > 1:
        names = ", ".join(bot.bot_id for bot in known)
        raise UsageError("the archive has several bots", hint=f"Name one with --bot: {names}.")
    for bot in known:
        if bot_id in (None, bot.bot_id):
            return bot
    name = f"bot {bot_id}" if bot_id else "bot"
    raise NotFound(f"the archive has no {name}", hint="A bot enters the archive when vkteamsd first listens with it.")


def set_cursor(connect: Callable[[], Connection], bot_id: str, event_id: int) -> Cursor:
    """Make `event_id` the next lastEventId; a writer that wakes up late is fenced off.

    Args:
        connect: opens a connection of the caller's own.
        bot_id: a bot of this archive.
        event_id: what the next poll sends: everything up to it counts as received, stored or not.

    Raises:
        UsageError: it is not an event id.
        AlreadyRunning: a daemon listens with this bot.
    """
    if not 0 <= event_id <= _BIGGEST_ID:
        raise UsageError(f"{event_id} is not an event id", hint=f"Event ids are whole numbers from 0 to {_BIGGEST_ID}.")
    return _change(connect, bot_id, "last_event_id = %(id)s", {"id": event_id})


def restart_cursor(connect: Callable[[], Connection], bot_id: str) -> Cursor:
    """Open a new generation: the server starts its ids over, and ids seen before are new events again.

    Raises:
        AlreadyRunning: a daemon listens with this bot.
    """
    return _change(connect, bot_id, "generation = generation + 1, last_event_id = 0", {})


def vector_store(connection: Connection) -> VectorStore:
    """Whether vectors can be stored and searched."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        row = cursor.fetchone()
    model = active_model(connection)
    indexed = model is not None and has_index(connection, model.model_id, "message")
    return VectorStore(row[0] if row else None, model.name if model else None, indexed)


@contextlib.contextmanager
def held(connect: Callable[[], Connection], bot_id: str) -> Iterator[None]:
    """Holds the bot's lock for a few seconds at most, so that no daemon listens meanwhile; its epoch is raised.

    Raises:
        AlreadyRunning: a daemon listens with this bot.
    """
    writer = Writer(connect, bot_id)
    deadline = time.monotonic() + _FAREWELL
    try:
        while not writer.acquire():
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            raise AlreadyRunning(
                f"a daemon listens with bot {bot_id}", hint="Stop it first: `vkteamsctl daemon stop` on its host."
            )
        yield
    finally:
        writer.close()


def _change(connect: Callable[[], Connection], bot_id: str, change: str, values: dict[str, Any]) -> Cursor:
    with held(connect, bot_id), translated(), connect() as connection, connection.transaction():
        connection.execute(
            f"UPDATE bots SET {change}, updated_at = now() WHERE bot_id = %(bot)s".encode(),
            {**values, "bot": bot_id},
        )
        return cursor_of(connection, bot_id)
