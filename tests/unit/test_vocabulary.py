"""The nearest words to a misspelt one."""

from __future__ import annotations

import pytest

from vkteams_daemon.search.spelling.vocabulary import Vocabulary, max_typos

WORDS = Vocabulary({"сервер": 40, "север": 3, "сервиз": 2, "принтер": 7, "server": 9, "ерш": 1, "му": 1})


@pytest.mark.parametrize("typed", ["сервир", "серер", "серверр", "севрер", "зервер"])
def test_one_slip_of_any_kind(typed: str) -> None:
    assert ("сервер", 1) in [(near.word, near.distance) for near in WORDS.near(typed, 1)]


def test_the_nearest_comes_first_then_what_begins_alike_then_the_commoner() -> None:
    assert [near.word for near in WORDS.near("сервен", 2)] == ["сервер", "сервиз", "север"]


def test_the_other_script_is_never_near() -> None:
    assert [near.word for near in WORDS.near("servar", 2)] == ["server"]


def test_short_words_have_no_slips() -> None:
    assert [max_typos("a" * length) for length in (3, 4, 5, 6, 9, 10, 30)] == [0, 1, 1, 2, 2, 3, 3]
    assert WORDS.near("ма", 1) == []


def test_a_form_that_the_stemmer_cut_elsewhere_is_known() -> None:
    assert [near.word for near in WORDS.forms("ершову", "ершов")] == ["ерш"]
    assert [near.word for near in WORDS.forms("мусю", "мус")] == ["му"]
