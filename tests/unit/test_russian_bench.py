"""The texts of the Russian benchmark have the form that bench/russian/texts.py describes."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

from bench.russian import texts
from tests.harness.russian import people

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
MESSAGES, QUERIES = texts.haystack(NOW)


def test_the_haystack_has_five_thousand_messages_of_one_year() -> None:
    assert len(MESSAGES) == len({message.id for message in MESSAGES}) == texts.SIZE == 5000
    assert NOW - timedelta(days=366) < MESSAGES[0].sent_at
    assert MESSAGES[-1].sent_at < NOW


def test_both_halves_of_each_kind_are_large_enough() -> None:
    counts = Counter((query.kind, query.half) for query in QUERIES)
    assert counts["paraphrase", "train"] + counts["paraphrase", "held out"] >= 150 + 44
    assert counts["half memory", "train"] + counts["half memory", "held out"] >= 60
    for kind in ("paraphrase", "half memory"):
        assert abs(counts[kind, "train"] - counts[kind, "held out"]) <= 1


def test_answers_exist_and_each_query_is_asked_once() -> None:
    ids = {message.id for message in MESSAGES}
    assert all(query.relevant and query.relevant <= ids for query in QUERIES)
    assert max(Counter(query.text for query in QUERIES).values()) == 1


def test_chats_and_people_are_those_of_the_tests_and_of_the_demonstration() -> None:
    known = people()
    assert {message.chat for message in MESSAGES if "@" not in message.chat and not message.chat.isdigit()} <= set(
        known.chats
    )
    assert {message.user for message in MESSAGES if message.id[0] != "d"} == set(known.users)


def test_texts_are_the_same_on_each_day() -> None:
    later, _ = texts.haystack(NOW + timedelta(days=60))
    assert {message.text for message in later} == {message.text for message in MESSAGES}
