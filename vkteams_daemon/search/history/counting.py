"""Counts of messages, with the filters of a search: altogether, and of each person, chat or day."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from vkteams_daemon.search import notes
from vkteams_daemon.search.history.days import days_between
from vkteams_daemon.search.history.results import By, Count, Group
from vkteams_daemon.search.names import chat_titles, names
from vkteams_daemon.search.retrieval.query import read
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

_COLUMNS = {"person": "m.user_id", "chat": "m.chat_id"}


def count(connection: Connection, scope: Scope, query: str | None, by: By | None, limit: int) -> Count:
    """Count the messages of a scope.

    Args:
        connection: inside a transaction.
        scope: what is counted.
        query: only messages with all of these words in any form, in web search syntax; None counts every message.
        by: what is counted apart.
        limit: most groups.
    """
    condition, values = scope.condition, dict(scope.parameters)
    note = None
    if query is not None:
        words = read(connection, query)
        if not words.terms:
            return Count(0, note=notes.NO_WORD)
        condition, values = f"m.search @@ %(query)s::tsquery AND {condition}", {**values, "query": words.tsquery}
        note = "Counted are the messages with all of these words, in any form, as they were typed."
    total, first, last = _rows(
        connection,
        f"SELECT count(*), pg_catalog.min(m.sent_at), pg_catalog.max(m.sent_at) FROM messages m WHERE {condition}",
        values,
    )[0]
    if not total or by is None:
        return Count(total, note=note)
    if by == "day":
        groups, number = _by_day(connection, condition, values, first, last, limit)
    else:
        column = _COLUMNS[by]
        rows = _rows(
            connection,
            f"SELECT {column}, count(*), pg_catalog.count(*) OVER () FROM messages m"
            f" WHERE {condition} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(groups)s",
            {**values, "groups": limit},
        )
        ids = [each for each, *_ in rows if each]
        known = names(connection, ids, scope) if by == "person" else chat_titles(connection, ids, scope)
        groups = [Group(known.get(each, each) if each else "nobody", n, each) for each, n, _ in rows]
        number = rows[0][2]
    return Count(total, groups, number - len(groups), note)


def _by_day(
    connection: Connection, condition: str, values: dict[str, Any], first: datetime, last: datetime, limit: int
) -> tuple[list[Group], int]:
    """The newest days of the reader's zone with messages, oldest first, and how many days there are."""
    days = days_between(first, last)
    rows = _rows(
        connection,
        "SELECT pg_catalog.width_bucket(m.sent_at, %(starts)s::timestamptz[]) AS day, count(*),"
        f" pg_catalog.count(*) OVER () FROM messages m WHERE {condition} GROUP BY 1 ORDER BY 1 DESC LIMIT %(groups)s",
        {**values, "starts": days.starts, "groups": limit},
    )
    groups = [
        Group(days.dates[place - 1].isoformat() if place else f"before {days.dates[0].isoformat()}", n)
        for place, n, _ in reversed(rows)
    ]
    return groups, rows[0][2]


def _rows(connection: Connection, sql: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    return connection.execute(sql.encode(), values, prepare=False).fetchall()
