"""Folds letters: texts that look alike to a reader become the same letters, in messages and in queries.

What is folded: compositions (й as one letter or as two), ё and other letters with marks, what is invisible (soft
hyphens, zero widths, variation selectors), stress marks, full-width and other styles of a letter, dashes. `readings`
folds letters that another script has as well: a Latin c or a Greek ο in a Russian word.
"""

from __future__ import annotations

import re
import unicodedata

# Letters and signs that fold to themselves.
_FOLDED = re.compile("[^\x00-\x7fА-Яа-я«»—“”„…•·₽€°]")
_YO = str.maketrans("ёЁ", "еЕ")

INVISIBLE = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U0001f3fb-\U0001f3ff\U000e0000-\U000e0fff"
)
"""A class of characters that nobody sees: they divide no word."""
MARKS = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u3099\u309a"
"""A class of marks that belong to the letter before them."""


def _pairs(pairs: str) -> dict[int, int]:
    """A table for `str.translate`: of each pair the first letter becomes the second."""
    return {ord(pair[0]): ord(pair[1]) for pair in pairs.split()}


_INVISIBLE = re.compile(f"[{INVISIBLE}]")
# NFKC would make letters of some signs: №5 is not No5.
_SIGNS = str.maketrans(dict.fromkeys("№™℠©®ªº", " ") | dict.fromkeys("‐‑‒–−﹘﹣－", "-") | dict.fromkeys("’ʼ‘`´", "'"))
# The marks of European letters, which folding drops. A breve stays on и, because it makes й.
_DROPPED_MARKS = re.compile(
    "[\u0300-\u0305\u0307-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]|(?<![иИ])\u0306"
)
# A letter with what belongs to it. The folded letters of a text are those of its clusters, one after the other.
_CLUSTER = re.compile(f".[{MARKS}{INVISIBLE}]*", re.DOTALL)

# Letters that are no composition of another letter and a mark.
_WITHOUT_MARK = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE"}
    | dict(zip("øØłŁđĐħĦı", "oOlLdDhHi", strict=True))
)

_LATIN_ALIKE = "ABCEHIKMOPTXYaceiopxyjskSJ"
_CYRILLIC_ALIKE = "АВСЕНІКМОРТХУасеіорхујѕкЅЈ"
_TO_CYRILLIC = str.maketrans(_LATIN_ALIKE, _CYRILLIC_ALIKE)
_TO_LATIN = str.maketrans(_CYRILLIC_ALIKE, _LATIN_ALIKE)
# Letters of other scripts, and rare ones of both, that a reader takes for a Latin or a Cyrillic letter.
_STRANGE_TO_LATIN = _pairs(
    "ΑA ΒB ΕE ΖZ ΗH ΙI ΚK ΜM ΝN ΟO ΡP ΤT ΥY ΧX αa εe ιi κk νv οo ρp τt υu χx γy ηn"
    " ωw ςc ϳj ԁd ԛq ԝw һh ӏl ӀI ѵv үy ԍG ɡg ɑa օo ոn սu հh ԌG ԚQ ԜW ҺH"
)
_STRANGE_TO_CYRILLIC = _pairs(
    "ΑА ΒВ ΓГ ΕЕ ΗН ΙІ ΚК ΛЛ ΜМ ΟО ΠП ΡР ΤТ ΥУ ΦФ ΧХ αа γу εе ηп ιі κк λл οо πп ρр τт υу φф χх ςс ɑа օо ӏІ ӀІ"
)
_STRANGE = re.compile("[\u0251\u0261\u0370-\u03ff\u0475\u04af\u04ba-\u04c0\u04cf\u0500-\u058f]")
_USUAL = re.compile("[A-Za-zА-яЁё]")
# A Latin word with a Russian ending: VPNом, PDFки.
_WITH_ENDING = re.compile("([A-Z]{2,})[а-я]{1,5}|([A-Za-z]*[DFGLNQRSUVWZbdfghlmnqrtuvwz][A-Za-z]*)[а-я]{1,5}")
_MIXED = re.compile("[A-Za-z][^A-Za-z]*[Ѐ-ӿ]|[Ѐ-ӿ][^Ѐ-ӿ]*[A-Za-z]")


def fold(text: str) -> str:
    """The text with one form for each letter; upper and lower case stay."""
    if text.isascii():
        return text
    text = text.translate(_YO)
    if _FOLDED.search(text) is None:
        return text
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text).translate(_SIGNS))
    without_marks = _DROPPED_MARKS.sub("", unicodedata.normalize("NFD", text)).translate(_WITHOUT_MARK)
    return unicodedata.normalize("NFC", without_marks)


def fold_with_places(text: str) -> tuple[str, list[int]]:
    """The folded text, and for each of its letters, and for its end, the place in the text where it begins."""
    folded = fold(text)
    if len(folded) == len(text):
        return folded, list(range(len(text) + 1))
    letters: list[str] = []
    places: list[int] = []
    for match in _CLUSTER.finditer(text):
        letter = fold(match[0])
        letters.append(letter)
        places += [match.start()] * len(letter)
    return "".join(letters), [*places, len(text)]


def readings(word: str) -> list[str]:
    """How a folded word can be read, the likelier first: more than one only if it has Latin and Cyrillic letters.

    Letters that only one script has decide for that script, and the majority decides if both scripts have some. If
    every letter could belong to either script, the word has two readings. Greek and rare letters count as those they
    look like, if the word has others. A Latin word with a Russian ending can be read without it.

    Args:
        word: in its own case: В looks like B, but в does not look like b.
    """
    if word.isascii():
        return [word]
    if _STRANGE.search(word) and (usual := _USUAL.findall(word)):
        mostly_latin = sum(map(str.isascii, usual)) * 2 > len(usual)
        word = word.translate(_STRANGE_TO_LATIN if mostly_latin else _STRANGE_TO_CYRILLIC)
    if _MIXED.search(word) is None:
        return [word]
    latin = sum("A" <= letter <= "z" and letter not in _LATIN_ALIKE for letter in word)
    cyrillic = sum("Ѐ" <= letter <= "ӿ" and letter not in _CYRILLIC_ALIKE for letter in word)
    as_cyrillic, as_latin = word.translate(_TO_CYRILLIC), word.translate(_TO_LATIN)
    if with_ending := _WITH_ENDING.fullmatch(word):
        return [as_cyrillic if cyrillic > latin else as_latin, with_ending[1] or with_ending[2]]
    if latin == cyrillic:
        mostly_cyrillic = sum("Ѐ" <= letter <= "ӿ" for letter in word) * 2 >= len(word)
        return [as_cyrillic, as_latin] if mostly_cyrillic else [as_latin, as_cyrillic]
    return [as_cyrillic] if cyrillic > latin else [as_latin]


def alike(word: str) -> str | None:
    """The word in the letters of the other script that look the same; None if a letter has no such twin.

    Args:
        word: of letters and digits, folded, in its own case.
    """
    letters = [letter for letter in word if not letter.isdigit()]
    for own, table in ((_LATIN_ALIKE, _TO_CYRILLIC), (_CYRILLIC_ALIKE, _TO_LATIN)):
        if letters and all(letter in own for letter in letters):
            return word.translate(table)
    return None
