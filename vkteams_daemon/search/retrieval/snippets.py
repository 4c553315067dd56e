"""Snippets: the part of a text that a query has found, with marks around the words that match."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from vkteams_daemon.search.results import MARKS
from vkteams_daemon.search.retrieval.query import Query, lexemes_in
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.words import letters
from vkteams_daemon.store.words.lexicon import Lexemes, Lexicon, form_lexemes, lexemes_of, words_of
from vkteams_daemon.store.words.tokens import Tokens, normal_forms, tokens_of_folded

_SHORT = 300  # characters of a text that a snippet shows whole
_BEFORE, _LENGTH = 60, 200  # characters of a fragment before its first match, and in all
_FRAGMENTS = 2
_BETWEEN_FRAGMENTS = " … "
_MAX_MATCHES = 1000  # of one text that are looked at; more by at most those of a part
_PART = 20_000  # about; characters of a long text that are read at once

_SPACE = re.compile(r"\s")

_Match = tuple[int, int, frozenset[str]]  # begin, end, and the lexemes of the query that match there


def snippets(connection: Connection, texts: Sequence[str], query: Query) -> list[str]:
    """For each text the part with the query's words, marked with `MARKS`; a short text whole.

    A snippet is "" if the text has no word to mark: its words stand outside the text, or have no lexeme.
    """
    wanted = frozenset(lexeme for term in query.terms for lexeme in lexemes_in(term.tsquery))
    lexicon = Lexicon()
    matches: list[list[_Match]] = [[] for _ in texts]
    # Part by part: the words of a very long text take seconds, and the server ends a transaction that is silent for so
    # long. Most often the first part has enough.
    parts = {n: (0, _part_end(text, 0)) for n, text in enumerate(texts)}
    while parts:
        found = _matches_of(connection, [texts[n][begin:end] for n, (begin, end) in parts.items()], wanted, lexicon)
        for (n, (part, _)), each in zip(parts.items(), found, strict=True):
            matches[n] += [(part + begin, part + end, lexemes) for begin, end, lexemes in each]
        parts = {
            n: (end, _part_end(texts[n], end))
            for n, (_, end) in parts.items()
            if end < len(texts[n]) and len(matches[n]) < _MAX_MATCHES
        }
    return [_snippet(text, each) if each else "" for text, each in zip(texts, matches, strict=True)]


def _part_end(text: str, begin: int) -> int:
    """Where the part of a text that begins here ends: behind a space, so that it cuts no word."""
    space = _SPACE.search(text, begin + _PART)
    return space.end() if space else len(text)


def _matches_of(
    connection: Connection, texts: Sequence[str], wanted: frozenset[str], lexicon: Lexicon
) -> list[list[_Match]]:
    """The matches in each text, in their order."""
    folded = [letters.fold_with_places(text) for text in texts]
    cut = [tokens_of_folded(text) for text, _ in folded]
    # A stem begins as its word does, so a long text has few words that could match. Short words may be stop words.
    beginnings = tuple(lexeme[:2] for lexeme in wanted)
    words = words_of((each, 0) for each in cut)
    likely = {word for word in words if len(word) < 3 or any(f.startswith(beginnings) for f in normal_forms(word))}
    lexemes = lexicon.lexemes(connection, likely)
    return [
        [(places[begin], places[end], found) for begin, end, found in _matches(plain, each, lexemes, wanted)]
        for each, (plain, places) in zip(cut, folded, strict=True)
    ]


def _matches(folded: str, cut: Tokens, lexemes: Lexemes, wanted: frozenset[str]) -> list[_Match]:
    """The matches in a folded text, in their order. Signs and stop words alone do not part two of them."""
    by_word = [frozenset(lexemes_of(word, lexemes)) for word in cut.words]
    found = [each & wanted for each in by_word]
    within: set[int] = set()  # places of words that are one number with the word before them
    for form in cut.forms:
        if in_form := wanted.intersection(form_lexemes(cut, form, lexemes)):
            within.update(range(form.place + 1, form.place + form.width))
            for place in range(form.place, form.place + form.width):
                found[place] |= in_form
    matches: list[_Match] = []
    last = -1  # the place of the last match
    for place, (begin, end) in enumerate(cut.spans):
        if not found[place]:
            continue
        joined = place in within or not _SPACE.search(folded, matches[-1][1] if matches else 0, begin)
        if matches and joined and not any(by_word[last + 1 : place]):
            before = matches.pop()
            matches.append((before[0], end, before[2] | found[place]))
        else:
            matches.append((begin, end, found[place]))
        last = place
        if len(matches) == _MAX_MATCHES:
            break
    return matches


def _snippet(text: str, matches: Sequence[_Match]) -> str:
    if len(text) <= _SHORT:
        return _marked(text, matches, 0, len(text))
    begins: list[int] = []
    firsts = [first for first, _, _ in matches]
    for begin in sorted(_begins(matches), key=lambda begin: -len(_lexemes_within(matches, firsts, begin))):
        if all(abs(begin - other) > _LENGTH for other in begins):
            begins.append(begin)
        if len(begins) == _FRAGMENTS:
            break
    fragments = [_words_within(text, begin, min(len(text), begin + _LENGTH)) for begin in sorted(begins)]
    return _BETWEEN_FRAGMENTS.join(_marked(text, matches, begin, end) for begin, end in fragments)


def _begins(matches: Sequence[_Match]) -> Iterable[int]:
    return dict.fromkeys(max(0, begin - _BEFORE) for begin, _, _ in matches)


def _lexemes_within(matches: Sequence[_Match], firsts: Sequence[int], begin: int) -> set[str]:
    """The lexemes of the matches within a fragment that begins here; `firsts` has where each match begins."""
    end = begin + _LENGTH
    near = matches[bisect_left(firsts, begin) : bisect_left(firsts, end)]
    return {lexeme for _, last, found in near if last <= end for lexeme in found}


def _words_within(text: str, begin: int, end: int) -> tuple[int, int]:
    """The span without the word that begins before it, and with the whole of the word that it cuts."""
    if begin and (space := _SPACE.search(text, begin, begin + _BEFORE)):
        begin = space.end()
    if end < len(text) and (space := _SPACE.search(text, end, end + _BEFORE)):
        end = space.start()
    return begin, end


def _marked(text: str, matches: Sequence[_Match], begin: int, end: int) -> str:
    parts, at = [], begin
    for first, last, _ in matches:
        if first >= begin and last <= end:
            parts += [text[at:first], MARKS[0], text[first:last], MARKS[1]]
            at = last
    return "".join([*parts, text[at:end]]).strip()
