"""Cuts a text into words. Messages and queries are cut by this module alone, so what is shown can be found as shown.

A word is a run of letters and digits; every sign divides words. An identifier (JIRA-1234, host-01.corp) is therefore
several words that follow one another, and a query finds it as a phrase. Words may have another form beside them:
a number's (`numbers`), or `ops142` beside `ops` and `142`.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field

from vkteams_daemon.store.words import letters, numbers

MAX_WORD = 255
"""Letters of a word that are indexed and looked for."""

_WORD = re.compile(r"[^\W_]+")
_SYMBOLS = "\u2600-\u27bf\U0001f000-\U0001faff"
# What folding joins, or cuts in another way than signs do: marks, what is invisible, digits of other styles, emoji.
_NOT_PLAIN = (
    f"{letters.INVISIBLE}{letters.MARKS}{_SYMBOLS}ªº²³¹¼-¾™℠\u2070-\u209f\u2150-\u218b\u2460-\u24ff\u3200-\u33ff"
    "\ufb00-\ufdff\ufe70-\uffef"
)
_SPECIAL, _SPECIAL_BUT_DIGITS = re.compile(rf"[\d{_NOT_PLAIN}]"), re.compile(f"[{_NOT_PLAIN}]")
# Only texts with one of these, or with a month, have a number with another form.
_NUMBER = re.compile(r"\d(?:[\s.,/()'_\-’–]{1,3}\d|\d{9}|(?<=^[+\-−–].)|(?<=[\s(\[=:~<>][+\-−–].))")
_GLUED = re.compile(r"\d(?:[^\W\d_]|(?<=[^\W\d_].))")
_FOLDED_WORD = re.compile(f"[^\\W_]+|[{_SYMBOLS}]")
_TWO_PARTS = re.compile(r"([^\W\d_]+)(\d+)|(\d+)([^\W\d_]+)")
_DOTTED, _VERSION = re.compile(r"\.\d"), re.compile(r"\.?\s?\d+\.\d")


@dataclass(frozen=True, slots=True)
class Form:
    """Another form of words that follow one another.

    Attributes:
        place: the index of the first of these words.
        width: how many words it stands for.
    """

    place: int
    width: int
    word: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """The words of a text in their order, and their other forms.

    Attributes:
        spans: begin and end of each word in the folded text; empty unless it was looked at closely.
    """

    words: list[str]
    forms: list[Form] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)


def tokens(text: str) -> Tokens:
    """The words of a text, as `normal_forms` takes them."""
    special = _SPECIAL.search(text)
    if special is None or (special[0].isdecimal() and _SPECIAL_BUT_DIGITS.search(text) is None):
        words = _WORD.findall(text)
        has_form = special and (_NUMBER.search(text) or not numbers.MONTH_WORDS.isdisjoint(words))
        if not has_form and (len(text) <= MAX_WORD or max(map(len, words), default=0) <= MAX_WORD):
            return _with_parts(words) if special and _GLUED.search(text) else Tokens(words)
    return tokens_of_folded(letters.fold(text))


def tokens_of_folded(text: str) -> Tokens:
    """The words of a folded text, with their spans."""
    result = Tokens([])
    words, spans = result.words, result.spans
    has_digit = False
    for match in _FOLDED_WORD.finditer(text):
        word, begin, end = match[0][:MAX_WORD], match.start(), match.end()
        if word.isalpha():
            if word in "vV" and _VERSION.match(text, end):
                continue  # a version's v is no part of it: v.3.11, v 3.11
            words.append(word)
            spans.append((begin, end))
            continue
        has_digit = True
        parts = _parts(word, dotted=_DOTTED.match(text, end) is not None)
        if len(parts) == 2:
            result.forms.append(Form(len(words), 2, word.lower()))
        for part in parts:
            words.append(part)
            spans.append((begin, begin + len(part)))
            begin += len(part)
        if len(parts) == 1:
            spans[-1] = (end - len(parts[0]), end)
    if has_digit:
        begins = [begin for begin, _ in spans]
        for begin, end, form in numbers.forms(text, worded=not numbers.MONTH_WORDS.isdisjoint(words)):
            first_word = bisect_left(begins, begin)
            result.forms.append(Form(first_word, bisect_left(begins, end) - first_word, form))
    return result


def _with_parts(words: list[str]) -> Tokens:
    """The words, those of letters and digits cut into both."""
    result = Tokens([])
    for word in words:
        parts = [word] if word.isalpha() or word.isdecimal() else _parts(word, dotted=False)
        if len(parts) == 2:
            result.forms.append(Form(len(result.words), 2, word.lower()))
        result.words.extend(parts)
    return result


def _parts(word: str, *, dotted: bool) -> list[str]:
    """The words that a word with digits is cut into: ops142, 500мб, python3 before a point and a digit."""
    parts = _TWO_PARTS.fullmatch(word)
    if parts is None:
        return [word]
    if parts[1] is None:
        return [parts[3], parts[4]]
    if dotted:
        return [parts[2]] if parts[1] in "vV" else [parts[1], parts[2]]
    return [parts[1], parts[2]] if len(parts[1]) > 1 else [word]


def normal_forms(word: str) -> list[str]:
    """A word of `Tokens` as it is indexed, before the server stems it; several if it can be read in several ways."""
    return [reading.lower() for reading in letters.readings(letters.fold(word))]
