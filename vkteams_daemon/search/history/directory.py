"""The chats and people that the archive knows, with how much was said and when last."""

from __future__ import annotations

from typing import Any

from vkteams_daemon.search.history.results import ChatSummary, UserSummary
from vkteams_daemon.search.names import Person, chat_titles, people, visible_chats
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

_MEMBERS = (
    "SELECT DISTINCT user_id FROM roster_members WHERE until IS NULL AND chat_id = ANY(%(chat_ids)s) ORDER BY user_id"
)


def chats(connection: Connection, scope: Scope, limit: int | None = None) -> list[ChatSummary]:
    """The chats of the scope, latest message first; messages outside the scope are not counted.

    A confined reader gets only the chats with a message that they may see.
    """
    join = "INNER" if scope.confined else "LEFT"
    rows = _rows(
        connection,
        f"WITH counts AS MATERIALIZED ({_counts(scope, 'chat_id', 'user_id')})"
        " SELECT c.chat_id, c.type, c.parent_chat_id, c.parent_msg_id, coalesce(s.messages, 0), coalesce(s.others, 0),"
        f" s.first, s.last FROM chats c {join} JOIN counts s ON s.chat_id = c.chat_id"
        " WHERE (%(chat_ids)s::text[] IS NULL OR c.chat_id = ANY(%(chat_ids)s))"
        " ORDER BY s.last DESC NULLS LAST, c.chat_id LIMIT %(limit)s",
        scope,
        limit,
    )
    titles = chat_titles(connection, [row[0] for row in rows], scope)
    seen = visible_chats(connection, {row[2] for row in rows if row[2]}, scope)
    return [
        ChatSummary(chat_id, titles.get(chat_id), kind, *((parent, msg_id) if parent in seen else (None, None)), *rest)
        for chat_id, kind, parent, msg_id, *rest in rows
    ]


def users(connection: Connection, scope: Scope, limit: int | None = None, *, silent: bool = False) -> list[UserSummary]:
    """The people who have spoken in the scope, latest message first.

    A scope that narrows nothing includes people who never spoke.

    Args:
        connection: in the question's transaction.
        scope: what is counted.
        limit: how many people.
        silent: whether members of the scope's chats who never spoke come too, last; as the chats' rosters name them.
    """
    rows = _rows(
        connection,
        f"WITH counts AS MATERIALIZED ({_counts(scope, 'user_id', 'chat_id')})"
        " SELECT coalesce(u.user_id, s.user_id), coalesce(s.messages, 0), coalesce(s.others, 0),"
        f" s.first, s.last FROM (SELECT * FROM counts WHERE user_id IS NOT NULL) AS s"
        f" {'LEFT' if scope.narrows else 'FULL'} JOIN users u ON u.user_id = s.user_id"
        " ORDER BY s.last DESC NULLS LAST, 1 LIMIT %(limit)s",
        scope,
        limit,
    )
    if silent and scope.chat_ids is not None and not scope.confined:
        speakers = {row[0] for row in rows}
        members = _rows(connection, _MEMBERS, scope, None)
        rows += [(user_id, 0, 0, None, None) for (user_id,) in members if user_id not in speakers]
        rows = rows[:limit]
    known = people(connection, [row[0] for row in rows], scope)
    unknown = Person(None, None, None, None)
    return [
        UserSummary(user_id, person.name, person.nick, person.is_bot, *counts)
        for user_id, *counts in rows
        for person in (known.get(user_id, unknown),)
    ]


def _counts(scope: Scope, by: str, other: str) -> str:
    """A query that counts messages by one column, and for each of its values the distinct values of the other one.

    Args:
        scope: what is counted.
        by: the column.
        other: the other one.
    """
    if scope.chats_alone:
        chats = "" if scope.chat_ids is None else " AND chat_id = ANY(%(chat_ids)s)"
        return (
            f"SELECT {by}, pg_catalog.sum(messages - deleted)::bigint AS messages,"
            f" count(*) FILTER (WHERE {other} <> '') AS others, pg_catalog.min(first_at) AS first,"
            f" pg_catalog.max(last_at) AS last FROM chat_user_counts WHERE messages > deleted AND {by} <> ''{chats}"
            f" GROUP BY {by}"
        )
    # Grouped twice: count(DISTINCT …) would sort everything.
    return (
        f"SELECT {by}, pg_catalog.sum(n)::bigint AS messages, pg_catalog.count({other}) AS others,"
        f" pg_catalog.min(first) AS first, pg_catalog.max(last) AS last"
        f" FROM (SELECT {by}, {other}, count(*) AS n, pg_catalog.min(sent_at) AS first, pg_catalog.max(sent_at) AS last"
        f"  FROM messages m WHERE {scope.condition} GROUP BY {by}, {other}) AS pairs GROUP BY {by}"
    )


def _rows(connection: Connection, sql: str, scope: Scope, limit: int | None) -> list[tuple[Any, ...]]:
    return connection.execute(sql.encode(), {**scope.parameters, "limit": limit}, prepare=False).fetchall()
