"""Search by meaning: the messages nearest to the query by every active model, as one ranking.

A cosine alone says little: models differ in where their cosines lie, and so do queries. What counts is how far a
message stands out from the last of the `PER_MODEL` nearest, as a share of the way to 1. This calibrates each model by
the query itself. On the benchmark's conversations (bench/relevance.py) it finds as much as cosines that are
standardised by all messages of the archive, and the answer of a confined reader depends only on what they may see. Of
several models, a message has the mean of what they give, weighed by how well each model reads the query's language.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vkteams_daemon.embedding import catalogue
from vkteams_daemon.search import notes
from vkteams_daemon.search.messages import MessageKey
from vkteams_daemon.search.results import Ranked, RetrieverScore
from vkteams_daemon.search.retrieval.query_encoder import QueryEncoder
from vkteams_daemon.search.retrieval.semantic import cosines, search_semantic
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

PER_MODEL = 100
"""How many hits of each model are put together."""

_GUESS = 0.2  # what a model's cosines count beside the words if it has not learnt the query's language


@dataclass(frozen=True, slots=True)
class Nearest:
    """The messages nearest to a query.

    Attributes:
        ranked: best first; by one model with their cosines, by several with how far they stand out.
        stand_out: how far a message stands out, up to 1, by key; of the ranked messages and of the others.
        guess: whether no model understands the query, so that all this is little more than a guess.
        note: says so; None if the ranking is no weaker than usual.
    """

    ranked: list[Ranked] = field(default_factory=list)
    stand_out: Mapping[MessageKey, float] = field(default_factory=dict)
    guess: bool = False
    note: str | None = None


def by_meaning(
    connection: Connection,
    text: str,
    encoders: Sequence[QueryEncoder],
    scope: Scope,
    limit: int,
    *,
    fused: bool = False,
    wished: Scope | None = None,
    others: Sequence[MessageKey] = (),
) -> Nearest:
    """The messages nearest to the text.

    Args:
        connection: any connection to the archive.
        text: the query.
        encoders: of the models to ask.
        scope: where to look.
        limit: most messages.
        fused: see `search_semantic`.
        wished: a part of the scope whose nearest messages are ranked as well.
        others: messages that were found otherwise; `stand_out` has them as well.
    """
    if not encoders or not text:
        return Nearest()
    vectors = {encoder: vector for encoder in encoders if any((vector := encoder.vector(text)).plain)}
    if not vectors:
        return Nearest(note=notes.UNREADABLE.format(models=_names(encoders)))
    weights = {encoder: catalogue.weight(encoder.stored.name, text) for encoder in vectors}
    # A model that has learnt no Russian only disturbs one that has.
    able = [encoder for encoder in vectors if weights[encoder]]
    asked = able or list(vectors)
    count = limit if len(asked) == 1 else max(limit, PER_MODEL)
    found = []
    for encoder in asked:
        vector, model = vectors[encoder], encoder.stored
        ranking = search_semantic(connection, vector, model, scope, count, fused=fused)
        floor = min((one.score for one in ranking[:PER_MODEL]), default=1.0)
        if wished:
            ranking = _united(ranking, search_semantic(connection, vector, model, wished, PER_MODEL, fused=fused))
        found.append(_Found(model.name, weights[encoder] if able else 1.0, floor, ranking))
    keys = dict.fromkeys([*(one.key for of in found for one in of.ranking), *others])
    for of, encoder in zip(found, asked, strict=True):
        unknown = [key for key in keys if key not in of.cosines]
        of.cosines.update(cosines(connection, vectors[encoder], encoder.stored, unknown))
    stand_out = _stand_out(found, keys)
    ranked = found[0].ranking if len(found) == 1 else _merge(found, stand_out)
    guess = notes.ENGLISH_MODEL.format(models=_names(vectors), recommended=catalogue.RECOMMENDED)
    if not able:
        stand_out = {key: _GUESS * score for key, score in stand_out.items()}
    return Nearest(ranked[:limit], stand_out, guess=not able, note=guess if ranked and not able else None)


def _names(encoders: Iterable[QueryEncoder]) -> str:
    return " and ".join(encoder.stored.name for encoder in encoders)


class _Found:
    """What one model found: its weight, where its cosines begin to stand out, its ranking, and all cosines known."""

    def __init__(self, model: str, weight: float, floor: float, ranking: list[Ranked]) -> None:
        self.model = model
        self.weight = weight
        self.floor = floor
        self.ranking = ranking
        self.cosines = {one.key: one.score for one in ranking}


def _united(ranking: list[Ranked], more: list[Ranked]) -> list[Ranked]:
    """One ranking of both, by cosine."""
    by_key = {one.key: one for one in (*more, *ranking)}
    ordered = sorted(by_key.values(), key=lambda one: (-one.score, one.key))
    return [
        replace(one, by_retriever=(RetrieverScore("semantic", rank, one.score),)) for rank, one in enumerate(ordered, 1)
    ]


def _stand_out(found: Sequence[_Found], keys: Iterable[MessageKey]) -> dict[MessageKey, float]:
    """How far each message stands out, by key."""
    scores = dict.fromkeys(keys, 0.0)
    whole = sum(of.weight for of in found)
    for of in found:
        for key, cosine in of.cosines.items() if of.floor < 1 else ():  # without a vector it does not stand out
            scores[key] += of.weight / whole * (cosine - of.floor) / (1 - of.floor)
    return scores


def _merge(found: Sequence[_Found], stand_out: Mapping[MessageKey, float]) -> list[Ranked]:
    """One ranking of what several models found, best first."""
    legs: dict[MessageKey, list[RetrieverScore]] = {}
    for of in found:
        for rank, one in enumerate(of.ranking, 1):
            legs.setdefault(one.key, []).append(RetrieverScore(f"semantic {of.model}", rank, one.score))
    ordered = sorted(legs, key=lambda key: (-stand_out[key], key))
    return [
        Ranked(*key, stand_out[key], by_retriever=(RetrieverScore("semantic", rank, stand_out[key]), *legs[key]))
        for rank, key in enumerate(ordered, 1)
    ]
