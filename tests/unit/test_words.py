"""Texts are cut into words in one way, whatever characters they are written with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vkteams_daemon.embedding.install import samples
from vkteams_daemon.search.spelling import loan_words
from vkteams_daemon.store.words import letters, lexicon
from vkteams_daemon.store.words.lexicon import Lexemes
from vkteams_daemon.store.words.tokens import MAX_WORD, Form, Tokens, normal_forms, tokens, tokens_of_folded

PIECES = (
    " ", "v", "V3", "ops142", "x86", "3.11", ".", "24.11", "ноября", "May", "may", "5", "1 250 000", "-15", "+7 999",
    "(999) 123-45-67", "a1b2", "Ёлка", "й", "https://host-01.corp/a?b=1", "50%", "№7", "'", "—", "👍", "é", "cepвep",
    "²", "\n", "2026-11-24", "20261124", "userName", "HTTPServer", "VPNом", "1920х1080", "50k", "οтчёт", "го", "ß",
    "⭐", "N453", "A-1029", "з/п", "C#", "с++", " x ", "х", "марте", "03.2026", "10x20x30",
)  # fmt: skip


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
        ("οтчёт", "отчет"), ("сΡочно", "срочно"), ("Αdmin", "admin"), ("\u0501ocker", "docker"), ("ɡo\u0455h", "gosh"),
        ("Straße", "strasse"), ("søster", "soster"), ("1920х1080", "1920x1080"), ("⭐\ufe0f", "⭐"),
    ],
)  # fmt: skip
def test_texts_that_look_alike_have_the_same_words(written: str, meant: str) -> None:
    assert _words(written) == _words(meant)


def test_words_written_together_are_found_one_by_one() -> None:
    assert normal_forms("getUserName") == ["getusername", "get", "user", "name"]
    assert normal_forms("HTTPServerError") == ["httpservererror", "http", "server", "error"]
    assert normal_forms("ВажноеСообщение") == ["важноесообщение", "важное", "сообщение"]
    assert normal_forms("getUserName", whole=True) == ["getusername"]
    for word in ("ПРивет", "МОСКВА", "Sentence", "aB" * 40):
        assert normal_forms(word) == [word.lower()]


def test_russian_ending_of_a_latin_word_is_no_part_of_it() -> None:
    assert normal_forms("VPNом")[1:] == ["vpn"]
    assert normal_forms("excelем")[1:] == ["excel"]
    assert normal_forms("шәһәр") == ["шәһәр"]


def test_word_that_either_script_could_have_written_has_both_readings() -> None:
    assert normal_forms("РO") == ["ро", "po"]
    assert normal_forms("cop") == ["cop"]
    assert letters.alike("PO") == "РО"
    assert letters.alike("pot") is None


@pytest.mark.parametrize(
    ("form", "spellings"),
    [
        ("9991234567", ["+7 (999) 123-45-67", "8 999 1234567", "89991234567", "+79991234567", "(999) 123-45-67",
                        "8-999-123-45-67", "999 123-45-67", "999-123-45-67", "тел.:+7(999)1234567",
                        "+7 999 123 45 67"]),
        ("4852123456", ["8 (4852) 12-34-56", "+7 4852 12-34-56", "84852123456", "+7 (4852) 123456"]),
        ("4951234567", ["495 123-45-67", "(495) 123-45-67", "8 495 123-45-67"]),
        ("375291234567", ["+375 29 123-45-67", "+375291234567", "+375 (29) 1234567"]),
        ("1250000", ["1 250 000", "1.250.000,00", "1,250,000.00", "1'250'000", "1 250 000 ₽", "1_250_000",
                     "1 250 000р.", "1 250 000руб"]),
        ("4276123456789012", ["4276 1234 5678 9012", "4276-1234-5678-9012", "4276123456789012"]),
        ("40702810900000012345", ["4070 2810 9000 0001 2345", "40702 810 9 0000 0012345"]),
        ("1250000.5", ["1 250 000,50", "1.250.000,5", "1250000.50"]),
        ("-15", ["-15", "−15", "(-15)", "t = –15"]),
        ("2026-11-24", ["24.11.2026", "2026-11-24", "24/11/2026", "11/24/2026", "24 ноября 2026 г.", "24 Nov 2026",
                        "November 24, 2026", "Nov 24th, 2026", "24.11.26", "24-11-2026", "2026-11-24T10:00",
                        "24.11.2026г.", "24.11.2026в 10:00", "24/Nov/2026:10:00:01", "24-Nov-2026", "«24» ноября 2026",
                        "dump_20261124.sql", "20261124T101500Z"]),
        ("--11-24", ["24 ноября", "24.11", "Nov 24", "24.11.2026", "24th of November", "24-го ноября",
                    "срок 24 ноября", "the 24th of November", "к 24-му ноября", "24-ое ноября", "24 нояб.",
                    "24-26 ноября", "с 24 по 26 ноября", "20-24 ноября"]),
        ("1с", ["1С", "1C", "1c"]),
        ("50к", ["50к", "50k", "50K"]),
        ("ops142", ["OPS142"]),
        ("500мб", ["500мб", "500МБ"]),
    ],
)  # fmt: skip
def test_every_spelling_of_a_number_has_its_form(form: str, spellings: list[str]) -> None:
    for spelling in spellings:
        # A number without any sign is its own form.
        assert form in _forms(f"до {spelling} и после") | set(tokens(spelling).words), spelling


@pytest.mark.parametrize(
    "text",
    ["10.20.30.40", "15:30", "OPS-142", "10-15", "a1b2c3d4e5", "1 2 3", "10 20 30 40", "99.99.2026", "32 ноября"],
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


# Texts with the characters that decide how closely a text is looked at.
_TEXTS = st.one_of(
    st.text(),
    st.text(st.sampled_from("abvVzAcёЁйжЖć\u00ad\u200b 0123456789.,-+–()'’/_:№…·\xa0éі中😀²½")),
    st.lists(st.sampled_from(PIECES)).map("".join),
    st.sampled_from(samples.sample_texts()),
)


@given(_TEXTS)
def test_quick_and_close_look_cut_alike(text: str) -> None:
    _assert_cut_alike(text)


def test_quick_and_close_look_cut_long_words_alike() -> None:
    for text in ("a" * 300, "б" * 300 + " v", "é" * 300, "a" * 255 + " 1", "слово " * 60 + "a" * 256):
        _assert_cut_alike(text)


def _assert_cut_alike(text: str) -> None:
    quick, close = tokens(text), tokens_of_folded(letters.fold(text))
    assert list(map(normal_forms, quick.words)) == list(map(normal_forms, close.words))
    assert sorted(quick.forms) == sorted(close.forms)


@given(st.text())
def test_folding_again_changes_nothing(text: str) -> None:
    folded = letters.fold(text)
    assert letters.fold(folded) == folded
    text_of_places, places = letters.fold_with_places(text)
    assert len(places) == len(text_of_places) + 1


# The tsvector


def test_vector_has_each_lexeme_once_with_ascending_places() -> None:
    vector = lexicon.search_vector([(Tokens(["a", "b", "a"]), 0), (Tokens(["a"]), 2)], Lexemes())
    assert vector == b"\0\0\0\2a\0\0\3\0\1\0\3\x80\x0eb\0\0\1\0\2"


def test_stop_words_keep_their_place() -> None:
    lexemes = Lexemes({"the": b""})
    vector = lexicon.search_vector([(Tokens(["the", "a", "the"]), 0)], lexemes)
    assert vector == b"\0\0\0\1a\0\0\1\0\2"
    assert lexicon.search_vector([(Tokens(["the"]), 0)], lexemes) is None


_WORDS = st.sampled_from(["the", "a", "b", "c", "бег", "cop", "1"])
_FORMS = st.builds(Form, st.integers(0, 9), st.just(1), st.sampled_from(["b", "1", "--11-24", "2026-11-24"]))


@given(st.lists(_WORDS, min_size=10, max_size=300), st.lists(_FORMS, max_size=3), st.sampled_from([0, 1, 2]))
def test_short_and_long_texts_have_the_same_vectors(words: list[str], forms: list[Form], weight: int) -> None:
    lexemes = Lexemes({"the": b"", "c": b"b\0\0\1", "cop": [b"cop\0\0\1", b"\xd1\x81\0\0\1"]})
    texts = [(Tokens(words, forms), weight)]
    vector = lexicon.search_vector(texts, lexemes)
    # A second text without words makes it a long one.
    assert _parsed(vector) == _parsed(lexicon.search_vector([*texts, (Tokens([]), 0)], lexemes))


def _parsed(vector: bytes | None) -> dict[bytes, bytes]:
    """Lexemes of a tsvector with the bytes of their places."""
    parsed, rest = {}, (vector or bytes(4))[4:]
    while rest:
        lexeme, _, rest = rest.partition(b"\0")
        end = 2 + 2 * int.from_bytes(rest[:2], "big")
        assert lexeme not in parsed
        parsed[lexeme], rest = rest[2:end], rest[end:]
    assert len(parsed) == int.from_bytes((vector or bytes(4))[:4], "big")
    return parsed


@pytest.mark.parametrize("typed", ["ъи" * 18, "ьиъ" * 5, "и" * 20, "йи" * 8, "ие" * 8])
def test_hostile_word_holds_up_no_search_for_loan_words(typed: str) -> None:
    """A pattern whose pieces can match in many ways would try them all, for minutes."""
    hostile = [part * 9 + "q" for part in ("iie", "e", "ea", "ieey", "iieiie")]
    assert loan_words.matches(typed, typed, hostile) == {}
