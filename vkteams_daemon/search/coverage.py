"""The coverage of an answer: since when the archive listens, what has no vector yet, and what may be missing."""

from __future__ import annotations

from collections.abc import Collection

from vkteams_daemon.search.results import Coverage
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.models import active_model


def coverage(connection: Connection, chat_ids: Collection[str] | None = None) -> Coverage:
    """The coverage of the archive, or of these chats."""
    chats = None if chat_ids is None else sorted(chat_ids)
    model = active_model(connection)
    row = connection.execute(
        "SELECT"
        # Chat by chat, so that each minimum is the first entry of an index.
        " (SELECT pg_catalog.min(first) FROM (SELECT pg_catalog.min(sent_at) AS first FROM messages WHERE"
        " %(chats)s::text[] IS NULL"
        "   UNION ALL SELECT (SELECT pg_catalog.min(sent_at) FROM messages m WHERE m.chat_id = c.chat_id)"
        "   FROM pg_catalog.unnest(%(chats)s::text[]) AS c (chat_id)) AS firsts),"
        " (SELECT count(*) FROM embedding_queue WHERE model_id = %(model)s AND kind = 'message'"
        "   AND (%(chats)s::text[] IS NULL OR chat_id = ANY(%(chats)s))),"
        " (SELECT count(*) FROM events WHERE error IS NOT NULL"
        "   AND (%(chats)s::text[] IS NULL OR chat_id IS NULL OR chat_id = ANY(%(chats)s))),"
        " (SELECT coalesce(pg_catalog.sum(generation - 1), 0) FROM bots)",
        {"chats": chats, "model": model and model.model_id},
        prepare=False,
    ).fetchone()
    assert row is not None
    since, queued, quarantined, restarts = row
    return Coverage(since, queued if model else None, model.name if model else None, _gaps(quarantined, restarts))


def _gaps(quarantined: int, restarts: int) -> tuple[str, ...]:
    gaps = []
    if quarantined:
        gaps.append(f"{quarantined} event{' is' if quarantined == 1 else 's are'} stored but could not be read")
    if restarts:
        gaps.append(f"the API started its ids over {'once' if restarts == 1 else f'{restarts} times'}: check for gaps")
    return tuple(gaps)
