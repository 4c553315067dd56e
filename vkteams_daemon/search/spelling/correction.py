"""Spelling correction: other readings of words that the archive does not hold, or never holds together.

A word is unknown if no message holds it. Its reading in the other keyboard layout or in the other script takes its
place if the archive knows that reading. Otherwise other forms of it do, which are no correction, and if the archive has
none, its words within a few typos, and words of the other script that sound alike: these are guesses, and count less
than what was typed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from vkteams_daemon.search.retrieval import query as queries
from vkteams_daemon.search.retrieval.document_frequencies import DocumentFrequencies
from vkteams_daemon.search.retrieval.query import Query, Term
from vkteams_daemon.search.spelling.keyboard import other_layout, other_script
from vkteams_daemon.search.spelling.vocabulary import NearWord, Vocabulary, max_typos
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.words.letters import fold

_MAX_NEAR = 5  # nearest words that take the place of one
_SPELLINGS_WITH_TYPOS = 4  # spellings in the other script for which near words are looked up
_SHORT = 3  # letters of a word that may be a preposition in the other layout
_LONG = 5  # letters of a reading in which a typo is looked for
_PLAIN_WORD = re.compile(rf"\W*[^\W\d_]{{{_SHORT}}}[^\d_]*")  # not an identifier: identifiers belong to no language


@dataclass(frozen=True, slots=True)
class _Reading:
    """One reading of a term, its tsquery, and whether some message holds it."""

    text: str
    tsquery: str
    known: bool

    @property
    def stems(self) -> list[str]:
        """Its words as the index holds them; of a word that is written together only the whole."""
        return queries.lexemes_in(self.tsquery.partition(" | (")[0])


def corrected(
    connection: Connection,
    query: Query,
    vocabulary: Vocabulary,
    frequencies: DocumentFrequencies,
    *,
    wider: bool = False,
) -> Query:
    """The query with corrections of its unknown words.

    Args:
        connection: any connection to the archive.
        query: as it was read.
        vocabulary: the archive's words.
        frequencies: of the question; a word that no message holds is unknown.
        wider: known words get corrections too: their other readings, and forms that the stemmer missed.
    """
    terms = list({term.typed: term for term in query.terms if not term.phrase}.values())
    texts = [[term.typed, *_other_readings(term.typed)] for term in terms]
    readings = _look_up(connection, [text for group in texts for text in group], frequencies)
    corrections = {}
    for term, group in zip(terms, texts, strict=True):
        typed, others = readings[group[0]], [readings[text] for text in group[1:]]
        if typed.known and not wider:
            continue
        corrections[term.typed] = _correct(term, typed, others, vocabulary, wider)
    # A single letter is a preposition in the other layout only beside words in that layout: `b tree` is not `и tree`.
    if not any(t.tsquery for typed, t in corrections.items() if t.correction is not None and not readings[typed].known):
        corrections = {typed: term for typed, term in corrections.items() if term.tsquery}
    return query.with_terms(corrections)


def embedding_query(typed: Query, corrected: Query, known: Collection[str]) -> Query:
    """The query as the model reads it: corrected, but without guesses beside good words.

    A wrong guess costs BM25 one term, but can change the language of the embedding: "why did the mail стоп". A word in
    the other keyboard layout is no guess. A word is good if the archive knows it or if it is a stop word (the, для). A
    good word says which language is meant, so it speaks only for the words in its own script.

    Args:
        typed: as it was read.
        corrected: the same query with corrections.
        known: tsqueries of the typed terms that some message holds.
    """
    # The scripts of the good words: True for ASCII.
    good = {
        term.typed.isascii()
        for terms in typed.alternatives
        for term in terms
        if _PLAIN_WORD.fullmatch(term.typed) and (term.tsquery in known or not term.tsquery)
    }
    guesses = {
        term.typed: replace(term, correction=None)
        for terms in corrected.alternatives
        for term in terms
        if term.typed.isascii() in good and term.correction not in (None, other_layout(term.typed))
    }
    return corrected.with_terms(guesses)


def _correct(term: Term, typed: _Reading, others: list[_Reading], vocabulary: Vocabulary, wider: bool) -> Term:
    known_others = [reading for reading in others if reading.known]
    if len(term.typed) <= _SHORT and any(not reading.tsquery for reading in others):
        stop_word = next(reading.text for reading in others if not reading.tsquery)
        return replace(term, tsquery="", correction=stop_word)
    if typed.known:
        near = _missed_forms(typed.stems[0], vocabulary) if len(typed.stems) == 1 else []
        if wider and not known_others and len(typed.stems) == 1:
            loans = vocabulary.loans(fold(typed.text).lower(), typed.stems[0])
            near += sorted((loan for loan in loans if loan.distance == 1), key=lambda loan: -loan.messages)[:_MAX_NEAR]
        if not known_others and not near:
            return term
        tsquery = _any([typed.tsquery, *(reading.tsquery for reading in known_others), *_quoted(near)])
        return replace(term, tsquery=tsquery, correction=known_others[0].text if known_others else near[0].word)
    if known_others and not wider:
        return replace(
            term, tsquery=_any([reading.tsquery for reading in known_others]), correction=known_others[0].text
        )
    near = _nearest([typed, *others[: 1 + _SPELLINGS_WITH_TYPOS]], vocabulary, wider)
    if not near and not known_others:
        return term
    tsquery = _any([*(reading.tsquery for reading in known_others), *_quoted(near)])
    if known_others:
        return replace(term, tsquery=tsquery, correction=known_others[0].text)
    if not near[0].distance:
        return replace(term, tsquery=tsquery)
    return replace(term, tsquery=tsquery, correction=near[0].word, guessed=True)


def _nearest(readings: Sequence[_Reading], vocabulary: Vocabulary, wider: bool) -> list[NearWord]:
    """The archive's words nearest to any of these readings; a reading other than the first counts as one typo more."""
    by_word: dict[str, NearWord] = {}
    for number, reading in enumerate(readings):
        stems = reading.stems
        if len(stems) != 1:
            continue  # an identifier, or a word that a sign divides: a word near to its parts is not near to it
        forms = vocabulary.forms(fold(reading.text).lower(), stems[0])
        # Another reading is a guess already: a short one with a typo is any word. шёл (shel) is not shed.
        allowed = 0 if number and len(stems[0]) < _LONG else max_typos(stems[0])
        typos = [near for near in vocabulary.near(stems[0], allowed) if _begins_alike(stems[0], near.word)]
        loans = vocabulary.loans(fold(reading.text).lower(), stems[0]) if not number else []
        for near in (*forms, *typos, *loans):
            near = replace(near, distance=near.distance + bool(number))
            if near.word not in by_word or near.distance < by_word[near.word].distance:
                by_word[near.word] = near
    ordered = sorted(by_word.values(), key=lambda near: (near.distance, -near.messages))
    if not wider:
        ordered = [near for near in ordered if near.distance == ordered[0].distance]
    return ordered[: _MAX_NEAR * (1 + wider)]


