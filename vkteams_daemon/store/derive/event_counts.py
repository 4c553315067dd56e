"""Keeps the counts of events by bot and chat, and when the last of them arrived.

Code that writes events changes the counts in the same transaction, which has locked the row of the bot in `bots` before
any other row. So nobody else changes the counts of this bot meanwhile. Events are never deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection

COUNTED = (
    "SELECT bot_id, chat_id, count(*) AS events, pg_catalog.max(received_at) AS last_at FROM events"
    " WHERE chat_id IS NOT NULL GROUP BY bot_id, chat_id"
)
"""Counts the events."""

_COUNTS = ColumnSet((("bot_id", "text"), ("chat_id", "text"), ("events", "int8"), ("last_at", "timestamptz")))
_ADD = (
    "INSERT INTO bot_chat_counts AS c (bot_id, chat_id, events, last_at)"
    " SELECT bot_id, chat_id, events, last_at FROM {incoming} ORDER BY chat_id ON CONFLICT (bot_id, chat_id)"
    " DO UPDATE SET events = c.events + excluded.events, last_at = greatest(c.last_at, excluded.last_at)"
)
_OF_CHATS = COUNTED.replace("WHERE chat_id IS NOT NULL", "WHERE bot_id = %(bot)s AND chat_id = ANY(%(chats)s)")


class EventCounts:
    """Counts the events of one bot in one transaction."""

    def __init__(self) -> None:
        self._counts: dict[str, list[Any]] = {}  # how many, and when the last arrived

    def add(self, chat_id: str | None, received_at: datetime) -> None:
        """Count one more event."""
        if chat_id is not None:
            counts = self._counts.get(chat_id)
            if counts is None:
                self._counts[chat_id] = [1, received_at]
                return
            counts[0] += 1
            if counts[1] is not received_at:  # the events of an answer share it
                counts[1] = max(counts[1], received_at)

    def save(self, connection: Connection, bot_id: str) -> None:
        """Add to the stored counts; in pipeline mode or not."""
        if self._counts:
            rows = [(bot_id, chat_id, *counts) for chat_id, counts in self._counts.items()]
            _COUNTS.execute(connection, _ADD, rows)


def lock_bots(connection: Connection, bot_ids: Iterable[str]) -> None:
    """Lock the rows of these bots until the transaction ends, before any other row."""
    for bot_id in sorted(set(bot_ids)):
        connection.execute("SELECT FROM bots WHERE bot_id = %s FOR UPDATE", (bot_id,))


def recount(connection: Connection, bot_id: str, chat_ids: Collection[str]) -> None:
    """Count the events of the bot in these chats again, in a transaction that has locked the bot."""
    values = {"bot": bot_id, "chats": sorted(chat_ids)}
    connection.execute("DELETE FROM bot_chat_counts WHERE bot_id = %(bot)s AND chat_id = ANY(%(chats)s)", values)
    connection.execute(f"INSERT INTO bot_chat_counts {_OF_CHATS}".encode(), values)


def chats_to_count(connection: Connection) -> list[tuple[str, str]]:
    """The bots and chats that have events or counts."""
    return connection.execute(
        "SELECT DISTINCT bot_id, chat_id FROM events WHERE chat_id IS NOT NULL"
        " UNION SELECT bot_id, chat_id FROM bot_chat_counts ORDER BY 1, 2"
    ).fetchall()
