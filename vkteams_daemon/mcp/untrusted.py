"""What people and bots say, as data: nothing in it that is invisible, steers a terminal or turns its letters around.

A person cannot see these characters, and a model reads them: whole instructions can hide in them. What is visible
stays, fake instructions included; telling data from instructions is what the separate fields of an answer are for.
"""

from __future__ import annotations

import re
import unicodedata

# Invisible letters, marks and symbols; categories Cc and Cf are asked of unicodedata.
_BLANK = {
    0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0,
    *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0000, 0xE1000),
}  # fmt: skip
_HIDING = {"Cc", "Cf", "Cs", "Co"}
_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_JOINER, _AS_EMOJI = "\u200d", "\ufe0f"


def visible(text: str) -> str:
    """The text without control and invisible characters; newlines and tabs stay, and so do the joints of emoji."""
    text = _BREAKS.sub("\n", text)
    if text.isascii() and text.isprintable():
        return text
    kept: list[str] = []
    for letter in text:
        if letter in "\n\t" or not _hidden(letter) or _joins(letter, kept):
            kept.append(letter)
    return "".join(kept).rstrip(_JOINER)


def _hidden(letter: str) -> bool:
    return ord(letter) in _BLANK or unicodedata.category(letter) in _HIDING


def _joins(letter: str, before: list[str]) -> bool:
    """Whether it shapes the symbol before it: one of a kind, so that no row of them can spell anything."""
    if not before or letter not in (_JOINER, _AS_EMOJI):
        return False
    symbol = unicodedata.category(before[-1]) in ("So", "Sk", "Sm", "Po")
    return symbol or (letter == _JOINER and before[-1] == _AS_EMOJI) or (letter == _AS_EMOJI and before[-1].isdigit())
