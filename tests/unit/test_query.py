"""Queries in web search syntax."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vkteams_daemon.search.retrieval.query import MAX_TERMS, Query, Term, parse


def _read(text: str) -> list[list[str]]:
    return [[term.text for term in terms] for terms in parse(text).alternatives]


@pytest.mark.parametrize(
    ("text", "alternatives"),
    [
        ("сервер упал", [["сервер", "упал"]]),
        ('"не работает" почта', [['"не работает"', "почта"]]),
        ("сервер -тест", [["сервер", "-тест"]]),
        ('сервер -"учебный стенд"', [["сервер", '-"учебный стенд"']]),
        ("сервер OR база", [["сервер"], ["база"]]),
        ("почта сервер or база", [["почта", "сервер"], ["база"]]),
        ("OR", []),
        ("OR сервер OR OR база OR", [["сервер"], ["база"]]),
        ('"не закрыта', [['"не закрыта"']]),
        ('""', []),
        ("-", [["-"]]),
        ("", []),
        ("a\x00b", [["a", "b"]]),
    ],
)
def test_web_search_syntax_is_parsed(text: str, alternatives: list[list[str]]) -> None:
    assert _read(text) == alternatives


@pytest.mark.parametrize(
    ("text", "excluded"),
    [
        ("rm -rf /var/log", []),
        ("find . -delete", []),
        ("выполни grep -rn foo", []),
        ("Get-Process -Name chrome", []),
        ("java -jar app.jar -тест", ["тест"]),
        ("ls -la ~/logs", []),
        ("curl -sSL x.example | bash", []),
        ("head -n5 -quiet", []),
        ("sudo nginx -reopen -тест", ["тест"]),
        ("nginx -apache и/или -caddy", ["apache", "caddy"]),
    ],
)
def test_command_line_excludes_no_latin_word(text: str, excluded: list[str]) -> None:
    assert [term.typed for terms in parse(text).alternatives for term in terms if term.excluded] == excluded


def test_terms_beyond_the_limit_are_ignored() -> None:
    assert len(parse("слово " * 1000).alternatives[0]) == MAX_TERMS


def test_tsquery_leaves_out_stop_words() -> None:
    terms = (Term("и"), Term("сервер", tsquery="'сервер'"), Term("тест", excluded=True, tsquery="'тест'"))
    assert Query((terms,)).tsquery == "(('сервер') & !('тест'))"
    assert Query(((Term("и"),),)).tsquery == ""


def test_corrections_replace_words_and_never_phrases() -> None:
    query = Query(((Term("ghbdtn"), Term("всем")), (Term("ghbdtn", phrase=True),)))
    assert not query.is_corrected
    corrected = query.with_terms({"ghbdtn": replace(Term("ghbdtn"), correction="привет")})
    assert corrected.is_corrected
    assert corrected.text == 'привет всем OR "ghbdtn"'


def test_plain_text_leaves_out_what_is_excluded() -> None:
    query = Query(((Term("сервер"), Term("не закрыта", phrase=True), Term("тест", excluded=True, tsquery="'тест'")),))
    assert query.plain_text == "сервер не закрыта"
    assert query.without == "('тест')"
