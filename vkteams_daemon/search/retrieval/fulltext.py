"""Text search: PostgreSQL's full text with the configuration `vkteams`, the way web searches are written.

Words are joined by AND; `"…"` is a phrase, `-word` excludes, `OR` is either. Ranking costs 15 µs and more a match, so
only the newest `CANDIDATES` matches are ranked: a word that stands in every third message stays affordable. A query
that finds nothing is tried again with what its words may have meant, and at last with any of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from rapidfuzz.distance import Prefix

from vkteams_daemon.search.results import MARKS, Leg, Ranked
from vkteams_daemon.search.retrieval import bm25
from vkteams_daemon.search.retrieval.query import Query, Term, read, tsqueries
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.search.spelling import correction
from vkteams_daemon.search.spelling.vocabulary import Vocabulary

CANDIDATES = 1000
"""How many of the newest matches are ranked."""

_FEW = 5  # terms that are all looked for in other forms; more are a question, and no message repeats it
_SHORT = 300
# A sign that a message may hold itself cannot be told from a mark: these two are taken out of it first.
_BEGIN, _END = "\x02", "\x03"
_MARKED = f'StartSel="{_BEGIN}", StopSel="{_END}"'
_WHOLE = f"HighlightAll=true, {_MARKED}"
_PARTS = f'MaxFragments=2, MinWords=8, MaxWords=20, FragmentDelimiter=" … ", {_MARKED}'


@dataclass(frozen=True, slots=True)
class Matches:
    """What a text search found.

    Attributes:
        ranked: best first.
        query: what found them: the query as read, or what it may have meant.
        relaxed: whether they hold only some of its words.
    """

    ranked: list[Ranked]
    query: Query
    relaxed: bool = False


def search_text(
    connection: psycopg.Connection[Any],
    text: str,
    scope: Scope,
    limit: int,
    vocabulary: Callable[[], Vocabulary],
) -> Matches:
    """The messages that match the query, by ts_rank_cd, the newer first where ranks are equal.

    Args:
        connection: any connection to the archive.
        text: in web search syntax; never a syntax error. A query of stop words alone finds nothing.
        scope: where to look.
        limit: most messages.
        vocabulary: gives the archive's words; asked only where the query finds nothing.
    """
    query = read(connection, text)
    found = matching(connection, query, scope, limit)
    if found or not query.terms:
        return Matches(found, query)
    meant = correction.corrected(connection, query, vocabulary())
    found = matching(connection, meant, scope, limit)
    if found:
        return Matches(found, meant)
    if len(query.terms) <= _FEW:
        wider = correction.corrected(connection, query, vocabulary(), wider=True)
        found = matching(connection, wider, scope, limit)
        if found:
            return Matches(found, wider)
    some = bm25.any_word(connection, meant, replace(scope, without=query.without), limit)
    return Matches(some, meant, relaxed=bool(some))


def matching(connection: psycopg.Connection[Any], query: Query, scope: Scope, limit: int) -> list[Ranked]:
    """The messages that match the query as it is."""
    if not query.terms:
        return []
    with connection.cursor(row_factory=tuple_row) as cursor:
        # prepare=False: the planner must see the query to know whether its words are rare or common.
        cursor.execute(
            "WITH candidates AS MATERIALIZED ("
            "  SELECT m.chat_id, m.msg_id, m.sent_at, m.search FROM messages m"
            f"  WHERE m.search @@ %(query)s::tsquery AND {scope.condition} ORDER BY m.sent_at DESC LIMIT {CANDIDATES})"
            " SELECT chat_id, msg_id, ts_rank_cd(search, %(query)s::tsquery) AS score FROM candidates"
            " ORDER BY score DESC, sent_at DESC, chat_id, msg_id LIMIT %(limit)s".encode(),
            {**scope.parameters, "query": query.tsquery, "limit": limit},
            prepare=False,
        )
        rows = cursor.fetchall()
    return [
        Ranked(chat_id, msg_id, score, legs=(Leg("text", rank, score),))
        for rank, (chat_id, msg_id, score) in enumerate(rows, 1)
    ]


def snippets(connection: psycopg.Connection[Any], ranked: list[Ranked], query: Query) -> list[str]:
    """The part of each message that the query's words stand in, marked; a short message whole."""
    tsquery = " | ".join(f"({term.tsquery})" for term in query.terms)
    if not ranked or not tsquery:
        return [""] * len(ranked)
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT r.place, ts_headline('vkteams'::regconfig, translate(left(m.text, 100000), %(signs)s, ''), "
            f" %(query)s::tsquery, CASE WHEN length(m.text) <= {_SHORT} THEN %(whole)s ELSE %(parts)s END)"
            " FROM unnest(%(chats)s::text[], %(messages)s::text[]) WITH ORDINALITY AS r (chat_id, msg_id, place)"
            " JOIN messages m ON m.chat_id = r.chat_id AND m.msg_id = r.msg_id".encode(),
            {
                "query": tsquery,
                "signs": _BEGIN + _END,
                "whole": _WHOLE,
                "parts": _PARTS,
                "chats": [r.chat_id for r in ranked],
                "messages": [r.msg_id for r in ranked],
            },
            prepare=False,
        )
        shown: dict[int, str] = dict(cursor.fetchall())
    return [_marked(shown.get(place) or "") for place in range(1, len(ranked) + 1)]


def _marked(headline: str) -> str:
    """The headline with `MARKS`; the parts of an identifier, each found by itself, are one."""
    return headline.replace(_END + _BEGIN, "").replace(_BEGIN, MARKS[0]).replace(_END, MARKS[1])


def shown_for(connection: psycopg.Connection[Any], query: Query, best: Ranked, marked: str) -> str | None:
    """The query that these are results for, in the words of the best hit; None where it holds what was typed.

    Args:
        connection: any connection to the archive.
        query: what found the hits.
        best: the first hit.
        marked: its snippet; its marked words come in the place of the lexemes that stand for them.
    """
    words = marked.split(MARKS[0])[1::2]
    terms = [term for term in query.terms if term.meant is not None and not term.phrase]
    changed = {}
    for term, as_typed in zip(terms, _holds(connection, best, [term.typed for term in terms]), strict=True):
        meant = term.meant or ""
        if as_typed:
            changed[term.typed] = replace(term, meant=None)
            continue
        likeliest = max(words, key=lambda word: Prefix.similarity(word.lower(), meant), default="")
        if Prefix.similarity(likeliest.lower(), meant) >= min(3, len(meant)):
            changed[term.typed] = replace(term, meant=likeliest)
    shown = query.with_terms(changed)
    return shown.shown if shown.changed else None


def _holds(connection: psycopg.Connection[Any], ranked: Ranked, words: list[str]) -> list[bool]:
    """Whether the message holds each of these words."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            b"SELECT m.search @@ q.tsquery::tsquery FROM unnest(%s::text[]) WITH ORDINALITY AS q (tsquery, place)"
            b" JOIN messages m ON m.chat_id = %s AND m.msg_id = %s ORDER BY q.place",
            (tsqueries(connection, [Term(word) for word in words]), ranked.chat_id, ranked.msg_id),
        )
        return [bool(holds) for (holds,) in cursor]
