"""Cuts a text into words. Messages and queries are cut by this module alone, so what is shown can be found as shown.

A word is a run of letters and digits; every sign divides words. An identifier (JIRA-1234, host-01.corp) is therefore
several words that follow one another, and a query finds it as a phrase. Words may have another form beside them:
a number's (`numbers`), `ops142` beside `ops` and `142`, `wifi` beside `wi` and `fi` of Wi-Fi, `c#` beside `c`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from vkteams_daemon.store.words import letters, numbers

MAX_WORD = 255
"""Letters of a word that are indexed and looked for."""

# Most texts have no other characters: ASCII, Russian letters, signs that divide words. Folding changes only ё in them.
_PLAIN_SIGNS = "А-Яа-яЁё«»—“”„…•·₽€°"
_PLAIN = re.compile(f"[\0-\x7f{_PLAIN_SIGNS}]*")
_PLAIN_WITHOUT_DIGITS = re.compile(f"[\0-/:-\x7f{_PLAIN_SIGNS}]*")
_PLAIN_WORD = re.compile("[0-9A-Za-zА-Яа-яЁё]+")
_SYMBOLS = (
    "\u231a\u231b\u23e9-\u23fa\u25b6\u25c0\u25fb-\u25fe\u2600-\u27bf\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55"
    "\U0001f000-\U0001faff"
)
_WORD = re.compile(f"[^\\W_]+|[{_SYMBOLS}]")
_DIGIT = re.compile(r"\d")
# Only texts with one of these, or with a month, have a number with another form, or an x within a size.
_NUMBER = re.compile(
    r"\d(?:\s[xXхХ]\s\d|(?<=2)0\d{6}|[\s.,/()'_\-]{1,3}\d|\d{9}|(?<=^[+\-].)|(?<=[\s(\[=:~≈≤≥<>][+\-].))"
)
_GLUED = re.compile(r"\d(?:[^\W\d_]|(?<=[^\W\d_].))")
_TWO_PARTS = re.compile(r"([^\W\d_]+)(\d+)|(\d+)([^\W\d_]+)")
# Words of letters that hyphens join, which people also write as one: Wi-Fi, онлайн-касса. No part of a name or path.
_HYPHENATED = re.compile(r"(?<![\w\-.@/\\])[^\W\d_]+(?:-[^\W\d_]+){1,2}(?![\w\-@/\\]|\.\w)")
_BY = "[xXхХ]"  # between numbers
_SIZES = re.compile(rf"\d+(?:{_BY}\d+)+")  # 1920x1080, 10x20x30
_BY_APART = re.compile(rf"(?<=\d\s){_BY}\s\d")  # 1920 x 1080
_NUMBERED = re.compile(r"[Nn](\d{3,})")  # N453 is №453, and n8n is not
_CODE = re.compile(r"(?<![\w\-.@/\\])([^\W\d_])-(\d+)(?![\w\-]|[.,]\d)")  # A-1029, Т-34
_ABBREVIATION = re.compile(r"(?<![\w\-.@/\\])[А-Яа-я](?:/[А-Яа-я]){1,2}(?![\w\-@/\\]|\.\w)")  # з/п, also written зп
_LANGUAGE = re.compile(r"(?<!\w)([CcСсFf])(#|\+\+)(?![\w#+])")  # C#, C++
# Words that are written together, each with a capital letter: userName, HTTPServer. Not ПРивет.
_JOINED = re.compile("[a-zа-я][A-ZА-Я]|[A-ZА-Я]{3}[a-zа-я]{2}")
_PART = re.compile("[A-ZА-Я]{2,}(?![a-zа-я])|[A-ZА-Я]?[a-zа-я]+(?<=..)")
_MAX_JOINED = 60  # letters; a longer word is no name but data
_DOTTED, _VERSION = re.compile(r"\.\d"), re.compile(r"\.?\s?\d+\.\d")


class Form(NamedTuple):
    """Another form of words that follow one another.

    Attributes:
        place: the index of the first of these words.
        width: how many words it stands for.
        word: it; letters alone are a word in its own case, which has lexemes, and anything else is its own lexeme.
    """

    place: int
    width: int
    word: str


class Tokens(NamedTuple):
    """The words of a text in their order, and their other forms.

    Attributes:
        spans: begin and end of each word in the folded text; empty unless `tokens_of_folded` has cut it.
    """

    words: list[str]
    forms: Sequence[Form] = ()
    spans: Sequence[tuple[int, int]] = ()


def tokens(text: str) -> Tokens:
    """The words of a text, as `normal_forms` takes them."""
    has_digit = _PLAIN_WITHOUT_DIGITS.fullmatch(text) is None
    if not has_digit or _PLAIN.fullmatch(text):
        words = _PLAIN_WORD.findall(text)
    else:
        text = letters.fold(text)
        words = _WORD.findall(text)
        has_digit = _DIGIT.search(text) is not None
    if len(text) <= MAX_WORD or max(map(len, words), default=0) <= MAX_WORD:
        if "-" in text and (_HYPHENATED.search(text) or (has_digit and _CODE.search(text))):
            return tokens_of_folded(letters.fold(text))
        if ("/" in text and _ABBREVIATION.search(text)) or (("#" in text or "++" in text) and _LANGUAGE.search(text)):
            return tokens_of_folded(letters.fold(text))
        if not has_digit:
            return Tokens(words)
        if _NUMBER.search(text) is None:
            cut = _with_parts(words) if _GLUED.search(text) else Tokens(words)
            if numbers.MONTH_WORDS.isdisjoint(cut.words):
                return cut
    return tokens_of_folded(letters.fold(text))


def tokens_of_folded(text: str) -> Tokens:
    """The words of a folded text, with their spans."""
    words: list[str] = []
    forms: list[Form] = []
    spans: list[tuple[int, int]] = []
    has_digit = False
    for match in _WORD.finditer(text):
        word, begin, end = match[0][:MAX_WORD], match.start(), match.end()
        if word.isalpha():
            if word in "vV" and _VERSION.match(text, end):
                continue  # a version's v is no part of it: v.3.11, v 3.11
            if word in "xXхХ" and _BY_APART.match(text, begin):
                continue
            words.append(word)
            spans.append((begin, end))
            continue
        has_digit = True
        parts = _parts(word, dotted=_DOTTED.match(text, end) is not None)
        forms += _forms(len(words), word, parts)
        for part in parts:
            words.append(part)
            spans.append((begin, begin + len(part)))
            begin += len(part)
        if len(parts) == 1:
            spans[-1] = (end - len(parts[0]), end)
    found = []
    if "-" in text:
        found += [(match.start(), match.end(), match[0].replace("-", "")) for match in _HYPHENATED.finditer(text)]
    if "/" in text:
        found += [(match.start(), match.end(), match[0].replace("/", "")) for match in _ABBREVIATION.finditer(text)]
    if "#" in text or "++" in text:
        found += [
            (match.start(), match.end(), f"{'f' if match[1] in 'Ff' else 'c'}{match[2]}")
            for match in _LANGUAGE.finditer(text)
        ]
    if has_digit and "-" in text:
        found += [(match.start(), match.end(), (match[1] + match[2]).lower()) for match in _CODE.finditer(text)]
    if has_digit:
        found += numbers.forms(text, worded=not numbers.MONTH_WORDS.isdisjoint(words))
    begins = [begin for begin, _ in spans] if found else []
    for begin, end, form in found:
        first_word = bisect_left(begins, begin)
        forms.append(Form(first_word, bisect_left(begins, end) - first_word, form))
    return Tokens(words, forms, spans)


def _with_parts(whole: list[str]) -> Tokens:
    """The words, those of letters and digits cut into both."""
    words: list[str] = []
    forms: list[Form] = []
    for word in whole:
        if word.isalpha() or word.isdecimal():
            words.append(word)
            continue
        parts = _parts(word, dotted=False)
        forms += _forms(len(words), letters.fold(word), parts)
        words += parts
    return Tokens(words, forms)


def _parts(word: str, *, dotted: bool) -> list[str]:
    """The words that a word with digits is cut into: ops142, 500мб, python3 before a point and a digit."""
    parts = _TWO_PARTS.fullmatch(word)
    if parts is None:
        return re.split(_BY, word) if _SIZES.fullmatch(word) else [word]
    if parts[1] is None:
        return [parts[3], parts[4]]
    if dotted:
        return [parts[2]] if parts[1] in "vV" else [parts[1], parts[2]]
    return [parts[1], parts[2]] if len(parts[1]) > 1 else [word]


def _forms(place: int, word: str, parts: Sequence[str]) -> list[Form]:
    """The other forms of a folded word with digits that is cut into these parts."""
    if len(parts) == 1:
        return [Form(place, 1, numbered[1])] if (numbered := _NUMBERED.fullmatch(word)) else []
    return [Form(place, 2, form) for form in _glued_forms(word)]


def _glued_forms(word: str) -> list[str]:
    """A word of letters and digits: as it is, and with Cyrillic letters if nobody sees a difference (1C, 50k)."""
    if (same := _TWO_PARTS.fullmatch(word)) is None:
        return []
    alike = letters.alike(word) if (same[1] or same[4]).isascii() else None
    return list(dict.fromkeys(form.lower() for form in (word, alike) if form))


def normal_forms(word: str, *, whole: bool = False) -> list[str]:
    """A word of `Tokens` as it is indexed, before the server stems it; several if it can be read in several ways.

    Args:
        word: as `Tokens` has it.
        whole: leave out the words that it is written together of (getUserName): a query means all of them.
    """
    word = letters.fold(word)
    forms = [word.lower()] if word.isascii() else [reading.lower() for reading in letters.readings(word)]
    if not whole and len(forms) == 1 and len(word) <= _MAX_JOINED and _JOINED.search(word):
        forms += [part.lower() for part in _PART.findall(word)]
    return list(dict.fromkeys(forms))
