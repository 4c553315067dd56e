"""Other readings of a word: the same keys in the other keyboard layout, the same sounds in the other script.

Pure functions over one word. They do not know whether a reading is a word at all: the archive decides that. All
readings have е for ё, as the archive's words do.
"""

from __future__ import annotations

import itertools
import re

from vkteams_daemon.store.words.letters import fold

_LATIN = "`qwertyuiop[]asdfghjkl;'zxcvbnm,.~QWERTYUIOP{}ASDFGHJKL:\"ZXCVBNM<>"
_CYRILLIC = "ёйцукенгшщзхъфывапролджэячсмитьбюЁЙЦУКЕНГШЩЗХЪФЫВАПРОЛДЖЭЯЧСМИТЬБЮ"
_TO_CYRILLIC = str.maketrans(_LATIN, _CYRILLIC)
_TO_LATIN = str.maketrans(_CYRILLIC, _LATIN)

_CYRILLIC_LETTER = re.compile("[а-яё]")
_LATIN_LETTER = re.compile("[a-z]")

MAX_SPELLINGS = 12
"""Spellings of one word in the other script; the likelier come first."""

# The schemes that people mix: GOST 7.79 and 52535, passports, and habits of their own. Longer sequences come first.
_SPELLED_IN_LATIN: dict[str, tuple[str, ...]] = {
    "shch": ("щ",), "tsya": ("тся", "ця"), "sch": ("щ", "сч"), "iya": ("ия",), "iia": ("ия",), "ija": ("ия",),
    "yye": ("ые",), "yie": ("ые",), "sh": ("ш",), "ch": ("ч",), "zh": ("ж",), "kh": ("х",), "ts": ("ц", "тс"),
    "ya": ("я",), "ja": ("я",), "ia": ("ия", "я"), "yu": ("ю",), "ju": ("ю",), "iu": ("ю", "иу"), "yo": ("е", "ио"),
    "jo": ("е",), "ye": ("е", "ые"), "je": ("э", "е"),
    "a": ("а",), "b": ("б",), "c": ("ц", "к"), "d": ("д",), "e": ("е",), "f": ("ф",), "g": ("г",), "h": ("х", "г"),
    "i": ("и",), "j": ("й", "ж"), "k": ("к",), "l": ("л",), "m": ("м",), "n": ("н",), "o": ("о",), "p": ("п",),
    "q": ("к",), "r": ("р",), "s": ("с",), "t": ("т",), "u": ("у",), "v": ("в",), "w": ("в", "ш"), "x": ("кс", "х"),
    "y": ("ы", "й"), "z": ("з",), "'": ("ь",), "`": ("ь",),
}  # fmt: skip
_LATIN_ENDS: dict[str, tuple[str, ...]] = {"iy": ("ий",), "ij": ("ий",), "yy": ("ый",), "yj": ("ый",)}
_SPELLED_IN_CYRILLIC: dict[str, tuple[str, ...]] = {
    "дж": ("j", "dzh"), "кс": ("x", "ks"), "кв": ("kv", "q"), "а": ("a",), "б": ("b",), "в": ("v", "w"), "г": ("g",),
    "д": ("d",), "е": ("e",), "ж": ("zh", "j"), "з": ("z",), "и": ("i",), "й": ("y", "j"), "к": ("k", "c"), "л": ("l",),
    "м": ("m",), "н": ("n",), "о": ("o",), "п": ("p",), "р": ("r",), "с": ("s", "c"), "т": ("t",), "у": ("u",),
    "ф": ("f",), "х": ("h", "kh"), "ц": ("c", "ts"), "ч": ("ch",), "ш": ("sh",), "щ": ("sch",), "ъ": ("",),
    "ы": ("y",), "ь": ("",), "э": ("e",), "ю": ("u", "yu"), "я": ("ya",),
}  # fmt: skip
_VOWELS = set("aeiou")


def other_layout(word: str) -> str | None:
    """The word that the same keys give in the other layout; None if it has letters of both scripts or of neither."""
    lower = word.lower()
    cyrillic, latin = _CYRILLIC_LETTER.search(lower), _LATIN_LETTER.search(lower)
    if bool(cyrillic) == bool(latin):
        return None
    # Keys of punctuation give letters too: `jnx`n` is отчёт. So a comma at the end may be a comma or a б.
    return fold(word.translate(_TO_LATIN if cyrillic else _TO_CYRILLIC))


def other_script(word: str) -> list[str]:
    """The word in the letters of the other script, the likeliest spelling first; empty if it mixes both scripts."""
    lower = fold(word.lower())
    cyrillic, latin = _CYRILLIC_LETTER.search(lower), _LATIN_LETTER.search(lower)
    if bool(cyrillic) == bool(latin):
        return []
    choices = _choices(lower, _SPELLED_IN_CYRILLIC if cyrillic else _SPELLED_IN_LATIN)
    # First one letter takes its second reading, then two: people keep to one scheme within a word.
    readings: list[str] = []
    ambiguous = [n for n, options in enumerate(choices) if len(options) > 1]
    for count in range(min(2, len(ambiguous)) + 1):
        for places in itertools.combinations(ambiguous, count):
            readings.append("".join(options[1 if n in places else 0] for n, options in enumerate(choices)))
            if len(readings) == MAX_SPELLINGS:
                return list(dict.fromkeys(readings))
    return list(dict.fromkeys(readings))


def _choices(word: str, table: dict[str, tuple[str, ...]]) -> list[tuple[str, ...]]:
    choices: list[tuple[str, ...]] = []
    at = 0
    while at < len(word):
        rest = word[at:]
        piece = next((rest[:n] for n in (4, 3, 2, 1) if rest[:n] in table), rest[0])
        options = table.get(piece, (piece,))
        if table is _SPELLED_IN_LATIN:
            if rest in _LATIN_ENDS:
                piece, options = rest, _LATIN_ENDS[rest]
            elif piece == "e" and at == 0:
                options = ("э", "е")
            elif piece in ("y", "ye") and at and (word[at - 1] in _VOWELS) == (piece == "y"):
                # After a vowel y is й (kanareyka); between consonants it is ы. After a consonant ye is ые (chyornye).
                options = options[::-1]
        choices.append(options)
        at += len(piece)
    return choices
