"""The archive in numbers: what it holds, how much of it can be found by meaning, and how large it is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.search.history import message_counts
from vkteams_daemon.search.history.message_counts import Part
from vkteams_daemon.search.history.results import ModelStatistics, Statistics
from vkteams_daemon.store.admin.maintenance import database_size, table_sizes
from vkteams_daemon.store.models import active_model, has_index


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the truth an answer can hold.

    Attributes:
        archived_since: when the oldest archived message (of these chats) was sent; None for an empty archive.
        without_vector: messages that wait for a vector and cannot be found by meaning yet; None without a model.
        model: the name of the model whose vectors are searched; None without one.
        gaps: what may be missing or is known to be unreadable, a sentence each.
    """

    archived_since: datetime | None
    without_vector: int | None
    model: str | None
    gaps: tuple[str, ...] = ()


def coverage(connection: psycopg.Connection[Any], chat_ids: list[str] | None = None) -> Coverage:
    """The coverage of the archive, or of these chats."""
    model = active_model(connection)
    waiting = None
    if model:
        waiting = _row(
            connection,
            "SELECT count(*) FROM embedding_queue WHERE model_id = %(model)s AND kind = 'message'"
            " AND (%(chats)s::text[] IS NULL OR chat_id = ANY(%(chats)s))",
            {"model": model.model_id, "chats": chat_ids},
        )[0]
    since = _row(
        connection,
        # Chat by chat, so that each is the first entry of an index.
        "SELECT min(first) FROM (SELECT min(sent_at) AS first FROM messages WHERE %(chats)s::text[] IS NULL"
        " UNION ALL SELECT (SELECT min(sent_at) FROM messages m WHERE m.chat_id = c.chat_id)"
        "  FROM unnest(%(chats)s::text[]) AS c (chat_id)) AS firsts",
        {"chats": chat_ids},
    )[0]
    return Coverage(since, waiting, model.name if model else None, _gaps(connection, chat_ids))


def _gaps(connection: psycopg.Connection[Any], chat_ids: list[str] | None) -> tuple[str, ...]:
    quarantined = _row(
        connection,
        "SELECT count(*) FROM events WHERE error IS NOT NULL"
        " AND (%(chats)s::text[] IS NULL OR chat_id IS NULL OR chat_id = ANY(%(chats)s))",
        {"chats": chat_ids},
    )[0]
    restarts = _row(connection, "SELECT coalesce(sum(generation - 1), 0) FROM bots", {})[0]
    gaps = []
    if quarantined:
        gaps.append(f"{quarantined} event{' is' if quarantined == 1 else 's are'} stored but could not be read")
    if restarts:
        gaps.append(f"the API started its ids over {'once' if restarts == 1 else f'{restarts} times'}: check for gaps")
    return tuple(gaps)


def statistics(
    connection: psycopg.Connection[Any], *, chat_ids: Collection[str] | None = None, since: datetime | None = None
) -> Statistics:
    """Count the archive.

    Args:
        connection: any connection to it.
        chat_ids: count only these chats; None is every chat, an empty collection none.
        since: count only what was sent, or for events received, from this moment on (aware).
    """
    part = Part(None if chat_ids is None else sorted(chat_ids), since)
    said = message_counts.said(connection, part)
    events = _row(
        connection,
        # Each by itself, so that each is answered from an index of its own.
        f"SELECT (SELECT count(*) FROM events {part.where('received_at')}),"
        f" (SELECT count(*) FROM events {part.where('received_at', 'error IS NOT NULL')}),"
        f" (SELECT max(received_at) FROM events {part.where('received_at')})",
        part.values,
    )
    versions = _row(connection, f"SELECT count(*) FROM message_versions {part.where('replaced_at')}", part.values)
    queue = _row(
        connection,
        "SELECT count(*), count(*) FILTER (WHERE not_before = 'infinity'), min(enqueued_at)"
        f" FROM embedding_queue q {part.of_messages('q')}",
        part.values,
    )
    sizes = table_sizes(connection) if part.whole else []
    return Statistics(
        events=events[0],
        quarantined=events[1],
        messages=said.messages,
        edited=said.edited,
        deleted=said.deleted,
        versions=versions[0],
        chats=said.chats,
        users=said.users,
        first_message_at=said.first_at,
        last_message_at=said.last_at,
        last_event_at=events[2],
        queued=queue[0],
        parked=queue[1],
        oldest_queued_at=queue[2],
        models=_models(connection, part),
        busiest=[] if part.chat_ids is not None and len(part.chat_ids) == 1 else said.by_chat,
        authors=said.by_user,
        days=said.by_day,
        lag=message_counts.lag(connection, part),
        sizes={table.name: table.octets for table in sizes}
        | ({"database": database_size(connection)} if sizes else {}),
        tables=sizes,
    )


def _models(connection: psycopg.Connection[Any], part: Part) -> list[ModelStatistics]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            # A message has one first chunk, so that nothing need be told apart, and the primary key answers it.
            "WITH counted AS (SELECT model_id, count(*) AS vectors,"
            "  count(*) FILTER (WHERE chunk = 0 AND kind = 'message') AS messages"
            f"  FROM embeddings e {part.of_messages('e')} GROUP BY model_id)"
            " SELECT m.model_id, m.name, m.dims, m.state, coalesce(c.vectors, 0), coalesce(c.messages, 0)"
            " FROM embedding_models m LEFT JOIN counted c ON c.model_id = m.model_id ORDER BY m.model_id".encode(),
            part.values,
            prepare=False,
        )
        rows = cursor.fetchall()
    return [ModelStatistics(*(*row, has_index(connection, row[0]))) for row in rows]


def _row(connection: psycopg.Connection[Any], sql: str, values: dict[str, Any]) -> tuple[Any, ...]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(sql.encode(), values, prepare=False)
        row = cursor.fetchone()
    assert row is not None
    return row
