"""What a query may have meant whose words the archive does not know, or knows but never together.

A word is unknown when no message holds it. In its place comes what its keys give in the other keyboard layout, or its
sound in the other script, where the archive knows that; otherwise the archive's nearest words by slips of the typist.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from vkteams_daemon.search.retrieval import bm25
from vkteams_daemon.search.retrieval import query as queries
from vkteams_daemon.search.retrieval.query import Query, Term
from vkteams_daemon.search.spelling.keyboard import fold, other_layout, other_script
from vkteams_daemon.search.spelling.vocabulary import Near, Vocabulary, slips

_MOST_NEAR = 5  # nearest words that stand in for one
_SOUNDS = 4  # spellings in the other script that are looked up with slips
_SHORT = 3  # letters of a word that may be a preposition in the other layout
_PLAIN = re.compile(rf"\W*[^\W\d_]{{{_SHORT}}}[^\d_]*")  # no identifier: those are of no language
_LEXEME = re.compile(r"'((?:[^'\\]|''|\\\\)+)'")


@dataclass(frozen=True, slots=True)
class _Form:
    """A way to read a term, what finds it, and whether anything does."""

    text: str
    tsquery: str
    known: bool

    @property
    def stems(self) -> list[str]:
        """Its words as the index holds them."""
        return [match.replace("''", "'").replace("\\\\", "\\") for match in _LEXEME.findall(self.tsquery)]


def corrected(
    connection: psycopg.Connection[Any], query: Query, vocabulary: Vocabulary, *, wider: bool = False
) -> Query:
    """The query with what its unknown words may have meant.

    Args:
        connection: any connection to the archive.
        query: as it was read.
        vocabulary: the archive's words.
        wider: known words, too, may stand for their other readings and for forms of theirs that the stemmer missed.
    """
    terms = list({term.typed: term for term in query.terms if not term.phrase}.values())
    readings = [[term.typed, *_readings(term.typed)] for term in terms]
    forms = _forms(connection, [text for reading in readings for text in reading])
    changed = {}
    for term, reading in zip(terms, readings, strict=True):
        typed, others = forms[reading[0]], [forms[text] for text in reading[1:]]
        if typed.known and not wider:
            continue
        changed[term.typed] = _changed(term, typed, others, vocabulary, wider)
    # A letter is a preposition in the other layout beside words in that layout: `b tree` is no `и tree`.
    if not any(t.tsquery for typed, t in changed.items() if t.meant is not None and not forms[typed].known):
        changed = {typed: term for typed, term in changed.items() if term.tsquery}
    return query.with_terms(changed)


def understood(typed: Query, meant: Query, known: Collection[str]) -> Query:
    """The query as its meaning is to be taken: what its words stand for, but no guesses beside words that are good.

    A guess costs the words' leg one word, and the vector its language: "why did the mail стоп". What the keys give in
    the other layout is no guess. Good is a word that the archive knows or that is never looked for (the, для); it says
    what language is meant, and so speaks for words in its own script alone.

    Args:
        typed: as it was read.
        meant: as it was corrected.
        known: what finds the typed words that some message holds.
    """
    good = {
        term.typed.isascii()
        for terms in typed.alternatives
        for term in terms
        if _PLAIN.fullmatch(term.typed) and (term.tsquery in known or not term.tsquery)
    }
    guesses = {
        term.typed: replace(term, meant=None)
        for terms in meant.alternatives
        for term in terms
        if term.typed.isascii() in good and term.meant not in (None, other_layout(term.typed))
    }
    return meant.with_terms(guesses)


def _changed(term: Term, typed: _Form, others: list[_Form], vocabulary: Vocabulary, wider: bool) -> Term:
    known = [form for form in others if form.known]
    if len(term.typed) <= _SHORT and any(not form.tsquery for form in others):
        return replace(term, tsquery="", meant=next(form.text for form in others if not form.tsquery))
    if typed.known:
        near = _forms_missed(typed.stems[0], vocabulary) if len(typed.stems) == 1 else []
        if not known and not near:
            return term
        tsquery = _any([typed.tsquery, *(form.tsquery for form in known), *_quoted(near)])
        return replace(term, tsquery=tsquery, meant=known[0].text if known else near[0].word)
    if known and not wider:
        return replace(term, tsquery=_any([form.tsquery for form in known]), meant=known[0].text)
    near = _nearest([typed, *others[: 1 + _SOUNDS]], vocabulary, wider)
    if not near and not known:
        return term
    meant = known[0].text if known else near[0].word
    return replace(term, tsquery=_any([*(form.tsquery for form in known), *_quoted(near)]), meant=meant)


def _nearest(forms: Sequence[_Form], vocabulary: Vocabulary, wider: bool) -> list[Near]:
    """The archive's words nearest to any of these readings; one slip further where it is not the one typed."""
    found: dict[str, Near] = {}
    for number, form in enumerate(forms):
        stems = form.stems
        if len(stems) != 1:
            continue  # an identifier, or a word that a sign divides: what is near to its parts is not near to it
        near_forms = vocabulary.forms(fold(form.text.lower()), stems[0])
        alike = [near for near in vocabulary.near(stems[0], slips(stems[0])) if _begins_alike(stems[0], near.word)]
        for near in (*near_forms, *alike):
            near = replace(near, distance=near.distance + bool(number))
            if near.word not in found or near.distance < found[near.word].distance:
                found[near.word] = near
    ordered = sorted(found.values(), key=lambda near: (near.distance, -near.messages))
    if not wider:
        ordered = [near for near in ordered if near.distance == ordered[0].distance]
    return ordered[: _MOST_NEAR * (1 + wider)]


def _begins_alike(stem: str, word: str) -> bool:
    """Whether the first letter is the same, missing, too many or swapped; another makes another word (kettle)."""
    return stem[0] in word[:2] or word[0] in stem[:2]


def _forms_missed(stem: str, vocabulary: Vocabulary) -> list[Near]:
    """Words that may be forms of this known one which the stemmer did not bring together: ошибок, ошибк.

    Those with one letter too many or missing, at the end or before the last one. A known word is no slip for another:
    `Сергея` is no answer to `сервер`, nor `вид` to `видео`.
    """
    found = []
    for near in vocabulary.near(stem, min(1, slips(stem))):
        short, long = sorted((stem, near.word), key=len)
        if len(short) > _SHORT and len(short) < len(long) and short[:-1] == long[: len(short) - 1]:
            found.append(near)
    return found


def _readings(typed: str) -> list[str]:
    """The term in the other layout, then in the other script."""
    layout = other_layout(typed)
    return list(dict.fromkeys([*([layout] if layout else []), *other_script(typed)]))


def _forms(connection: psycopg.Connection[Any], texts: Sequence[str]) -> dict[str, _Form]:
    distinct = list(dict.fromkeys(texts))
    found = queries.tsqueries(connection, [Term(text) for text in distinct])
    messages = bm25.counted(connection, found)
    return {
        text: _Form(text, tsquery, bool(tsquery) and count > 0)
        for text, tsquery, count in zip(distinct, found, messages, strict=True)
    }


def _quoted(near: Sequence[Near]) -> list[str]:
    return ["'" + n.word.replace("\\", "\\\\").replace("'", "''") + "'" for n in near]


def _any(tsqueries: Sequence[str]) -> str:
    return " | ".join(dict.fromkeys(f"({q})" for q in tsqueries))
