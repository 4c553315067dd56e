"""The page's languages: every text has its translation, and what it suggests can be read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from vkteams_daemon import time_expressions
from vkteams_daemon.daemon import status
from vkteams_daemon.search import notes
from vkteams_daemon.store import gaps
from vkteams_daemon.web import language
from vkteams_daemon.web.language import Language
from vkteams_daemon.web.note_translation import note_in

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


def _templates() -> list[str]:
    """The sentences that the archive says, with names for their values."""
    said = [*vars(notes).values(), *vars(gaps).values(), status.SPOOLED_ONE, status.SPOOLED, status.DATABASE_DOWN]
    return [text for text in said if isinstance(text, str) and re.search("[a-z] [a-z]", text) and "\n" not in text]


def test_every_note_of_the_archive_is_said_in_russian() -> None:
    russian = Language("ru", UTC)
    assert len(_templates()) > 25
    for template in _templates():
        values = {name: f"<{name}>" for name in re.findall(r"{(\w+)}", template)}
        said = note_in(russian, template.format(**values))
        words = re.sub(r"<\w+>", "", said)
        assert re.search("[а-я]{3}", words) and not re.search("[A-Za-z]", words), (template, said)
    parts = [notes.MEANING_ALONE, notes.ENGLISH_MODEL.format(models="a and b", recommended="c")]
    assert note_in(russian, " ".join(parts)) == " ".join(note_in(russian, part) for part in parts)
    assert note_in(russian, "Something else.") == "Something else."
    gap = notes.MISSING_AFTER.format(moment="2026-11-24", reason=gaps.POSSIBLE_OUTAGE)
    assert note_in(russian, gap).endswith("после 2026-11-24 может не хватать: мессенджер не отвечал больше суток.")


def test_the_archive_says_its_notes_by_their_templates_alone() -> None:
    """A sentence that is written elsewhere would stay English on the page."""
    for file in (WEB.parent / "search").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            values = [each.value for each in getattr(node, "keywords", []) if each.arg in ("note", "gaps")]
            targets = [target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)]
            if isinstance(node, ast.Assign) and "note" in targets:
                values.append(node.value)
            for value in values:
                texts = [each.value for each in ast.walk(value) if isinstance(each, ast.Constant)]
                spoken = [text for text in texts if isinstance(text, str) and re.search("[a-z]{2} [a-z]{2}", text)]
                assert not spoken or file.name == "counting.py", (file, spoken)
