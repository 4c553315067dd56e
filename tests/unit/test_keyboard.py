"""Readings of a word in the other keyboard layout and in the other script."""

from __future__ import annotations

import pytest

from vkteams_daemon.search.spelling.keyboard import MAX_SPELLINGS, other_layout, other_script


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ghbdtn", "привет"),
        ("вщслук", "docker"),
        ("jnx`n", "отчет"),
        (",bktns", "билеты"),
        ("'rcrfdfnjh", "экскаватор"),
        ("КФШВ", "RAID"),
        ("лфалф-5", "kafka-5"),
    ],
)
def test_other_layout_is_what_the_same_keys_give(typed: str, meant: str) -> None:
    assert other_layout(typed) == meant


@pytest.mark.parametrize("typed", ["", "2.14.1", "VPNом", "-", "!!"])
def test_word_without_letters_or_with_both_scripts_has_no_other_reading(typed: str) -> None:
    assert other_layout(typed) is None
    assert other_script(typed) == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("privet", "привет"),
        ("shchenki", "щенки"),
        ("schenki", "щенки"),
        ("inventarizatsiya", "инвентаризация"),
        ("inventarizaciya", "инвентаризация"),
        ("kanareyka", "канарейка"),
        ("vozvratnyj", "возвратный"),
        ("bolshoy", "болшой"),
        ("yolka", "елка"),
        ("chyornye", "черные"),
        ("zavoditsya", "заводится"),
        ("ekskavator", "экскаватор"),
        ("mysh'", "мышь"),
        ("hokkej", "хоккей"),
        ("khokkey", "хоккей"),
        ("привет", "privet"),
        ("докер", "doker"),
        ("нгинкс", "nginx"),
        ("джира", "jira"),
        ("Отчёт", "otchet"),
    ],
)
def test_other_script_includes_the_usual_spelling(typed: str, meant: str) -> None:
    assert meant in other_script(typed)


def test_the_likeliest_spelling_comes_first() -> None:
    assert other_script("server")[0] == "сервер"
    assert other_script("privet")[0] == "привет"


def test_spellings_are_few_and_different() -> None:
    spellings = other_script("jyjyjyjyjyjyjy" * 5)
    assert len(spellings) == len(set(spellings)) <= MAX_SPELLINGS
