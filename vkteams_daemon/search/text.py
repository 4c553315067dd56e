"""Text search: PostgreSQL's full text with the configuration `vkteams`, the way web searches are written.

Words are joined by AND; `"…"` is a phrase, `-word` excludes, `OR` is either. Ranking costs 15 µs and more a match, so
only the newest `CANDIDATES` matches are ranked: a word that stands in every third message stays affordable.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.search.hit import MARKS, Hit, Ranked, hits
from vkteams_daemon.search.scope import Scope

CANDIDATES = 1000
"""How many of the newest matches are ranked."""

# ё is folded exactly as the column `messages.search` folds it.
_QUERY = "websearch_to_tsquery('vkteams'::regconfig, translate(%(query)s::text, 'ёЁ', 'еЕ'))"
_SHORT = 300
_MARKED = f"StartSel={MARKS[0]}, StopSel={MARKS[1]}"
_WHOLE = f"HighlightAll=true, {_MARKED}"
_PARTS = f'MaxFragments=2, MinWords=8, MaxWords=20, FragmentDelimiter=" … ", {_MARKED}'


def search_text(
    connection: psycopg.Connection[Any],
    query: str,
    *,
    chat_ids: Collection[str] | None = None,
    user_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 10,
) -> list[Hit]:
    """The messages that match the query, by ts_rank_cd, the newer first where ranks are equal.

    Args:
        connection: any connection to the archive.
        query: in web search syntax; never a syntax error. A query of stop words alone finds nothing.
        chat_ids: only these chats; None is every chat, an empty collection none.
        user_id: only this author.
        since: from this moment on (aware).
        until: before this moment (aware).
        limit: most hits.
    """
    scope = Scope(chat_ids, user_id, since, until)
    parameters = {**scope.parameters, "query": query.replace("\x00", " "), "limit": limit}
    with connection.cursor(row_factory=tuple_row) as cursor:
        # prepare=False: the planner must see the query to know whether its words are rare or common.
        cursor.execute(
            "WITH candidates AS MATERIALIZED ("
            "  SELECT m.chat_id, m.msg_id, m.sent_at, m.search FROM messages m"
            f"  WHERE m.search @@ {_QUERY} AND {scope.condition} ORDER BY m.sent_at DESC LIMIT {CANDIDATES})"
            f" SELECT chat_id, msg_id, ts_rank_cd(search, {_QUERY}) AS score FROM candidates"
            " ORDER BY score DESC, sent_at DESC, chat_id, msg_id LIMIT %(limit)s",
            parameters,
            prepare=False,
        )
        ranked = [Ranked(*row) for row in cursor]
    return hits(connection, ranked, snippets(connection, ranked, query))


def snippets(connection: psycopg.Connection[Any], ranked: list[Ranked], query: str) -> list[str]:
    """The part of each message that the query's words stand in, marked; a short message whole."""
    if not ranked:
        return []
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT r.place, ts_headline('vkteams'::regconfig, left(m.text, 100000), "
            f" {_QUERY}, CASE WHEN length(m.text) <= {_SHORT} THEN %(whole)s ELSE %(parts)s END)"
            " FROM unnest(%(chats)s::text[], %(messages)s::text[]) WITH ORDINALITY AS r (chat_id, msg_id, place)"
            " JOIN messages m ON m.chat_id = r.chat_id AND m.msg_id = r.msg_id",
            {
                "query": query.replace("\x00", " "),
                "whole": _WHOLE,
                "parts": _PARTS,
                "chats": [r.chat_id for r in ranked],
                "messages": [r.msg_id for r in ranked],
            },
            prepare=False,
        )
        shown: dict[int, str] = dict(cursor.fetchall())
    return [shown.get(place) or "" for place in range(1, len(ranked) + 1)]
