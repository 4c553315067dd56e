"""Stored events for an administrator: the newest ones and the quarantined ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, tuple_row

from vkteams_daemon.store.admin.cursors import list_cursors

_EVENT_COLUMNS = "bot_id, generation, event_id, type, chat_id, user_id, occurred_at, received_at, payload, error"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of `events`. `error` says why the event is quarantined; None for a healthy event."""

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


def has_arrivals(
    connection: psycopg.Connection[Any], bot_id: str, since: datetime, until: datetime, count: int
) -> bool:
    """Whether at least `count` events of the bot arrived after `since` and before `until`."""
    rows = connection.execute(
        "SELECT 1 FROM events WHERE bot_id = %s AND received_at > %s AND received_at < %s LIMIT %s",
        (bot_id, since, until, count),
    ).fetchall()
    return len(rows) >= count


def last_events(
    connection: psycopg.Connection[Any], *, limit: int = 20, chat_id: str | None = None, event_type: str | None = None
) -> list[StoredEvent]:
    """The newest events of all bots, newest first.

    Args:
        connection: any connection to the archive.
        limit: how many.
        chat_id: only events of this chat.
        event_type: only events of this type.
    """
    events: list[StoredEvent] = []
    for bot in list_cursors(connection):
        # One query for each bot reads backwards along the primary key. One query for all would sort the whole table.
        with connection.cursor(row_factory=class_row(StoredEvent)) as cursor:
            cursor.execute(
                f"SELECT {_EVENT_COLUMNS} FROM events WHERE bot_id = %(bot)s"
                " AND (%(chat)s::text IS NULL OR chat_id = %(chat)s) AND (%(type)s::text IS NULL OR type = %(type)s)"
                " ORDER BY generation DESC, event_id DESC LIMIT %(limit)s".encode(),
                {"bot": bot.bot_id, "chat": chat_id, "type": event_type, "limit": limit},
                prepare=False,
            )
            events += cursor
    events.sort(key=lambda event: (event.received_at, event.generation, event.event_id), reverse=True)
    return events[:limit]


def quarantined_events(connection: psycopg.Connection[Any], *, limit: int = 100) -> list[StoredEvent]:
    """The quarantined events, oldest first."""
    with connection.cursor(row_factory=class_row(StoredEvent)) as cursor:
        cursor.execute(
            f"SELECT {_EVENT_COLUMNS} FROM events WHERE error IS NOT NULL"
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