def _begins_alike(stem: str, word: str) -> bool:
    """Whether the first letter is the same, missing, added or swapped: a replaced one makes another word (kettle)."""
    return stem[0] in word[:2] or word[0] in stem[:2]


def _missed_forms(stem: str, vocabulary: Vocabulary) -> list[NearWord]:
    """Words that may be forms of this known word, although the stemmer kept them apart: ошибок, ошибк.

    They have one letter more or less, at the end or before the last letter. A known word is no typo of another one:
    `Сергея` is no answer to `сервер`, nor `вид` to `видео`.
    """
    forms = []
    for near in vocabulary.near(stem, min(1, max_typos(stem))):
        short, long = sorted((stem, near.word), key=len)
        if len(short) > _SHORT and len(short) < len(long) and short[:-1] == long[: len(short) - 1]:
            forms.append(near)
    return forms


def _other_readings(typed: str) -> list[str]:
    """The term in the other layout, then in the other script."""
    layout = other_layout(typed)
    return list(dict.fromkeys([*([layout] if layout else []), *other_script(typed)]))


def _look_up(connection: Connection, texts: Sequence[str], frequencies: DocumentFrequencies) -> dict[str, _Reading]:
    distinct = list(dict.fromkeys(texts))
    tsqueries = queries.tsqueries(connection, [Term(text) for text in distinct])
    counts = frequencies.of(tsqueries)
    return {
        text: _Reading(text, tsquery, bool(tsquery) and counts[tsquery] > 0)
        for text, tsquery in zip(distinct, tsqueries, strict=True)
    }


def _quoted(near: Sequence[NearWord]) -> list[str]:
    return [queries.quoted(n.word) for n in near]


def _any(tsqueries: Sequence[str]) -> str:
    return " | ".join(dict.fromkeys(f"({q})" for q in tsqueries))
