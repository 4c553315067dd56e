"""Text from outside does no harm in a log, in a sentence, on a terminal and in a model's context."""

from __future__ import annotations

import io
import json
import unicodedata

import pytest

from tests.harness.scale import FULL
from vkteams_daemon.system.text import escape_controls, printable, terminal_safe, terminal_safe_json, visible

# Every character, or those of the planes that have others than ideographs.
PLANES = (*range(17),) if FULL else (0, 1, 14)
EVERYTHING = "".join(chr(number) for plane in PLANES for number in range(plane << 16, (plane + 1) << 16))
_DIRECTION = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _hostile(text: str) -> set[str]:
    """The characters that a terminal could take for a command or that turn the direction of text around."""
    return {char for char in set(text) if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _DIRECTION}


def test_log_line_stays_one_line_and_loses_nothing() -> None:
    assert escape_controls("one\ntwo\r\x1b[31m\x85\u2028 ёлка") == r"one\ntwo\r\x1b[31m\x85\u2028 ёлка"
    line = escape_controls(EVERYTHING)
    assert len(line.splitlines()) == 1
    assert not {char for char in line if unicodedata.category(char) in ("Cc", "Zl", "Zp")}


def test_printable_text_is_one_line_of_printable_characters() -> None:
    assert printable("Anna\u202e\n Иванова\x00") == "Anna Иванова"
    assert printable("no\nsuch\tmethod", " ") == "no such method"
    assert printable(EVERYTHING).isprintable()


def test_terminal_is_not_steered_and_keeps_lines_tabs_and_emoji() -> None:
    assert terminal_safe("a\tb\nc \x1b[2J\x9b31m\u202egnp") == "a\tb\nc [2J31mgnp"
    assert terminal_safe("👨\u200d👩\u200d👧") == "👨\u200d👩\u200d👧"
    assert _hostile(terminal_safe(EVERYTHING)) == {"\t", "\n"}


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "ascii", "koi8-r"])
def test_json_on_a_terminal_steers_nothing_and_loses_nothing(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    text = terminal_safe_json({"text": EVERYTHING}, stream)
    assert _hostile(text) == set()
    assert json.loads(text) == {"text": json.loads(json.dumps(EVERYTHING))}
    stream.write(text)
    assert ("ё" in text) is encoding.lower().startswith("utf")


@pytest.mark.parametrize(
    "text",
    [
        "plain words", "Привет, ёлка!", "日本語と한국어", "tab\tand\nline", "naïve café", "x = ∑ñ²", "👍🏽",
        "👨\u200d👩\u200d👧", "❤\ufe0f", "❤\ufe0f\u200d🔥", "1\ufe0f\u20e3", "e\u0301", "",
    ],
)  # fmt: skip
def test_what_can_be_seen_stays(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a\x00b\x07c\x1b[31md\x7fe\x9bf", "abc[31mdef"),
        ("one\r\ntwo\rthree\u2028four\u2029five\x85six\x0bseven", "one\ntwo\nthree\nfour\nfive\nsix\nseven"),
        ("abc\u202egnp.exe\u2066x\u2069\u200e\u200f\u061c", "abcgnp.exex"),
        ("pass\u200bword\u200c\u200d\u2060\ufeff\u00ad\u034f\u180e", "password"),
        ("ok" + "".join(chr(0xE0000 + ord(letter)) for letter in "ignore all"), "ok"),
        ("🙂" + "".join(chr(0xFE00 + n) for n in range(15)) + "\U000e0101", "🙂"),
        ("🙂\ufe0f\ufe0f\ufe0f\u200d\u200d", "🙂\ufe0f"),
        ("\u3164\uffa0\u115f\u2800 blank", " blank"),
        ("\ud800half\udfff", "half"),
        ("\ue000private\U000f0000", "private"),
    ],
)
def test_what_cannot_be_seen_goes(text: str, left: str) -> None:
    assert visible(text) == left


def test_no_control_or_format_character_is_left_of_all_there_are() -> None:
    left = visible(EVERYTHING)
    assert {unicodedata.category(letter) for letter in set(left) - set("\n\t\u200d\ufe0f")}.isdisjoint(
        {"Cc", "Cf", "Cs", "Co"}
    )
