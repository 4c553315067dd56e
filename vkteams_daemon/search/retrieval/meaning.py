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
from functools import partial

from vkteams_daemon.embedding import catalogue
from vkteams_daemon.embedding.language_axis import QueryVector
from vkteams_daemon.search import notes
from vkteams_daemon.search.legs import Legs
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


class ByMeaning:
    """The messages nearest to a text, as `search` finds them and `nearest` puts them together.

    Args:
        text: the query.
        encoders: of the models to ask.
        scope: where to look.
        limit: most messages.
        fused: see `search_semantic`.
        wished: a part of the scope whose nearest messages are ranked as well.
        legs: those of the question; of several models each is one.
    """

    def __init__(
        self,
        text: str,
        encoders: Sequence[QueryEncoder],
        scope: Scope,
        limit: int,
        *,
        legs: Legs,
        fused: bool = False,
        wished: Scope | None = None,
    ) -> None:
        self._text, self._encoders = text, encoders if text else ()
        self._scope, self._limit = scope, limit
        self._fused, self._wished = fused, wished
        self._legs = legs
        self._vectors: dict[QueryEncoder, QueryVector] = {}
        self._able = False  # whether a model has learnt the query's language
        self._found: dict[QueryEncoder, _Found] = {}

    def search(self, connection: Connection) -> None:
        """Ask each model.

        Args:
            connection: any connection to the archive.
        """
        self._vectors = {
            encoder: vector for encoder in self._encoders if any((vector := encoder.vector(self._text)).plain)
        }
        weights = {encoder: catalogue.weight(encoder.stored.name, self._text) for encoder in self._vectors}
        # A model that has learnt no Russian only disturbs one that has.
        able = [encoder for encoder in self._vectors if weights[encoder]]
        self._able = bool(able)
        asked = able or list(self._vectors)
        count = self._limit if len(asked) == 1 else max(self._limit, PER_MODEL)
        asks = {
            encoder: partial(self._ask, encoder=encoder, count=count, weight=weights[encoder] if able else 1.0)
            for encoder in asked
        }
        # The last one runs here.
        results = [self._legs.start(connection, ask) for ask in list(asks.values())[:-1]]
        results += [partial(ask, connection) for ask in list(asks.values())[-1:]]
        last_first = [result() for result in reversed(results)]
        self._found = dict(zip(asks, reversed(last_first), strict=True))

    def _ask(self, connection: Connection, encoder: QueryEncoder, count: int, weight: float) -> _Found:
        vector, model = self._vectors[encoder], encoder.stored
        ranking = search_semantic(connection, vector, model, self._scope, count, fused=self._fused)
        floor = min((one.score for one in ranking[:PER_MODEL]), default=1.0)
        if self._wished:
            more = search_semantic(connection, vector, model, self._wished, PER_MODEL, fused=self._fused)
            ranking = _united(ranking, more)
        return _Found(model.name, weight, floor, ranking)

    def nearest(self, connection: Connection, others: Sequence[MessageKey] = ()) -> Nearest:
        """What `search` has found.

        Args:
            connection: any connection to the archive.
            others: messages that were found otherwise; `stand_out` has them as well.
        """
        if not self._encoders:
            return Nearest()
        if not self._vectors:
            return Nearest(note=notes.UNREADABLE.format(models=_names(self._encoders)))
        found = list(self._found.values())
        keys = dict.fromkeys([*(one.key for of in found for one in of.ranking), *others])
        for encoder, of in self._found.items():
            unknown = [key for key in keys if key not in of.cosines]
            of.cosines.update(cosines(connection, self._vectors[encoder], encoder.stored, unknown))
        stand_out = _stand_out(found, keys)
        ranked = found[0].ranking if len(found) == 1 else _merge(found, stand_out)
        if self._able:
            return Nearest(ranked[: self._limit], stand_out)
        stand_out = {key: _GUESS * score for key, score in stand_out.items()}
        guess = notes.ENGLISH_MODEL.format(models=_names(self._vectors), recommended=catalogue.RECOMMENDED)
        return Nearest(ranked[: self._limit], stand_out, guess=True, note=guess if ranked else None)


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
