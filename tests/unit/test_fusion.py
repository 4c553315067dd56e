"""What fusion makes of the ranks of its retrievers, and which messages linking takes for one conversation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vkteams_daemon.search.results import Ranked, RetrieverScore
from vkteams_daemon.search.retrieval.conversation_linking import Line, likelihood
from vkteams_daemon.search.retrieval.fusion import PER_RETRIEVER, relevance

START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def _line(place: int, user: str, *, names: str = "", reply_to: str | None = None, minutes: float | None = None) -> Line:
    at = START + timedelta(minutes=place / 10 if minutes is None else minutes)
    return Line(("c", str(place)), place, user, at, reply_to, "", frozenset(names.split()))


def _text(*shares: float) -> list[Ranked]:
    return [
        Ranked("c", f"t{n}", 9 - n, by_retriever=(RetrieverScore("text", n + 1, 9 - n, share),))
        for n, share in enumerate(shares)
    ]


def _semantic(*cosines: float, first: str = "s") -> list[Ranked]:
    return [
        Ranked("c", f"{first}{n}", cosine, by_retriever=(RetrieverScore("semantic", n + 1, cosine),))
        for n, cosine in enumerate(cosines)
    ]


def test_late_reply_belongs_to_the_message_it_answers() -> None:
    question, answer = _line(1, "anna"), _line(40, "petr", reply_to="1", minutes=6000)
    assert likelihood(question, answer) == likelihood(answer, question) > 0.9


def test_naming_the_author_counts_more_than_being_near() -> None:
    one = _line(10, "anna")
    named, near = likelihood(one, _line(11, "petr", names="anna")), likelihood(one, _line(11, "petr"))
    assert named > 2 * near > 0


def test_message_to_somebody_else_is_not_followed() -> None:
    assert likelihood(_line(10, "anna"), _line(11, "petr", names="vera")) == 0
    assert likelihood(_line(10, "anna", names="petr"), _line(11, "anna", names="vera")) == 0


def test_messages_of_two_people_who_name_each_other_belong_together() -> None:
    one, other = _line(10, "anna", names="petr"), _line(15, "petr", names="anna")
    assert likelihood(one, other) > 0.9
    assert likelihood(one, _line(15, "anna", names="petr")) > 0.9


@pytest.mark.parametrize("other", [_line(40, "anna"), _line(11, "anna", minutes=61)])
def test_likelihood_fades_with_messages_and_with_time(other: Line) -> None:
    one = _line(10, "anna")
    assert 0 < likelihood(one, other) < 0.7 * likelihood(one, _line(11, "anna"))


def test_ranks_of_both_retrievers_count() -> None:
    both = [Ranked("c", "t0", 0.6, by_retriever=(RetrieverScore("semantic", 1, 0.6),)), *_semantic(0.6, 0.5, 0.4)]
    hits = relevance(_text(0.4, 0.4), both)
    assert hits["c", "t0"].score > max(ranked.score for key, ranked in hits.items() if key[1] != "t0")
    assert {score.name for score in hits["c", "t0"].by_retriever} == {"text", "semantic"}


def test_message_with_the_whole_query_comes_before_the_nearest_vector() -> None:
    hits = relevance(_text(1.0), _semantic(*(0.5 - n / 1000 for n in range(PER_RETRIEVER))))
    assert max(hits.values(), key=lambda ranked: ranked.score).key == ("c", "t0")


def test_message_with_half_of_the_query_comes_after_the_nearest_vector() -> None:
    hits = relevance(_text(0.5), _semantic(*(0.9 - n / 200 for n in range(PER_RETRIEVER))))
    assert max(hits.values(), key=lambda ranked: ranked.score).key == ("c", "s0")


def test_retriever_without_hits_is_no_evidence() -> None:
    assert relevance([], _semantic(0.5)).keys() == {("c", "s0")}
    assert relevance(_text(0.2), []).keys() == {("c", "t0")}
    assert relevance([], []) == {}


def test_equal_cosines_do_not_divide_by_zero() -> None:
    assert len(relevance([], _semantic(1.0, 1.0))) == 2
