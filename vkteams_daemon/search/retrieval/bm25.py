"""BM25 (Robertson and Zaragoza 2009): messages with any of a query's words, the rarest counting most.

The weights come from the archive's own counts, for a confined reader from counts of what the reader may see. They are
shares of the weight of a word that one message alone holds, so that a score says how sure a hit is: about 1 for that
word alone, in an archive of any size. Chat messages are short and repeat no word, so a word's frequency in a message is
taken as one. At most `CANDIDATES` messages are scored, those of the rarest words; commoner words only add to their
scores.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vkteams_daemon.search.results import Ranked, RetrieverScore
from vkteams_daemon.search.retrieval.query import Query, own_words
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

CANDIDATES = 1500
"""How many messages are scored; if all words are common, the newest ones."""

# Measured on the training half of the benchmark's conversations (bench/relevance.py): nDCG@10 is 0.192 with these
# values, 0.188 with the usual k1 = 1.2 and b = 0.75, and 0.17 with no weight for the length at all.
_K1 = 0.6
_B = 0.5
_COUNT_LIMIT = 2000
"""The count at which counting stops for a word that the table `words` does not hold, and for a young archive."""
_CONFINED_COUNT_LIMIT = 50_000
"""The count at which counting stops for all messages that a confined reader may see."""
_WHOLE = 20_000
"""Up to so many messages that a confined reader may see, all of them are read to count words."""
_SAMPLE = 2000
"""Of more, so many of the newest: their share with a common word is taken for that of all of them."""
_COMMON = 20
"""How many messages of the sample have a common word; rarer ones are counted, which the index does quickly."""

_COPY = 0.75
"""The weight of a word that a message only forwards or repeats: an original ranks before its copies of any length."""

_GUESSED = 0.5
"""What a word counts that the program took for a mistyped one."""

_ONE_LEXEME = re.compile(r"^'((?:[^'\\]|''|\\\\)+)'$")


@dataclass(frozen=True, slots=True)
class WeightedTerm:
    """A term, how many messages hold it, and its weight in 0..1: the logarithm of how rare it is."""

    tsquery: str
    messages: int
    weight: float


def any_word(connection: Connection, terms: Sequence[WeightedTerm], scope: Scope, limit: int) -> list[Ranked]:
    """The messages with any of a query's words, best first, each with the share of the query's weight it holds.

    Args:
        connection: any connection to the archive.
        terms: of the query, the rarest first; the alternatives of a term are words like others.
        scope: where to look; it must exclude what the query excludes.
        limit: most messages.
    """
    remaining = [term for term in terms if term.messages]
    while remaining:
        rarest = _rarest(remaining)
        if ranked := _score(connection, rarest, terms, scope, limit):
            return ranked
        remaining = remaining[len(rarest) :]  # the archive holds the rarest words, but not within the scope
    return []


def _score(
    connection: Connection, rarest: list[WeightedTerm], terms: Sequence[WeightedTerm], scope: Scope, limit: int
) -> list[Ranked]:
    """The messages with one of the rarest terms, scored by all terms."""
    parameters: dict[str, Any] = {**scope.parameters, "limit": limit}
    parameters["rarest"] = " | ".join(f"({term.tsquery})" for term in rarest)
    weights = []
    for n, term in enumerate(terms):
        parameters |= {f"term{n}": term.tsquery, f"own{n}": own_words(term.tsquery), f"weight{n}": term.weight}
        weights.append(
            f"CASE WHEN c.search @@ %(term{n})s::tsquery THEN %(weight{n})s::float8"
            f" * CASE WHEN c.quotes AND NOT c.search @@ %(own{n})s::tsquery THEN {_COPY}::float8 ELSE 1::float8 END"
            " ELSE 0::float8 END"
        )
    rows = connection.execute(
        "WITH candidates AS MATERIALIZED (SELECT m.chat_id, m.msg_id, m.sent_at, m.search,"
        " (m.forward IS NOT NULL OR m.reply_to_msg_id IS NOT NULL) AS quotes FROM messages m"
        f" WHERE m.search @@ %(rarest)s::tsquery AND {scope.condition}"
        f" ORDER BY m.sent_at DESC LIMIT {CANDIDATES}),"
        f" weighed AS (SELECT c.chat_id, c.msg_id, c.sent_at, {' + '.join(weights)} AS weight,"
        "  pg_catalog.length(c.search)::float8 / pg_catalog.avg(pg_catalog.length(c.search)::float8) OVER () AS long"
        "  FROM candidates c)"
        f" SELECT chat_id, msg_id, weight, weight * {1 + _K1}::float8"
        f" / (1::float8 + {_K1}::float8 * ({1 - _B}::float8 + {_B}::float8 * long)) AS score"
        " FROM weighed ORDER BY score DESC, sent_at DESC, chat_id, msg_id LIMIT %(limit)s".encode(),
        parameters,
        prepare=False,
    )
    whole = sum(term.weight for term in terms)
    return [
        Ranked(chat_id, msg_id, score, by_retriever=(RetrieverScore("text", rank, score, weight / whole),))
        for rank, (chat_id, msg_id, weight, score) in enumerate(rows, 1)
    ]


def weighted_terms(connection: Connection, query: Query, scope: Scope) -> list[WeightedTerm]:
    """The query's terms with their weights, the rarest first."""
    shares: dict[str, float] = {}
    for term in query.terms:
        share = _GUESSED if term.guessed else 1.0
        shares[term.tsquery] = max(share, shares.get(term.tsquery, 0.0))
    if not shares:
        return []
    tsqueries = list(shares)
    population = _message_count(connection, scope)
    counts = document_frequencies(connection, tsqueries, scope, population)
    total = max(population, *counts)

    def rarity(count: int) -> float:
        return math.log(1 + (total - count + 0.5) / (count + 0.5))

    terms = [
        WeightedTerm(tsquery, count, shares[tsquery] * rarity(count) / rarity(min(1, count)))
        for tsquery, count in zip(tsqueries, counts, strict=True)
    ]
    return sorted(terms, key=lambda term: term.messages)


