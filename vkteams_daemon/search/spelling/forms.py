"""Forms: whether two Russian words are one in different cases, numbers or tenses. They are folded and in lower case.

The stemmer cuts most forms of a word alike, and then no form is looked for. It cuts others apart: `взять` is взят and
`взял` is взял, `писем` is пис and `письма` письм, `Ершов` is ерш and `Ершову` ершов.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# The endings of names and of the words that titles are made of, in Russian cases and in both numbers.
_NOUN = (
    "а я о е и ы у ю й ь ой ей ий ый ая яя ою ею ом ем ым им ам ям ов ев ах ях ами ями их ых ого его ому ему ую юю"
    " ия ии ию ией ье ью s"
)
_ENDINGS = frozenset(["", *_NOUN.split()])
_VERB = re.compile("[аеиоуыя]?(?:т|ть|л|ла|ло|ли|ет|ут|ют|ем|ешь|ете)?(?:ся|сь)?")
_SUFFIXES = re.compile("(?:ов|ев|ин|ын|с)")  # of surnames; and a с that the stemmer takes for a reflexive verb's
MIN_STEM = 3
"""Letters that two forms of a word begin with alike."""

_FLEETING = re.compile("(.+)[ое]([бвгджзклмнпрстфхцчшщ])")
_CLUSTER = re.compile("(.+[бвгджзклмнпрстфхцчшщ])[ьй]?([бвгджзклмнпрстфхцчшщ])")
_CYRILLIC = re.compile("[а-я]+")


def is_form(word: str, name: str) -> bool:
    """Whether a word is a name or a noun, or a form of it in another case."""
    return _differ_by(word, name, _ENDINGS.__contains__)


def may_be_form(word: str, other: str) -> bool:
    """Whether one word may be a form of the other, also of a verb; both are known to be near to each other."""
    return _differ_by(word, other, lambda end: end in _ENDINGS or _VERB.fullmatch(end) is not None)


def _differ_by(word: str, other: str, is_ending: Callable[[str], bool]) -> bool:
    if word == other:
        return True
    same = next((n for n, (a, b) in enumerate(zip(word, other, strict=False)) if a != b), None)
    longest = min(len(word), len(other)) if same is None else same
    return any(is_ending(word[length:]) and is_ending(other[length:]) for length in range(longest, MIN_STEM - 1, -1))


def stems(word: str) -> list[str]:
    """What a stemmer may leave of other forms of this word, among things that are no words."""
    if not _CYRILLIC.fullmatch(word):
        return []
    found = []
    for end in range(2, len(word)):
        suffix = _SUFFIXES.match(word, end)
        if word[end:] in _ENDINGS or (suffix and word[suffix.end() :] in _ENDINGS):
            found.append(word[:end])
    return [*found, word, *_with_or_without_vowel(word)]


def _with_or_without_vowel(word: str) -> list[str]:
    """The word with or without a vowel before its last consonant: ошибок is ошибк, сосн is сосен."""
    if fleeting := _FLEETING.fullmatch(word):
        return [fleeting[1] + sign + fleeting[2] for sign in ("", "ь", "й")]
    if cluster := _CLUSTER.fullmatch(word):
        return [cluster[1] + vowel + cluster[2] for vowel in "ое"]
    return []
