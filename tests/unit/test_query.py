"""Queries as they are written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vkteams_daemon.search.retrieval.query import MOST_TERMS, Query, Term, parse


def _read(text: str) -> list[list[str]]:
    return [[term.shown for term in terms] for terms in parse(text).alternatives]


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
def test_web_search_syntax(text: str, alternatives: list[list[str]]) -> None:
    assert _read(text) == alternatives


def test_a_query_has_an_end() -> None:
    assert len(parse("слово " * 1000).alternatives[0]) == MOST_TERMS


def test_terms_that_are_never_looked_for_are_left_out() -> None:
    terms = (Term("и"), Term("сервер", tsquery="'сервер'"), Term("тест", excluded=True, tsquery="'тест'"))
    assert Query((terms,)).tsquery == "(('сервер') & !('тест'))"
    assert Query(((Term("и"),),)).tsquery == ""


def test_what_was_meant_stands_in_the_place_of_what_was_typed() -> None:
    query = Query(((Term("ghbdtn"), Term("всем")), (Term("ghbdtn", phrase=True),)))
    assert not query.changed
    meant = query.with_terms({"ghbdtn": replace(Term("ghbdtn"), meant="привет")})
    assert meant.changed
    assert meant.shown == 'привет всем OR "ghbdtn"'


def test_what_is_excluded_is_not_said() -> None:
    query = Query(((Term("сервер"), Term("не закрыта", phrase=True), Term("тест", excluded=True, tsquery="'тест'")),))
    assert query.wanted == "сервер не закрыта"
    assert query.without == "('тест')"
