"""What is invisible goes, what can be seen stays."""

from __future__ import annotations

import unicodedata

import pytest

from vkteams_daemon.mcp.untrusted import visible


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
    everything = "".join(map(chr, range(0x110000)))
    left = visible(everything)
    assert {unicodedata.category(letter) for letter in set(left) - set("\n\t\u200d\ufe0f")}.isdisjoint(
        {"Cc", "Cf", "Cs", "Co"}
    )
