"""Who and what the archive knows: its chats and its people, with how much was said and when last."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.search.history.results import ChatSummary, UserSummary
from vkteams_daemon.search.names import chat_titles, names
from vkteams_daemon.search.scope import Scope


def chats(connection: psycopg.Connection[Any], scope: Scope, limit: int | None = None) -> list[ChatSummary]:
    """The chats of the scope, the one that spoke last first; what was said outside the scope does not count."""
    rows = _rows(
        connection,
        f"WITH said AS MATERIALIZED ({_said(scope, 'chat_id', 'user_id')})"
        " SELECT c.chat_id, c.type, c.parent_chat_id, c.parent_msg_id, coalesce(s.messages, 0), coalesce(s.others, 0),"
        " s.first, s.last FROM chats c LEFT JOIN said s ON s.chat_id = c.chat_id"
        " WHERE (%(chat_ids)s::text[] IS NULL OR c.chat_id = ANY(%(chat_ids)s))"
        " ORDER BY s.last DESC NULLS LAST, c.chat_id LIMIT %(limit)s",
        scope,
        limit,
    )
    titles = chat_titles(connection, [row[0] for row in rows])
    return [ChatSummary(row[0], titles.get(row[0]), *row[1:]) for row in rows]


def users(connection: psycopg.Connection[Any], scope: Scope, limit: int | None = None) -> list[UserSummary]:
    """Who has spoken in the scope, the one who spoke last first; where nothing is narrowed, who never spoke too."""
    rows = _rows(
        connection,
        f"WITH said AS MATERIALIZED ({_said(scope, 'user_id', 'chat_id')})"
        " SELECT coalesce(u.user_id, s.user_id), u.nick, u.is_bot, coalesce(s.messages, 0), coalesce(s.others, 0),"
        f" s.first, s.last FROM (SELECT * FROM said WHERE user_id IS NOT NULL) AS s"
        f" {'LEFT' if scope.narrows else 'FULL'} JOIN users u ON u.user_id = s.user_id"
        " ORDER BY s.last DESC NULLS LAST, 1 LIMIT %(limit)s",
        scope,
        limit,
    )
    known = names(connection, [row[0] for row in rows])
    return [UserSummary(row[0], known.get(row[0]), *row[1:]) for row in rows]


def _said(scope: Scope, by: str, other: str) -> str:
    """A query that counts messages by one column, and how many of the other stand beside it."""
    # Twice grouped, for counting what is distinct would sort everything.
    return (
        f"SELECT {by}, sum(n)::bigint AS messages, count({other}) AS others, min(first) AS first, max(last) AS last"
        f" FROM (SELECT {by}, {other}, count(*) AS n, min(sent_at) AS first, max(sent_at) AS last"
        f"  FROM messages m WHERE {scope.condition} GROUP BY {by}, {other}) AS pairs GROUP BY {by}"
    )


def _rows(connection: psycopg.Connection[Any], sql: str, scope: Scope, limit: int | None) -> list[tuple[Any, ...]]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(sql.encode(), {**scope.parameters, "limit": limit}, prepare=False)
        return cursor.fetchall()
