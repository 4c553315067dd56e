"""Search by meaning: the messages nearest to the query by every active model, as one ranking.

A cosine alone says little: models differ in where their cosines lie. What counts is how far a message stands out from
the last of the `PER_MODEL` nearest, as a share of the way to 1. Of several models, a message has the mean of what they
give, weighed by how well each model reads the query's language. On the benchmark's conversations (bench/relevance.py)
this finds as much as cosines that are standardised by all messages of the archive. It needs none of them: the answer of
a confined reader depends only on what they may see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vkteams_daemon.embedding import catalogue
from vkteams_daemon.search.messages import MessageKey
from vkteams_daemon.search.results import Ranked, RetrieverScore
from vkteams_daemon.search.retrieval.query_encoder import QueryEncoder
from vkteams_daemon.search.retrieval.semantic import Vector, cosines, search_semantic
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

PER_MODEL = 100
"""How many hits of each model are put together."""

_ENGLISH_MODEL = (
    "The model {} was made for English: what it takes for the meaning of Russian words is little more than a guess;"
    f" {catalogue.RECOMMENDED} reads both."
)
_UNREADABLE = "The model {} knows nothing of this query: no message was found by its meaning."


def by_meaning(
    connection: Connection,
    text: str,
    encoders: Sequence[QueryEncoder],
    scope: Scope,
    limit: int,
    ef_search: int,
) -> tuple[list[Ranked], str | None]:
    """The messages nearest to the text, best first, and a note if no model understands it.

    Args:
        connection: any connection to the archive.
        text: the query.
        encoders: of the models to ask.
        scope: where to look.
        limit: most messages.
        ef_search: see `search_semantic`.
    """
    if not encoders or not text:
        return [], None
    vectors = {encoder: vector for encoder in encoders if (vector := encoder.vector(text)).any()}
    if not vectors:
        return [], _UNREADABLE.format(" and ".join(encoder.stored.name for encoder in encoders))
    weights = {encoder: catalogue.weight(encoder.stored.name, text) for encoder in vectors}
    # A model that has learnt no Russian only disturbs one that has.
    able = [encoder for encoder in vectors if weights[encoder]]
    note = None if able else _ENGLISH_MODEL.format(" and ".join(encoder.stored.name for encoder in vectors))
    asked = able or list(vectors)
    count = limit if len(asked) == 1 else max(limit, PER_MODEL)
    rankings = {
        encoder: search_semantic(connection, vectors[encoder], encoder.stored, scope, count, ef_search=ef_search)
        for encoder in asked
    }
    if len(asked) == 1:
        ranked = rankings[asked[0]]
    else:
        ranked = _merge([
            _Found(
                encoder.stored.name,
                weights[encoder] if able else 1.0,
                ranking,
                _others(connection, vectors[encoder], encoder, ranking, rankings),
            )
            for encoder, ranking in rankings.items()
        ])[:limit]  # fmt: skip
    return ranked, note if ranked else None


def _others(
    connection: Connection,
    vector: Vector,
    encoder: QueryEncoder,
    ranking: Sequence[Ranked],
    rankings: Mapping[QueryEncoder, Sequence[Ranked]],
) -> dict[MessageKey, float]:
    """The cosines by this model of the messages that only other models have found."""
    own = {one.key for one in ranking}
    keys = list(dict.fromkeys(one.key for other in rankings.values() for one in other if one.key not in own))
    return cosines(connection, vector, encoder.stored, keys)


@dataclass(frozen=True, slots=True)
class _Found:
    """What one model found: its weight, its own ranking, and its cosines for what others found."""

    model: str
    weight: float
    ranking: Sequence[Ranked]
    others: Mapping[MessageKey, float]


def _merge(found: Sequence[_Found]) -> list[Ranked]:
    """One ranking of what several models found, best first."""
    keys = list(dict.fromkeys(one.key for of in found for one in of.ranking))
    scores = dict.fromkeys(keys, 0.0)
    legs: dict[MessageKey, list[RetrieverScore]] = {}
    whole = sum(of.weight for of in found)
    for of in found:
        floor = min((one.score for one in of.ranking[:PER_MODEL]), default=1.0)
        ranks = {one.key: rank for rank, one in enumerate(of.ranking, 1)}
        known = {**of.others, **{one.key: one.score for one in of.ranking}}
        for key in keys:
            if key in known and floor < 1:  # without a vector it does not stand out
                scores[key] += of.weight / whole * (known[key] - floor) / (1 - floor)
            if key in ranks:
                legs.setdefault(key, []).append(RetrieverScore(f"semantic {of.model}", ranks[key], known[key]))
    merged = [Ranked(*key, scores[key]) for key in sorted(keys, key=lambda key: (-scores[key], key))]
    return [
        replace(one, by_retriever=(RetrieverScore("semantic", rank, one.score), *legs.get(one.key, ())))
        for rank, one in enumerate(merged, 1)
    ]
