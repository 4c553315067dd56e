"""The words of the archive that are nearest to a misspelt one."""

from __future__ import annotations

import pytest

from vkteams_daemon.search.spelling.vocabulary import Vocabulary, max_typos

WORDS = Vocabulary({"сервер": 40, "север": 3, "сервиз": 2, "принтер": 7, "server": 9})


@pytest.mark.parametrize("typed", ["сервир", "серер", "серверр", "севрер", "зервер"])
def test_one_typo_of_any_kind_is_near(typed: str) -> None:
    assert ("сервер", 1) in [(near.word, near.distance) for near in WORDS.near(typed, 1)]


def test_near_words_are_ordered_by_distance_beginning_and_count() -> None:
    assert [near.word for near in WORDS.near("сервен", 2)] == ["сервер", "сервиз", "север"]


def test_words_of_the_other_script_are_never_near() -> None:
    assert [near.word for near in WORDS.near("servar", 2)] == ["server"]


def test_short_words_allow_no_typos() -> None:
    assert [max_typos("a" * length) for length in (3, 4, 5, 6, 9, 10, 30)] == [0, 1, 1, 2, 2, 3, 3]
    assert WORDS.near("ма", 1) == []


@pytest.mark.parametrize(
    ("typed", "stem", "word"),
    [
        ("ершову", "ершов", "ерш"), ("мусю", "мус", "му"), ("писем", "пис", "письм"), ("ошибки", "ошибк", "ошибок"),
        ("взять", "взят", "взял"), ("окупится", "окуп", "окупа"),
    ],
)  # fmt: skip
def test_form_that_the_stemmer_cut_elsewhere_is_found(typed: str, stem: str, word: str) -> None:
    assert [(near.word, near.distance) for near in Vocabulary({word: 1}).forms(typed, stem)] == [(word, 0)]


@pytest.mark.parametrize(
    ("typed", "stem", "word"), [("встала", "встал", "стал"), ("month", "month", "mon"), ("ангры", "ангр", "ан")]
)
def test_another_word_is_no_form(typed: str, stem: str, word: str) -> None:
    assert Vocabulary({word: 1}).forms(typed, stem) == []
