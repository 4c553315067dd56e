"""One ranking of what several models found."""

from __future__ import annotations

from collections.abc import Mapping

from vkteams_daemon.search.results import Ranked
from vkteams_daemon.search.retrieval.meaning import _Found, _merge, _stand_out


def found(model: str, cosines: Mapping[str, float], others: Mapping[str, float], weight: float = 1.0) -> _Found:
    """What a model found, by message, and what it thinks of what others found."""
    ranking = [Ranked("c", msg_id, cosine) for msg_id, cosine in cosines.items()]
    one = _Found(model, weight, min(cosines.values(), default=1.0), ranking)
    one.cosines |= {("c", msg_id): cosine for msg_id, cosine in others.items()}
    return one


def merged(*models: _Found) -> list[Ranked]:
    return _merge(models, _stand_out(models, dict.fromkeys(key for model in models for key in model.cosines)))


def order(*models: _Found) -> list[str]:
    return [one.msg_id for one in merged(*models)]


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
    ranked = merged(found("one", {"a": 0.9, "b": 0.5}, {}), found("other", {"c": 0.9, "b": 0.8, "d": 0.5}, {}))
    assert {one.msg_id for one in ranked} == {"a", "b", "c", "d"}
    assert [(leg.name, leg.rank) for leg in ranked[0].by_retriever] == [("semantic", 1), ("semantic one", 1)]
    assert merged(found("one", {}, {}), found("other", {}, {})) == []


def test_message_that_was_only_asked_about_stands_out_and_is_not_ranked() -> None:
    one = found("one", {"a": 0.9, "b": 0.5}, {"asked": 0.7, "far": 0.3})
    stand_out = _stand_out([one], one.cosines)
    assert stand_out["c", "a"] > stand_out["c", "asked"] > 0 > stand_out["c", "far"]
    assert [ranked.msg_id for ranked in _merge([one], stand_out)] == ["a", "b"]
