"""Loan words: an English word in Russian letters, as people write it by ear (бэкап, деплой), and the other way round.

A transliteration spells letter by letter and reaches few of them. So each letter becomes the ways in which the other
script writes its sound, and the word a pattern for words of the archive. What matches is a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Letters of a loan word. A longer pattern has so many ways to match that a hostile word would take seconds.
_LEAST, _MOST = 3, 16

# Sounds in Russian letters: how English words write them. A consonant may be doubled.
_CYRILLIC: dict[str, str] = {
    "дж": "j|dge?|g", "кс": "x|ks|cks|cs|cc|xc", "кв": "qu|kv|cv", "чер": "ture|cher|tcher", "ча": "ture?|cha|tcha",
    "шн": "tion|sion|shn", "шт": "st|sht", "уи": "wee|wi|ui", "ай": "i|y|ai|igh|uy|ie|ay", "ей": "a|ai|ay|ei|ey|e",
    "эй": "a|ai|ay|ei|ey", "ой": "oy|oi", "ау": "ou|ow|au", "оу": "o|ow|oa|ou", "йо": "yo|io",
    "а": "a|u|o", "е": "e|a|ea|ai|ei|ie", "э": "a|e|ea|ai|ha", "и": "i|e|ee|ea|y|ie|ey", "ы": "i|y",
    "о": "o|a|oa|au|aw|ow", "у": "u|oo|ou|ew|ue", "ю": "u|you|yu|ew|iew|iu|ue", "я": "ya|ia", "б": "b", "в": "v|w|wh",
    "г": "g|gh", "д": "d", "ж": "g|j", "з": "z|s", "й": "y|i", "к": "k|c|ck|ch|q", "л": "l", "м": "m",
    "н": "n|kn|gn", "п": "p", "р": "r|wr", "с": "s|c|sc", "т": "t|th", "ф": "f|ph", "х": "h|ch", "ц": "c|ts|tz|z",
    "ч": "ch|tch|ture?", "ш": "sh|sch|ch", "щ": "sch",
}  # fmt: skip
# Sounds in Latin letters: how Russian words write them.
_LATIN: dict[str, str] = {
    "tion": "шн|шен|ци", "ture": "ч|ча|чер|чур", "tur": "ч|чур|тур", "sch": "ш|ск", "tch": "ч", "dge": "дже?|же?",
    "igh": "ай", "iew": "ью|ю", "you": "ю", "ing": "инг", "ch": "ч|к|ш", "sh": "ш", "ph": "ф", "th": "т|тх",
    "ck": "к", "kn": "н", "gn": "н|гн", "wh": "в|у", "wr": "р", "qu": "кв", "cc": "кк?|кс", "xc": "кс", "ts": "ц|тс",
    "ee": "и", "ea": "и|е|э", "ie": "и|е|ай", "ei": "ей|эй", "ey": "и|ей|эй", "ai": "ей|эй|ай|е|э", "ay": "ей|эй|ай",
    "oo": "у", "ou": "ау|у|оу", "ow": "оу|ау|о", "oa": "о|оа|оу", "au": "о|ау|а", "aw": "о", "oy": "ой", "oi": "ой",
    "ew": "ью|ю|у", "ue": "ю|ью|у|юе", "ia": "ия|иа|я", "io": "ио|йо", "ya": "я", "yu": "ю", "yo": "е|йо",
    "a": "а|э|е|ей|эй|о", "e": "е|э|и|", "i": "и|ай", "y": "и|ай|й", "o": "о|а|оу", "u": "у|а|ю|ью", "b": "б",
    "c": "к|с|ц", "d": "д", "f": "ф", "g": "г|дж|ж", "h": "х", "j": "дж|ж", "k": "к", "l": "л", "m": "м", "n": "н",
    "p": "п", "q": "к", "r": "р", "s": "с|з", "t": "т", "v": "в", "w": "в|у", "x": "кс|кз", "z": "з|ц",
}  # fmt: skip
_STEMMED = ("ер", "инг", "с")  # what English stems lack: manag, meet, window
_CYRILLIC_WORD, _LATIN_WORD = (
    re.compile(rf"(?!.*(.)\1\1)[{letters}]{{{_LEAST},{_MOST}}}") for letters in ("а-я", "a-z")
)
# Without a sound: a piece that may be empty would do the same.
_SIGNS = re.compile("[ъь]")
_VOWELS = frozenset("аеиоуыэюяaeiouy")


def pattern(word: str) -> str | None:
    """A regular expression for this word in the other script, as the archive's words have it: without its ending.

    None for a word that is too short or too long, not of one script's letters alone, or no word: with a letter thrice.

    Args:
        word: folded and in lower case; as typed, or its stem.
    """
    if _CYRILLIC_WORD.fullmatch(sounded := _SIGNS.sub("", word)):
        return "|".join(map(_in_latin, _bases(sounded)))
    if _LATIN_WORD.fullmatch(word):
        return _in_cyrillic(word)
    return None


def matches(word: str, stem: str, others: Iterable[str]) -> dict[str, bool]:
    """Those of the other words that may be this one in the other script, and whether each leads back to it, too.

    Args:
        word: folded and in lower case.
        stem: what the stemmer makes of it.
        others: words as the archive has them.
    """
    patterns = [found for each in dict.fromkeys((word, stem)) if (found := pattern(each))]
    if not patterns:
        return {}
    sounds = re.compile("|".join(patterns)).fullmatch
    bases = [*_bases(word), *_bases(stem)]
    return {other: _leads_to(other, bases) for other in others if sounds(other)}


def _bases(word: str) -> list[str]:
    """The word, and what is left of it without an ending that English stems lack."""
    bases = [word, *(word.removesuffix(end) for end in _STEMMED if word.endswith(end))]
    return [base for base in bases if len(base) >= _LEAST]


def _leads_to(word: str, others: Sequence[str]) -> bool:
    back = pattern(word)
    return back is not None and any(re.fullmatch(back, other) for other in others)


def _in_latin(word: str) -> str:
    found = []
    pieces = _pieces(word, _CYRILLIC)
    for piece, following in zip(pieces, [*pieces[1:], ""], strict=True):
        if piece == "й":
            found.append(f"(?:{_CYRILLIC[piece]})?")
        elif piece[0] in _VOWELS:
            found.append(f"(?:{_CYRILLIC[piece]})")
        else:
            # An e that nobody hears, between consonants: pipeline.
            found.append(f"(?:{_CYRILLIC[piece]}){{1,2}}" + ("e?" if following and following[0] not in _VOWELS else ""))
    if cut := _CYRILLIC.get(pieces[-1] + "й"):
        found[-1] = f"(?:{_CYRILLIC[pieces[-1]]}|{cut})"  # a stem lacks its й: вайфай is вайфа
    return "".join(found) + "[ea]?"  # a silent e; the ending of jira, which the stem джир has lost


def _in_cyrillic(word: str) -> str:
    pieces = _pieces(word, _LATIN)
    found = [f"(?:{_LATIN[piece]})" + ("" if piece[0] in _VOWELS else "{1,2}[ьъ]?") for piece in pieces]
    if pieces[-1][0] in _VOWELS:
        # A stem lacks the ending, or its й: деплой is депл, and вайфай вайфа.
        found[-1] = f"(?:{_LATIN[pieces[-1]]}|{_LATIN[pieces[-1]].replace('й', '')})?й?"
    return "".join(found)


def _pieces(word: str, table: dict[str, str]) -> list[str]:
    """The word cut into the longest pieces that the table has; a double consonant is one."""
    pieces: list[str] = []
    at = 0
    while at < len(word):
        piece = next(word[at : at + n] for n in (4, 3, 2, 1) if word[at : at + n] in table)
        at += len(piece)
        if not (pieces and pieces[-1] == piece and piece not in _VOWELS):
            pieces.append(piece)
    return pieces
