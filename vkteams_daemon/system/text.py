"""Text from outside, made harmless for the place that it goes to.

Each function gives another guarantee, and none of them can stand for another:

    escape_controls     a log's line: one line whatever happens, and nothing is lost
    printable           a name or a reason within a sentence: one line of printable characters
    terminal_safe       a terminal: nothing steers it or turns letters around; newlines, tabs and joined emoji stay
    terminal_safe_json  JSON on a terminal: the same by escapes, so that a program reads what was there
    visible             a model: nothing that a person would not see, since whole instructions can hide there
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any, TextIO

# C0, DEL, C1 and line separators: a program could take them for the end of a line, a terminal for a command.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# C0 without tab and newline, DEL, C1, line separators, the marks that turn the direction of text around, surrogates.
_TERMINAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")

# Invisible letters, marks and symbols that are not in the categories below.
_BLANK = {
    0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0,
    *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000),
}  # fmt: skip
_INVISIBLE = {"Cc", "Cf", "Cs", "Co"}  # controls, format characters, surrogates, private use
_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_JOINER, _AS_EMOJI = "\u200d", "\ufe0f"


def escape_controls(text: str) -> str:
    r"""The text as one line: control characters and line separators as Python writes them (`\n`, `\x1b`)."""
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def printable(text: str, replacement: str = "") -> str:
    """The text with `replacement` for every character that str.isprintable refuses; a newline is one of these."""
    return "".join(char if char.isprintable() else replacement for char in text)


def terminal_safe(text: str) -> str:
    """The text without the characters that could steer a terminal or turn its letters around."""
    return _TERMINAL.sub("", text)


def terminal_safe_json(value: Any, stream: TextIO, indent: int | None = None) -> str:
    """The value as JSON for that stream. What could steer a terminal is escaped.

    If the stream takes no UTF-8, everything but ASCII is escaped.
    """
    utf8 = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not utf8, indent=indent)
    # json.dumps escapes C0 only.
    return _TERMINAL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def visible(text: str) -> str:
    """The text without control and invisible characters; newlines and tabs stay, and so do the joints of emoji.

    Fake instructions that can be seen stay too: an answer separates data from instructions by its fields.
    """
    text = _BREAKS.sub("\n", text)
    if text.isascii() and text.isprintable():
        return text
    letters: list[str] = []
    for letter in text:
        if letter in "\n\t" or not _invisible(letter) or _joins(letter, letters):
            letters.append(letter)
    return "".join(letters).rstrip(_JOINER)


def _invisible(letter: str) -> bool:
    return ord(letter) in _BLANK or unicodedata.category(letter) in _INVISIBLE


def _joins(letter: str, before: list[str]) -> bool:
    """Whether it shapes the symbol before it: one of a kind, so that no row of them can spell anything."""
    if not before or letter not in (_JOINER, _AS_EMOJI):
        return False
    symbol = unicodedata.category(before[-1]) in ("So", "Sk", "Sm", "Po")
    return symbol or (letter == _JOINER and before[-1] == _AS_EMOJI) or (letter == _AS_EMOJI and before[-1].isdigit())
