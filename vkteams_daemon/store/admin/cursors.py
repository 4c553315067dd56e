"""Reads the cursors of the archive's bots, and changes one by hand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.errors import AlreadyRunning, NotFound, UsageError
from vkteams_daemon.store import gaps, schema
from vkteams_daemon.store.blockers import PATIENCE
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.ingest.writer import Writer

_MAX_EVENT_ID = 2**63 - 1
_LOCK_WAIT = 2.0  # seconds; the server may take a moment to end the session of a daemon that has just stopped
_LOCK_INTERVAL = 0.1  # seconds between two attempts to take the lock


@dataclass(frozen=True, slots=True)
class BotCursor:
    """The cursor of one bot.

    Attributes:
        generation: from 1 on; every id restart raises it by one.
        last_event_id: the cursor; the next poll sends it as lastEventId.
        epoch: the fence; every take-over raises it.
        updated_at: when the cursor last changed.
        highest_stored: the highest event id of this generation in `events`; None before the first event.
    """

    bot_id: str
    nick: str | None
    generation: int
    last_event_id: int
    epoch: int
    updated_at: datetime
    highest_stored: int | None


def list_cursors(connection: psycopg.Connection[Any]) -> list[BotCursor]:
    """The cursor of every bot of this archive."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        bots = cursor.execute(
            "SELECT bot_id, nick, generation, last_event_id, epoch, updated_at FROM bots ORDER BY bot_id"
        ).fetchall()
        cursors = []
        for bot_id, nick, generation, last_event_id, epoch, updated_at in bots:
            # Each bot apart: one access to the primary key.
            row = cursor.execute(
                "SELECT pg_catalog.max(event_id) FROM events WHERE bot_id = %s AND generation = %s",
                (bot_id, generation),
            ).fetchone()
            highest = row[0] if row else None
            cursors.append(BotCursor(bot_id, nick, generation, last_event_id, epoch, updated_at, highest))
    return cursors


def find_cursor(connection: psycopg.Connection[Any], bot_id: str | None) -> BotCursor:
    """The cursor of this bot, or of the only bot of the archive.

    Raises:
        NotFound: the archive has no such bot, or none at all.
        UsageError: `bot_id` is None, and the archive has several bots.
    """
    bots = list_cursors(connection)
    if bot_id is None and len(bots) > 1:
        names = ", ".join(bot.bot_id for bot in bots)
        raise UsageError("the archive has several bots", hint=f"Name one with --bot: {names}.")
    for bot in bots:
        if bot_id in (None, bot.bot_id):
            return bot
    name = f"bot {bot_id}" if bot_id else "bot"
    raise NotFound(f"the archive has no {name}", hint="A bot enters the archive when vkteamsd first listens with it.")


def set_cursor(
    connect: Callable[[], Connection], bot_id: str, event_id: int, *, patience: float = PATIENCE
) -> BotCursor:
    """Make `event_id` the next lastEventId. The epoch is raised, so a former holder that wakes up late cannot commit.

    Args:
        connect: opens a new connection.
        bot_id: a bot of this archive.
        event_id: the next poll sends it. Every event up to it counts as received, even if it is not stored.
        patience: see `bot_lock`.

    Raises:
        UsageError: `event_id` is not an event id.
        AlreadyRunning: a daemon listens with this bot, or its lock is held otherwise.
    """
    if not 0 <= event_id <= _MAX_EVENT_ID:
        raise UsageError(
            f"{event_id} is not an event id", hint=f"Event ids are whole numbers from 0 to {_MAX_EVENT_ID}."
        )
    return _change(connect, bot_id, "last_event_id = %(id)s", {"id": event_id}, patience)


def restart_cursor(connect: Callable[[], Connection], bot_id: str, *, patience: float = PATIENCE) -> BotCursor:
    """Open a new generation with cursor 0, because the server has started its ids over. Known ids are new events again.

    Arguments and errors are those of `set_cursor`.
    """
    return _change(connect, bot_id, "generation = generation + 1, last_event_id = 0", {}, patience, restarted=True)


@contextlib.contextmanager
def bot_lock(connect: Callable[[], Connection], bot_id: str, patience: float = PATIENCE) -> Iterator[int]:
    """Hold the bot's lock and raise its epoch, so that no daemon listens meanwhile.

    A daemon that lives shows it every few seconds, and is refused as soon as it does. A silent holder may be a stopped
    process. So this waits until the patience is over, and then the holder's session is ended.

    The server ends the session after 10 seconds without a statement, so hold it for a few seconds at most.

    Args:
        connect: opens a new connection.
        bot_id: the bot.
        patience: seconds after which a silent holder is ended.

    Returns:
        The epoch. As long as it stands, nobody else has taken the lock.

    Raises:
        AlreadyRunning: a daemon listens with this bot, or its lock is held by a session that is not ours to end.
    """
    writer = Writer(connect, bot_id, patience=patience)
    began = time.monotonic()
    try:
        while not writer.acquire():
            waited = time.monotonic() - began
            if waited > (_LOCK_WAIT if writer.holder_is_alive else patience + _LOCK_WAIT):
                raise _refusal(bot_id, writer.blocked_by)
            time.sleep(_LOCK_INTERVAL)
        assert writer.cursor is not None
        yield writer.cursor.epoch
    finally:
        writer.close()


def _refusal(bot_id: str, holders: str) -> AlreadyRunning:
    if holders:
        return AlreadyRunning(f"the lock of bot {bot_id} is held by {holders}", hint="End that session first.")
    return AlreadyRunning(
        f"a daemon listens with bot {bot_id}", hint="Stop it first: `vkteamsctl daemon stop` on its host."
    )


def _change(
    connect: Callable[[], Connection],
    bot_id: str,
    change: str,
    values: dict[str, Any],
    patience: float,
    *,
    restarted: bool = False,
) -> BotCursor:
    with (
        bot_lock(connect, bot_id, patience) as epoch,
        translate_errors(),
        connect() as connection,
        connection.transaction(),
    ):
        schema.fence(connection)
        if restarted:
            before = find_cursor(connection, bot_id)
            gaps.add_restart(connection, bot_id, before.last_event_id, datetime.now(UTC))
        changed = connection.execute(
            f"UPDATE bots SET {change}, moves = moves + 1, updated_at = now()"
            " WHERE bot_id = %(bot)s AND epoch = %(epoch)s".encode(),
            {**values, "bot": bot_id, "epoch": epoch},
        ).rowcount
        if not changed:
            # This process was stopped meanwhile, or cut off, and lost the lock.
            raise _refusal(bot_id, "")
        return find_cursor(connection, bot_id)
