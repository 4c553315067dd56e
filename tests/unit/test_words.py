"""Texts are cut into words in one way, whatever characters they are written with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkteams_daemon.store.words import letters, lexicon
from vkteams_daemon.store.words.tokens import MAX_WORD, Tokens, normal_forms, tokens, tokens_of_folded


def _words(text: str) -> list[str]:
    return [normal_forms(word)[0] for word in tokens(text).words]


def _forms(text: str) -> set[str]:
    return {form.word for form in tokens(text).forms}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("кофейник", "кофейник"), ("Ёлка", "елка"), ("сер\u00adвер", "сервер"), ("замо́к", "замок"),
        ("ко\u200bбра", "кобра"), ("ﬁle", "file"), ("ＦＵＬＬ", "full"), ("café", "cafe"), ("тюле‑ня", "тюле-ня"),
        ("\U0001d401old", "bold"), ("ша\ufe0fпка", "шапка"), ("\u2066имя\u2069", "имя"), ("cогласована", "согласована"),
        ("лиcичка", "лисичка"), ("cepвep", "сервер"), ("Jіra", "jira"), ("a—b", "a b"), ("ИЙ", "ий"),
    ],
)  # fmt: skip
def test_texts_that_look_alike_have_the_same_words(written: str, meant: str) -> None:
    assert _words(written) == _words(meant)


def test_word_that_either_script_could_have_written_has_both_readings() -> None:
    assert normal_forms("РO") == ["ро", "po"]
    assert normal_forms("cop") == ["cop"]
    assert letters.alike("PO") == "РО"
    assert letters.alike("pot") is None


@pytest.mark.parametrize(
    ("form", "spellings"),
    [
        ("9991234567", ["+7 (999) 123-45-67", "8 999 1234567", "89991234567", "+79991234567", "(999) 123-45-67",
                        "8-999-123-45-67", "999 123-45-67", "тел.:+7(999)1234567", "+7 999 123 45 67"]),
        ("375291234567", ["+375 29 123-45-67", "+375291234567", "+375 (29) 1234567"]),
        ("1250000", ["1 250 000", "1.250.000,00", "1,250,000.00", "1'250'000", "1 250 000 ₽", "1_250_000"]),
        ("1250000.5", ["1 250 000,50", "1.250.000,5", "1250000.50"]),
        ("-15", ["-15", "−15", "(-15)", "t = –15"]),
        ("2026-11-24", ["24.11.2026", "2026-11-24", "24/11/2026", "11/24/2026", "24 ноября 2026 г.", "24 Nov 2026",
                        "November 24, 2026", "Nov 24th, 2026", "24.11.26", "24-11-2026", "2026-11-24T10:00"]),
        ("--11-24", ["24 ноября", "24.11", "Nov 24", "24.11.2026", "24th of November"]),
        ("ops142", ["OPS142"]),
        ("500мб", ["500мб", "500МБ"]),
    ],
)  # fmt: skip
def test_every_spelling_of_a_number_has_its_form(form: str, spellings: list[str]) -> None:
    for spelling in spellings:
        # A number without any sign is its own form.
        assert form in _forms(f"до {spelling} и после") | set(tokens(spelling).words), spelling


@pytest.mark.parametrize(
    "text", ["10.20.30.40", "15:30", "OPS-142", "10-15", "a1b2c3d4e5", "1 2 3", "99.99.2026", "32 ноября"]
)
def test_other_numbers_have_no_such_form(text: str) -> None:
    assert not {form for form in _forms(text) if form != "99.99"}


def test_version_is_found_with_and_without_its_letter() -> None:
    for text in ("v3.11.2", "V3.11.2", "v.3.11.2", "v 3.11.2", "3.11.2"):
        assert _words(text) == ["3", "11", "2"]
    assert _words("python3.11") == ["python", "3", "11"]


def test_identifier_is_its_parts() -> None:
    assert _words("host-01.corp") == ["host", "01", "corp"]
    assert _words("/var/log/x_y.log") == ["var", "log", "x", "y", "log"]


def test_long_word_is_cut() -> None:
    assert _words("ф" * 1000) == ["ф" * MAX_WORD]
    assert _words(f"x {'9' * 1000}") == ["x", "9" * MAX_WORD]


@given(st.text())
def test_fast_and_close_look_cut_alike(text: str) -> None:
    fast = [normal_forms(word) for word in tokens(text).words]
    assert fast == [normal_forms(word) for word in tokens_of_folded(letters.fold(text)).words]


@given(st.text())
def test_folding_again_changes_nothing(text: str) -> None:
    folded = letters.fold(text)
    assert letters.fold(folded) == folded
    text_of_places, places = letters.fold_with_places(text)
    assert len(places) == len(text_of_places) + 1


# The tsvector


def test_vector_has_each_lexeme_once_with_ascending_places() -> None:
    vector = lexicon.search_vector([(Tokens(["a", "b", "a"]), 0), (Tokens(["a"]), 2)], {})
    assert vector == b"\0\0\0\2a\0\0\3\0\1\0\3\x80\x0eb\0\0\1\0\2"


def test_stop_words_keep_their_place() -> None:
    vector = lexicon.search_vector([(Tokens(["the", "a"]), 0)], {"the": ()})
    assert vector == b"\0\0\0\1a\0\0\1\0\2"
    assert lexicon.search_vector([(Tokens(["the"]), 0)], {"the": ()}) is None