def document_frequencies(
    connection: Connection, tsqueries: Sequence[str], scope: Scope, population: float | None = None
) -> list[int]:
    """About how many messages each tsquery finds, in the archive or, for a confined reader, in what they may see.

    0 is exact. A count that the table `words` does not hold is exact up to its limit.

    Args:
        connection: any connection to the archive.
        tsqueries: in PostgreSQL's notation.
        scope: of the question.
        population: how many messages that are; None if the caller has not counted them.
    """
    if scope.confined:
        total = _message_count(connection, scope) if population is None else population
        return _confined_counts(connection, tsqueries, scope.population, total)
    lexemes = [match[1].replace("''", "'") if (match := _ONE_LEXEME.match(q)) else None for q in tsqueries]
    rows = connection.execute(
        "SELECT word, messages FROM words WHERE word = ANY(%s)", ([lexeme for lexeme in lexemes if lexeme],)
    )
    counted: dict[str | None, int] = dict(rows.fetchall())
    unknown = [q for q, lexeme in zip(tsqueries, lexemes, strict=True) if lexeme not in counted]
    bounded = dict(zip(unknown, _bounded_counts(connection, unknown, Scope(), _COUNT_LIMIT), strict=True))
    return [bounded[q] if q in bounded else counted[lexeme] for q, lexeme in zip(tsqueries, lexemes, strict=True)]


def _confined_counts(connection: Connection, tsqueries: Sequence[str], population: Scope, total: float) -> list[int]:
    """About how many of the `total` messages that a confined reader may see each tsquery finds."""
    if not tsqueries:
        return []
    # By the index of words the server would read all messages with a common word, and those of other chats as well.
    part = "" if total <= _WHOLE else f" ORDER BY m.sent_at DESC, m.chat_id, m.msg_id LIMIT {_SAMPLE}"
    counts = ", ".join(
        f"pg_catalog.count(*) FILTER (WHERE search @@ %(query{n})s::tsquery)" for n in range(len(tsqueries))
    )
    row = connection.execute(
        f"SELECT count(*), {counts} FROM (SELECT m.search FROM messages m WHERE {population.condition}{part})"
        " AS sample".encode(),
        {**population.parameters, **{f"query{n}": q for n, q in enumerate(tsqueries)}},
        prepare=False,
    ).fetchone()
    assert row is not None
    size, *found = row
    if not part:
        return [int(count) for count in found]
    common = {q: round(total * n / size) for q, n in zip(tsqueries, found, strict=True) if n >= _COMMON}
    rare = [q for q in tsqueries if q not in common]
    known = common | dict(zip(rare, _bounded_counts(connection, rare, population, _COUNT_LIMIT), strict=True))
    return [known[q] for q in tsqueries]


def _bounded_counts(connection: Connection, tsqueries: Sequence[str], scope: Scope, limit: int) -> list[int]:
    """How many messages of the scope each tsquery finds, counted up to a limit."""
    if not tsqueries:
        return []
    # A bounded count instead of EXISTS: for EXISTS the planner would read the table until it finds a match.
    counts = ", ".join(
        f"(SELECT count(*) FROM (SELECT 1 FROM messages m WHERE m.search @@ %(query{n})s::tsquery"
        f" AND {scope.condition} LIMIT {limit}) AS few)"
        for n in range(len(tsqueries))
    )
    row = connection.execute(
        f"SELECT {counts}".encode(),
        {**scope.parameters, **{f"query{n}": q for n, q in enumerate(tsqueries)}},
        prepare=False,
    ).fetchone()
    assert row is not None
    return [int(count) for count in row]


def _message_count(connection: Connection, scope: Scope) -> float:
    """About how many messages the archive has or, for a confined reader, how many they may see."""
    if scope.confined and scope.population.chats_alone:
        row = connection.execute(
            "SELECT greatest(coalesce(pg_catalog.sum(messages - deleted), 0), 1)::float8 FROM chat_user_counts"
            " WHERE %(chat_ids)s::text[] IS NULL OR chat_id = ANY(%(chat_ids)s)",
            scope.population.parameters,
        ).fetchone()
    elif scope.confined:
        row = connection.execute(
            f"SELECT greatest(count(*), 1)::float8 FROM (SELECT 1 FROM messages m WHERE {scope.population.condition}"
            f" LIMIT {_CONFINED_COUNT_LIMIT}) AS few".encode(),
            scope.population.parameters,
            prepare=False,
        ).fetchone()
    else:
        # Before the first count of words the archive is small. The planner's estimate would depend on the moment, and
        # on a cluster there is none.
        row = connection.execute(
            "SELECT greatest(coalesce((SELECT messages FROM words_counted),"
            " (SELECT pg_catalog.sum(messages - deleted) FROM chat_user_counts)::bigint), 1)::float8"
        ).fetchone()
    assert row is not None
    return float(row[0])


def _rarest(terms: list[WeightedTerm]) -> list[WeightedTerm]:
    """The first terms, which are the rarest: as many as fit among the candidates, at least one."""
    rarest: list[WeightedTerm] = []
    total = 0
    for term in terms:
        if rarest and total + term.messages > CANDIDATES:
            break
        rarest.append(term)
        total += term.messages
    return rarest
