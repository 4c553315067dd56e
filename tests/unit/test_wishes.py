"""What a query wishes for beside its words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from vkteams_daemon import time_expressions, times
from vkteams_daemon.search.retrieval.wishes import named_kinds, named_time
from vkteams_daemon.search.spelling.forms import is_form

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def utc() -> Iterator[None]:
    with times.in_zone(UTC):
        yield


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("чижова", "чижов"), ("чижовой", "чижова"), ("зуеву", "зуев"), ("мухиной", "мухина"), ("ольгой", "ольга"),
        ("ковальчук", "ковальчук"), ("журавлевой", "журавлева"), ("кима", "ким"), ("бухгалтерии", "бухгалтерия"),
        ("складе", "склад"), ("кадров", "кадры"), ("petrov", "petrov"),
    ],
)  # fmt: skip
def test_name_is_known_in_every_case(word: str, name: str) -> None:
    assert is_form(word, name)


@pytest.mark.parametrize(
    ("word", "name"),
    [("верный", "вера"), ("романтика", "роман"), ("складчина", "склад"), ("белок", "белова"), ("им", "ким")],
)
def test_another_word_is_no_name(word: str, name: str) -> None:
    assert not is_form(word, name)


@pytest.mark.parametrize(
    ("query", "begin", "end", "rest"),
    [
        ("премии осенью", "2026-09-01", "2026-12-01", "премии"),
        ("кто писал в мае про отпуск", "2026-05-01", "2026-06-01", "кто писал про отпуск"),
        ("на прошлой неделе про отпуск", "2026-11-16", "2026-11-23", "про отпуск"),
        ("last week deploy", "2026-11-16", "2026-11-23", "deploy"),
        ("вчера лифт", "2026-11-23", "2026-11-24", "лифт"),
    ],
)
def test_time_is_taken_out_of_the_query(query: str, begin: str, end: str, rest: str) -> None:
    span, words = named_time(query.split(), NOW)
    assert span is not None
    assert (f"{span.start:%Y-%m-%d}", f"{span.end:%Y-%m-%d}", " ".join(words)) == (begin, end, rest)


@pytest.mark.parametrize("query", ["тестовая среда недоступна", "may i ask", "march through it", "упало ночью", "2024"])
def test_word_with_another_meaning_is_no_time(query: str) -> None:
    assert named_time(query.split(), NOW) == (None, query.split())


def test_moment_long_ago_is_meant_roughly() -> None:
    span, _ = named_time(["месяц", "назад"], NOW)
    assert span is not None
    assert span.start < datetime(2026, 10, 21, tzinfo=UTC) < datetime(2026, 10, 28, tzinfo=UTC) < span.end


def test_kinds_of_files_are_named_in_words_of_both_languages() -> None:
    for words, kinds in (
        ("таблицу присылал", {"file"}), ("фотка screenshot", {"image"}), ("видео голосовое", {"video", "voice"}),
        ("скинь ссылку", {"link"}), ("table of contents", set()), ("фонтан", set()),
    ):  # fmt: skip
        assert {kind for _, kind, _ in named_kinds(words.split())} == kinds, words


def test_every_readable_time_has_a_word_that_is_looked_for() -> None:
    for text in (
        "за последние три дня", "a week ago", "last month", "в прошлом году", "с понедельника", "прошлым летом",
        "на выходных", "between monday and friday", "24 ноября", "the day before yesterday", "на этой неделе",
    ):  # fmt: skip
        assert named_time(text.split(), NOW)[0] is not None or time_expressions.read(text, NOW) is None, text
