"""The page's languages: every text has its translation, and what it suggests can be read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from vkteams_daemon import time_expressions
from vkteams_daemon.web import language
from vkteams_daemon.web.language import Language

WEB = Path(language.__file__).parent
_HOLDERS = re.compile(r"%(?:\(\w+\))?s")


def _texts() -> Iterator[str | tuple[str, ...]]:
    methods = [("**.py", "python"), ("templates/**.html", "jinja2")]
    for _, _, text, _, _ in extract_from_dir(WEB, methods, {"templates/**.html": {"trim_blocks": "1"}}):
        yield text


def test_every_text_of_the_page_has_a_russian_translation_and_no_other_has() -> None:
    said = {text if isinstance(text, str) else tuple(text) for text in _texts()}
    with (WEB / "locale" / "ru.po").open("rb") as opened:
        catalogue = read_po(opened, locale="ru")
    translated = {entry.id: entry for entry in catalogue if entry.id}
    assert len(said) > 100
    assert said - set(translated) == set(), "no translation"
    assert set(translated) - said == set(), "no such text any more"
    for text, entry in translated.items():
        assert not entry.fuzzy
        texts = [text] if isinstance(text, str) else text
        strings = [entry.string] if isinstance(entry.string, str) else entry.string
        assert len(strings) == (1 if isinstance(text, str) else 3)
        for string in strings:
            assert string.strip(), text
            assert sorted(_HOLDERS.findall(string)) == sorted(_HOLDERS.findall(texts[-1])), text


@pytest.mark.parametrize("code", ["ru", "en"])
def test_the_times_that_the_page_suggests_can_be_read(code: str) -> None:
    reader = Language(code, UTC)
    for text in ("today", "yesterday", "this week", "last week", "this month", "last month"):
        assert time_expressions.read(reader.gettext(text), datetime.now(UTC)), reader.gettext(text)


@pytest.mark.parametrize(
    ("accept", "code"),
    [("ru-RU,ru;q=0.9,en;q=0.8", "ru"), ("en-GB,en;q=0.5,ru;q=0.9", "en"), ("de,ru;q=0.4,en;q=0.3", "ru"),
     ("", "en"), ("*", "en"), ("ru;q=x,en", "en"), (";;;,,,q=", "en")],
)  # fmt: skip
def test_the_language_of_a_browser(accept: str, code: str) -> None:
    assert language.preferred(accept) == code


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "Nowhere/Else", "x" * 100, "\0"])
def test_a_zone_that_does_not_exist_is_the_configured_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    assert language.choose_zone(name, "Europe/Moscow") == ZoneInfo("Europe/Moscow")


def test_plural_forms() -> None:
    russian = Language("ru", UTC)
    said = [russian.ngettext("%(number)s message", "%(number)s messages", number) for number in (1, 2, 5, 21, 1000)]
    assert said == ["1 сообщение", "2 сообщения", "5 сообщений", "21 сообщение", "1\xa0000 сообщений"]
