"""Any of a query's words, the rarest counting most: BM25 (Robertson and Zaragoza 2009) over the archive's own counts.

Chat messages are short and repeat no word, so a word is in a message or not: its frequency there is taken as one. The
messages of the rarest words are looked at, `CANDIDATES` of them at most; commoner words only add to their scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.search.results import Leg, Ranked
from vkteams_daemon.search.retrieval.query import Query
from vkteams_daemon.search.scope import Scope

CANDIDATES = 1500
"""How many messages are scored; of words that are all common, the newest ones."""

# Measured on the training half of the benchmark's conversations (bench/relevance.py): nDCG@10 0.192; the usual
# k1 = 1.2, b = 0.75 give 0.188, no weight for the length at all 0.17.
_K1 = 0.6
_B = 0.5
_COUNTED = 2000
"""A word that `words` does not know is counted up to here."""

_ONE_LEXEME = re.compile(r"^'((?:[^'\\]|''|\\\\)+)'$")


@dataclass(frozen=True, slots=True)
class Weighed:
    """A term and how much it says: the logarithm of how rare it is."""

    tsquery: str
    messages: int
    weight: float


def any_word(connection: psycopg.Connection[Any], query: Query, scope: Scope, limit: int) -> list[Ranked]:
    """The messages with any of the query's words, best first, each with the share of the query's weight it holds.

    Args:
        connection: any connection to the archive.
        query: as read, or corrected; alternatives are words like others.
        scope: where to look; what the query excludes, it must exclude, too.
        limit: most messages.
    """
    terms = weigh(connection, query)
    known = [term for term in terms if term.messages]
    while known:
        chosen = _rarest(known)
        if ranked := _with_any(connection, chosen, terms, scope, limit):
            return ranked
        known = known[len(chosen) :]  # the rarest are known elsewhere, and not where we look
    return []


def _with_any(
    connection: psycopg.Connection[Any], chosen: list[Weighed], terms: list[Weighed], scope: Scope, limit: int
) -> list[Ranked]:
    values: dict[str, Any] = {**scope.parameters, "limit": limit}
    values["chosen"] = " | ".join(f"({term.tsquery})" for term in chosen)
    found = []
    for n, term in enumerate(terms):
        values |= {f"term{n}": term.tsquery, f"weight{n}": term.weight}
        found.append(f"(c.search @@ %(term{n})s::tsquery)::int * %(weight{n})s::float8")
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "WITH candidates AS MATERIALIZED (SELECT m.chat_id, m.msg_id, m.sent_at, m.search FROM messages m"
            f" WHERE m.search @@ %(chosen)s::tsquery AND {scope.condition}"
            f" ORDER BY m.sent_at DESC LIMIT {CANDIDATES}),"
            f" weighed AS (SELECT c.chat_id, c.msg_id, c.sent_at, {' + '.join(found)} AS found,"
            "  length(c.search) / avg(length(c.search)) OVER () AS long FROM candidates c)"
            f" SELECT chat_id, msg_id, found, found * {1 + _K1} / (1 + {_K1} * (1 - {_B} + {_B} * long)) AS score"
            " FROM weighed ORDER BY score DESC, sent_at DESC, chat_id, msg_id LIMIT %(limit)s".encode(),
            values,
            prepare=False,
        )
        rows = cursor.fetchall()
    whole = sum(term.weight for term in terms)
    return [
        Ranked(chat_id, msg_id, score, legs=(Leg("text", rank, score, found / whole),))
        for rank, (chat_id, msg_id, found, score) in enumerate(rows, 1)
    ]


def known(connection: psycopg.Connection[Any], query: Query) -> set[str]:
    """What finds the query's words that some message holds."""
    return {term.tsquery for term in weigh(connection, query) if term.messages}


def weigh(connection: psycopg.Connection[Any], query: Query) -> list[Weighed]:
    """The query's terms with their weights, the rarest first."""
    tsqueries = list(dict.fromkeys(term.tsquery for term in query.terms))
    if not tsqueries:
        return []
    counts = counted(connection, tsqueries)
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT greatest((SELECT reltuples FROM pg_class WHERE oid = 'messages'::regclass),"
            " (SELECT messages FROM words_counted), 1)::float8"
        )
        row = cursor.fetchone()
    assert row is not None
    everything = max(row[0], *counts)
    return sorted(
        (
            Weighed(tsquery, count, math.log(1 + (everything - count + 0.5) / (count + 0.5)))
            for tsquery, count in zip(tsqueries, counts, strict=True)
        ),
        key=lambda term: term.messages,
    )


def counted(connection: psycopg.Connection[Any], tsqueries: Sequence[str]) -> list[int]:
    """In about how many messages each of these finds something; 0 is exact, and so is what `words` does not know."""
    lexemes = [match[1].replace("''", "'") if (match := _ONE_LEXEME.match(q)) else None for q in tsqueries]
    with connection.cursor(row_factory=tuple_row) as cursor:
        # A bounded count and not EXISTS: for that the planner would read the table until it finds something.
        cursor.execute(
            "SELECT coalesce(w.messages, (SELECT count(*) FROM (SELECT FROM messages m"
            f" WHERE m.search @@ t.q::tsquery AND m.deleted_at IS NULL LIMIT {_COUNTED}) AS few))"
            " FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS t (q, lexeme, place)"
            " LEFT JOIN words w ON w.word = t.lexeme ORDER BY t.place".encode(),
            (list(tsqueries), lexemes),
            prepare=False,
        )
        return [int(row[0]) for row in cursor]


def _rarest(terms: list[Weighed]) -> list[Weighed]:
    """The terms whose messages are looked at: the first, which are the rarest, as many as fit among the candidates."""
    chosen: list[Weighed] = []
    total = 0
    for term in terms:
        if chosen and total + term.messages > CANDIDATES:
            break
        chosen.append(term)
        total += term.messages
    return chosen
