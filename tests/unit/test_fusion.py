"""What fusion makes of the ranks of its retrievers, and which messages linking takes for one conversation."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vkteams_daemon.search.results import Ranked, RetrieverScore
from vkteams_daemon.search.retrieval import conversation_linking
from vkteams_daemon.search.retrieval.conversation_linking import Line, likelihood
from vkteams_daemon.search.retrieval.fusion import PER_RETRIEVER, relevance, without_guesses
from vkteams_daemon.search.retrieval.meaning import Nearest
from vkteams_daemon.store.vector_index import graph_for

START = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


def _line(place: int, user: str, *, names: str = "", reply_to: str | None = None, minutes: float | None = None) -> Line:
    at = START + timedelta(minutes=place / 10 if minutes is None else minutes)
    return Line(("c", str(place)), place, user, at, reply_to, "", frozenset(names.split()))


def _text(*shares: float, score: float = 0.5) -> list[Ranked]:
    return [
        Ranked("c", f"t{n}", score, by_retriever=(RetrieverScore("text", n + 1, score, share),))
        for n, share in enumerate(shares)
    ]


def _nearest(*stand_out: float, first: str = "s", others: dict[str, float] | None = None) -> Nearest:
    ranked = [
        Ranked("c", f"{first}{n}", cosine, by_retriever=(RetrieverScore("semantic", n + 1, cosine),))
        for n, cosine in enumerate(stand_out)
    ]
    known = {one.key: one.score for one in ranked} | {("c", msg_id): score for msg_id, score in (others or {}).items()}
    return Nearest(ranked, known)


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


def _best(text: list[Ranked], nearest: Nearest, granted: dict[tuple[str, str], int] | None = None) -> str:
    hits = relevance(text, nearest, granted or {})
    return max(hits.values(), key=lambda ranked: ranked.score).msg_id


def test_evidence_of_both_retrievers_adds_up() -> None:
    text = _text(0.4, 0.4)
    hits = relevance(text, _nearest(0.3, first="t"), {})
    assert hits["c", "t0"].score > hits["c", "t1"].score
    assert {score.name for score in hits["c", "t0"].by_retriever} == {"text", "semantic"}
    assert _best(_text(0.4, 0.4, score=1.5), _nearest(0.52, others={"t1": 0.5})) == "t1", (
        "its vector was not among the nearest"
    )


def test_message_with_the_whole_query_comes_before_the_nearest_vector() -> None:
    assert _best(_text(1.0, score=0.9), _nearest(*(0.5 - n / 1000 for n in range(PER_RETRIEVER)))) == "t0"


def test_message_with_a_common_word_comes_after_the_nearest_vector() -> None:
    assert _best(_text(0.5), _nearest(*(0.4 - n / 500 for n in range(PER_RETRIEVER)))) == "s0"


def test_rare_words_come_before_a_vector_that_hardly_stands_out() -> None:
    assert _best(_text(0.5, score=1.5), _nearest(0.1, 0.09, 0.08)) == "t0"


def test_granted_wish_lifts_and_brings_in_messages_of_no_retriever() -> None:
    assert _best(_text(0.4, 0.4), Nearest(), {("c", "t1"): 1}) == "t1"
    assert _best([], Nearest(), {("c", "w"): 2}) == "w"


def test_retriever_without_hits_is_no_evidence() -> None:
    assert relevance([], _nearest(0.5), {}).keys() == {("c", "s0")}
    assert relevance(_text(0.2), Nearest(), {}).keys() == {("c", "t0")}
    assert relevance([], Nearest(), {}) == {}


def test_guesses_are_left_out_beside_a_sure_hit_alone() -> None:
    sure = relevance(_text(1.0, 0.3), _nearest(0.1), {("c", "w"): 1})
    assert without_guesses(sure).keys() == {("c", "t0"), ("c", "t1"), ("c", "w")}
    unsure = relevance(_text(0.9), _nearest(0.1), {})
    assert without_guesses(unsure) == unsure


def test_a_wish_counts_more_than_a_small_lead_by_meaning_and_two_less_than_every_word() -> None:
    lead = {"t0": 0.15}
    assert _best(_text(0.4, 0.4), _nearest(others=lead)) == "t0"
    assert _best(_text(0.4, 0.4), _nearest(others=lead), {("c", "t1"): 1}) == "t1"
    assert _best(_text(1.0, 0.4), _nearest(), {("c", "t1"): 2}) == "t0"


def test_the_words_of_texts_are_those_of_each_text_alone() -> None:
    texts = ["«Иван», см. OPS-142.", "", "@[a.ivanova@corp.example] да!", "...", "ΟΔΟΣ", "одно\nдва. "]
    words = conversation_linking._words(texts)
    assert words == [conversation_linking._words([text])[0] for text in texts]
    assert words[0] == {"иван", "см", "ops-142"} and words[2] == {"@", "a.ivanova@corp.example", "да"}


def test_hybrid_search_of_a_usual_archive_looks_as_far_by_meaning_as_a_semantic_one() -> None:
    # With 250 candidates three of 97 paraphrases were lost in an index of 5,000 vectors (docs/benchmarks.md).
    graph = graph_for(100_000)
    assert graph.ef_search_fused == graph.ef_search
