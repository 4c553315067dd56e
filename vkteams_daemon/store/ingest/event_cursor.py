"""A bot's cursor: its row in the database, the fence around it, and where a batch moves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.errors import FenceLost
from vkteams_daemon.store import schema
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.ingest import id_restart

_LOCK = (
    "SELECT generation, last_event_id, epoch, moves, (SELECT version FROM erasure_rules) FROM bots"
    " WHERE bot_id = %s FOR UPDATE"
)
_UNCHANGED = "WHERE bot_id = %s AND generation = %s AND last_event_id = %s AND epoch = %s"
_COUNT = f"UPDATE bots SET events = events + %s {_UNCHANGED}"
_MOVE = (
    "UPDATE bots SET generation = %s, last_event_id = %s, moves = %s, updated_at = now(), events = events + %s"
    f" {_UNCHANGED}"
)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A bot's position: every event up to `last_event_id` of this generation is stored or filtered out.

    Attributes:
        epoch: raised by every take-over.
        moves: raised by every move of the cursor, up or down.
    """

    generation: int
    last_event_id: int
    epoch: int
    moves: int = 0


def take_over(connection: Connection, bot_id: str, nick: str | None) -> Cursor:
    """Raise the bot's epoch, in a transaction of its own; returns the cursor.

    Raises:
        SchemaNewer: a newer program has migrated the schema.
    """
    with connection.transaction():
        schema.fence(connection)
        row = connection.execute(
            # The default of updated_at is the time. Citus refuses its function in the update.
            "INSERT INTO bots AS b (bot_id, nick, epoch) VALUES (%s, %s, 1) ON CONFLICT (bot_id) DO UPDATE"
            " SET epoch = b.epoch + 1, nick = coalesce(excluded.nick, b.nick), updated_at = excluded.updated_at"
            " RETURNING generation, last_event_id, epoch, moves",
            (bot_id, nick),
        ).fetchone()
    assert row is not None
    return Cursor(*row)


def last_arrival(connection: psycopg.Connection[Any], bot_id: str) -> datetime | None:
    """When the bot's newest event arrived; None without one."""
    row = connection.execute(
        "SELECT received_at FROM events WHERE bot_id = %s ORDER BY received_at DESC LIMIT 1", (bot_id,)
    ).fetchone()
    return row[0] if row else None


@contextlib.contextmanager
def transaction(connection: Connection, bot_id: str, expected: Cursor) -> Iterator[int]:
    """A transaction that has locked the bot's row; gives the version of the rules of erasure.

    Args:
        connection: in autocommit mode, not in a pipeline.
        bot_id: the bot.
        expected: its cursor.

    Raises:
        FenceLost: the cursor is not the expected one.
        SchemaNewer: a newer program has migrated the schema.
    """
    with contextlib.ExitStack() as stack:
        fence = None
        try:
            with connection.pipeline():  # the beginning takes one round trip
                stack.enter_context(psycopg.Transaction(connection))
                fence = schema.send_fence(connection)
                locked = connection.execute(_LOCK, (bot_id,))
        except psycopg.ProgrammingError:
            if fence is not None:
                schema.check_fence(fence)  # a newer schema may lack what the next statement reads
            raise
        schema.check_fence(fence)
        row = locked.fetchone()
        if row is None or Cursor(*row[:-1]) != expected:
            raise FenceLost("another process has taken over this bot")
        yield int(row[-1])


def send_changes(connection: Connection, bot_id: str, before: Cursor, after: Cursor, stored: int) -> Any:
    """Write the cursor, and count events that are stored; in pipeline mode or not.

    Args:
        connection: in a `transaction`.
        bot_id: the bot.
        before: where the cursor stands.
        after: where it is to stand, or `before`.
        stored: how many events the transaction stores.

    Returns:
        The database's cursor, for `check_changes`.
    """
    unchanged = (bot_id, before.generation, before.last_event_id, before.epoch)
    if after == before:
        return connection.execute(_COUNT.encode(), (stored, *unchanged))
    return connection.execute(_MOVE.encode(), (after.generation, after.last_event_id, after.moves, stored, *unchanged))


def check_changes(sent: Any) -> None:
    """Make sure, before the commit, that `send_changes` has changed the bot's row.

    Raises:
        FenceLost: the cursor did not stand where it should.
    """
    if sent.rowcount != 1:
        raise FenceLost("another process has taken over this bot")


def after_batch(
    before: Cursor, batch: Sequence[Event], events: Sequence[Event], *, restarted: bool, late: bool
) -> Cursor:
    """The cursor after a batch.

    Args:
        before: the cursor that the batch was polled with.
        batch: the events in the order of the API's answer.
        events: those that the chat filter keeps.
        restarted: whether the batch proves an id restart.
        late: whether one of `events` is late and not stored yet.
    """
    after = _position_after(before, batch, events, restarted=restarted, late=late)
    return after if after == before else replace(after, moves=before.moves + 1)


def _position_after(
    before: Cursor, batch: Sequence[Event], events: Sequence[Event], *, restarted: bool, late: bool
) -> Cursor:
    if restarted:
        return replace(before, generation=before.generation + 1, last_event_id=id_restart.safe_cursor(batch))
    if not late and len(events) < len(batch):
        unfiltered = set(map(id, events))
        late = any(e.numbered and e.event_id <= before.last_event_id for e in batch if id(e) not in unfiltered)
    if late:
        # The API has forgotten acknowledged events. So ids below the cursor suggest a restart that we have not
        # detected, because no new id has met a stored one yet. Do not resend the old cursor: it would acknowledge
        # undelivered events.
        return replace(before, last_event_id=id_restart.safe_cursor(batch))
    return replace(before, last_event_id=max([before.last_event_id, *(e.event_id for e in batch if e.numbered)]))
