"""Statistics of the archive: what it holds, how much of it has vectors, and how large it is."""

from __future__ import annotations

from typing import Any

from vkteams_daemon.search.history.message_counts import CountedPart, lag, message_counts
from vkteams_daemon.search.history.results import ModelStatistics, Statistics
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.admin.maintenance import database_size, table_sizes
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.vector_index import has_index


def statistics(connection: Connection, scope: Scope) -> Statistics:
    """Count the archive.

    Args:
        connection: any connection to the archive.
        scope: its chats and `since` count: messages sent, and events received, at this moment or later. For a confined
            reader an event counts if it is about a message sent at this moment or later.
    """
    part = CountedPart(scope)
    counts = message_counts(connection, part)
    # Nobody knows which message an unreadable event is about, so its own time decides what a confined reader may count.
    quarantined_at = "occurred_at" if scope.confined else "received_at"
    count = f"SELECT count(*) FROM events e {part.of_events()}"
    if part.whole:
        count = "SELECT coalesce(pg_catalog.sum(events), 0)::bigint FROM bots"  # those of no chat as well
    # Subqueries, so that each is answered from an index of its own.
    heard = f"SELECT ({count}), (SELECT pg_catalog.max(received_at) FROM events e {part.of_events()})"
    if scope.chats_alone and not part.whole:
        heard = (
            "SELECT coalesce(pg_catalog.sum(events), 0)::bigint, pg_catalog.max(last_at) FROM bot_chat_counts"
            f" {part.where('')}"
        )
    events, last_event_at, quarantined = _row(
        connection,
        "SELECT h.events, h.last_at, (SELECT count(*) FROM events e"
        f" {part.where_few(quarantined_at, 'error IS NOT NULL')}) FROM ({heard}) AS h (events, last_at)",
        part.values,
    )
    queued, parked, oldest_queued_at = _row(
        connection,
        "SELECT count(*), count(*) FILTER (WHERE not_before = 'infinity'), pg_catalog.min(enqueued_at)"
        f" FROM embedding_queue q {part.of_messages('q')}",
        part.values,
    )
    sizes = table_sizes(connection) if part.whole else []
    return Statistics(
        events=events,
        quarantined=quarantined,
        messages=counts.messages,
        edited=counts.edited,
        deleted=counts.deleted,
        versions=counts.versions,
        chats=counts.chats,
        users=counts.users,
        first_message_at=counts.first_at,
        last_message_at=counts.last_at,
        last_event_at=last_event_at,
        queued=queued,
        parked=parked,
        oldest_queued_at=oldest_queued_at,
        models=_models(connection, part),
        busiest=[] if scope.chat_ids is not None and len(scope.chat_ids) == 1 else counts.by_chat,
        authors=counts.by_user,
        days=counts.by_day,
        lag=lag(connection, part),
        sizes={table.name: table.octets for table in sizes}
        | ({"database": database_size(connection)} if sizes else {}),
        tables=sizes,
    )


def _models(connection: Connection, part: CountedPart) -> list[ModelStatistics]:
    if part.scope.chats_alone:
        counted = (
            "SELECT model_id, pg_catalog.sum(vectors)::bigint AS vectors, pg_catalog.sum(messages)::bigint AS messages"
            f" FROM chat_vector_counts {part.where('')} GROUP BY model_id"
        )
    else:
        # A message has one first chunk, so counting these counts messages.
        counted = (
            "SELECT model_id, count(*) AS vectors, count(*) FILTER (WHERE chunk = 0 AND kind = 'message') AS messages"
            f" FROM embeddings e {part.of_messages('e')} GROUP BY model_id"
        )
    rows = connection.execute(
        f"WITH counted AS ({counted})"
        " SELECT m.model_id, m.name, m.dims, m.state, coalesce(c.vectors, 0), coalesce(c.messages, 0)"
        " FROM embedding_models m LEFT JOIN counted c ON c.model_id = m.model_id ORDER BY m.model_id".encode(),
        part.values,
        prepare=False,
    ).fetchall()
    # The index is built over every chat, when there are enough vectors: a confined reader does not learn of it.
    confined = part.scope.confined
    return [ModelStatistics(*(*row, None if confined else has_index(connection, row[0]))) for row in rows]


def _row(connection: Connection, sql: str, values: dict[str, Any]) -> tuple[Any, ...]:
    row = connection.execute(sql.encode(), values, prepare=False).fetchone()
    assert row is not None
    return row
