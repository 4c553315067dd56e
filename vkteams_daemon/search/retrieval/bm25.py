"""BM25 (Robertson and Zaragoza 2009): messages with any of a query's words, the rarest counting most.

The weights come from the archive's own counts, for a confined reader from counts of what the reader may see. They are
shares of the weight of a word that one message alone holds, so that a score says how sure a hit is: about 1 for that
word alone, in an archive of any size. Chat messages are short and repeat no word, so a word's frequency in a message is
taken as one. At most `CANDIDATES` messages are scored, those of the rarest words; commoner words only add to their
scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from vkteams_daemon.search.results import Ranked, RetrieverScore
from vkteams_daemon.search.retrieval.document_frequencies import DocumentFrequencies
from vkteams_daemon.search.retrieval.newest_matches import rank_newest
from vkteams_daemon.search.retrieval.query import Query, own_words
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

CANDIDATES = 1500
"""How many messages are scored; if all words are common, the newest ones."""

# Measured on the training half of the benchmark's conversations (bench/relevance.py): nDCG@10 is 0.192 with these
# values, 0.188 with the usual k1 = 1.2 and b = 0.75, and 0.17 with no weight for the length at all.
_K1 = 0.6
_B = 0.5

_COPY = 0.75
"""The weight of a word that a message only forwards or repeats: an original ranks before its copies of any length."""

_GUESSED = 0.5
"""What a word counts that the program took for a mistyped one."""


@dataclass(frozen=True, slots=True)
class WeightedTerm:
    """A term, how many messages hold it, and its weight in 0..1: the logarithm of how rare it is."""

    tsquery: str
    messages: int
    weight: float


def any_word(
    connection: Connection,
    terms: Sequence[WeightedTerm],
    scope: Scope,
    limit: int,
    frequencies: DocumentFrequencies,
) -> list[Ranked]:
    """The messages with any of a query's words, best first, each with the share of the query's weight it holds.

    Args:
        connection: any connection to the archive.
        terms: of the query, the rarest first; the alternatives of a term are words like others.
        scope: where to look; it must exclude what the query excludes.
        limit: most messages.
        frequencies: of the question.
    """
    remaining = [term for term in terms if term.messages]
    while remaining:
        rarest = _rarest(remaining)
        ranked = rank_newest(
            connection, scope, CANDIDATES, sum(term.messages for term in rarest), frequencies,
            partial(_score, connection, rarest, terms, limit),
        )  # fmt: skip
        if ranked:
            return ranked
        remaining = remaining[len(rarest) :]  # the archive holds the rarest words, but not within the scope
    return []


def _score(
    connection: Connection, rarest: list[WeightedTerm], terms: Sequence[WeightedTerm], limit: int, scope: Scope
) -> tuple[list[Ranked], int]:
    """The newest messages with one of the rarest terms, scored by all terms, and how many were scored."""
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
        f" / (1::float8 + {_K1}::float8 * ({1 - _B}::float8 + {_B}::float8 * long)) AS score,"
        " pg_catalog.count(*) OVER () FROM weighed"
        " ORDER BY score DESC, sent_at DESC, chat_id, msg_id LIMIT %(limit)s".encode(),
        parameters,
        prepare=False,
    ).fetchall()
    whole = sum(term.weight for term in terms)
    ranked = [
        Ranked(chat_id, msg_id, score, by_retriever=(RetrieverScore("text", rank, score, weight / whole),))
        for rank, (chat_id, msg_id, weight, score, _) in enumerate(rows, 1)
    ]
    return ranked, rows[0][-1] if rows else 0


def weighted_terms(query: Query, frequencies: DocumentFrequencies) -> list[WeightedTerm]:
    """The query's terms with their weights, the rarest first."""
    shares: dict[str, float] = {}
    for term in query.terms:
        share = _GUESSED if term.guessed else 1.0
        shares[term.tsquery] = max(share, shares.get(term.tsquery, 0.0))
    if not shares:
        return []
    counts = frequencies.of(shares)
    total = max(frequencies.population, *counts.values())

    def rarity(count: int) -> float:
        return math.log(1 + (total - count + 0.5) / (count + 0.5))

    terms = [
        WeightedTerm(tsquery, counts[tsquery], share * rarity(counts[tsquery]) / rarity(min(1, counts[tsquery])))
        for tsquery, share in shares.items()
    ]
    return sorted(terms, key=lambda term: term.messages)


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
