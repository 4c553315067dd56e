"""One ranking of what several models found."""

from __future__ import annotations

from collections.abc import Mapping

from vkteams_daemon.search.results import Ranked
from vkteams_daemon.search.retrieval.meaning import _Found, _merge


def found(model: str, cosines: Mapping[str, float], others: Mapping[str, float], weight: float = 1.0) -> _Found:
    """What a model found, by message, and what it thinks of what others found."""
    ranking = [Ranked("c", msg_id, cosine) for msg_id, cosine in cosines.items()]
    return _Found(model, weight, ranking, {("c", msg_id): cosine for msg_id, cosine in others.items()})


def order(*models: _Found) -> list[str]:
    return [one.msg_id for one in _merge(models)]


def test_what_stands_out_counts_and_not_how_high_the_cosines_lie() -> None:
    high = found("high", {"a": 0.90, "b": 0.86, "c": 0.85}, {"d": 0.84})
    low = found("low", {"d": 0.70, "a": 0.50, "c": 0.10}, {"b": 0.10})
    assert order(high, low) == ["a", "d", "b", "c"]
    assert order(low, high) == ["a", "d", "b", "c"], "the order of the models does not matter"


def test_weights_decide_between_models() -> None:
    one, other = {"a": 0.9, "c": 0.5}, {"b": 0.9, "c": 0.5}
    for first, second, best in ((0.7, 0.3, "a"), (0.3, 0.7, "b")):
        assert order(found("one", one, {"b": 0.5}, first), found("other", other, {"a": 0.5}, second))[0] == best


def test_message_without_a_vector_of_one_model_is_found_by_the_other() -> None:
    ranked = _merge([found("one", {"a": 0.9, "b": 0.5}, {}), found("other", {"c": 0.9, "b": 0.8, "d": 0.5}, {})])
    assert {one.msg_id for one in ranked} == {"a", "b", "c", "d"}
    assert [(leg.name, leg.rank) for leg in ranked[0].by_retriever] == [("semantic", 1), ("semantic one", 1)]
    assert _merge([found("one", {}, {}), found("other", {}, {})]) == []
