"""The ranking of a question: the retrievers that its mode asks, their query, and how far the result can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from vkteams_daemon.search import notes
from vkteams_daemon.search.history import archived_messages
from vkteams_daemon.search.legs import Legs
from vkteams_daemon.search.question import Question
from vkteams_daemon.search.results import Ranked
from vkteams_daemon.search.retrieval import bm25
from vkteams_daemon.search.retrieval.document_frequencies import DocumentFrequencies
from vkteams_daemon.search.retrieval.fulltext import by_time, search_text
from vkteams_daemon.search.retrieval.fusion import PER_RETRIEVER, fuse
from vkteams_daemon.search.retrieval.meaning import ByMeaning
from vkteams_daemon.search.retrieval.query import Query, read
from vkteams_daemon.search.retrieval.query_encoder import QueryEncoder
from vkteams_daemon.search.retrieval.wishes import read_wishes
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.search.spelling.correction import corrected, embedding_query
from vkteams_daemon.search.spelling.vocabulary import ReadVocabulary
from vkteams_daemon.store.connections import Connection

_ASKED_OF_MEANING = 30  # hits by words whose cosines are read, if their vectors are not among the nearest


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ranked messages, best first.

    Attributes:
        query: the query by words that found them; None if no words were looked for.
        relaxed: whether they hold only some of its words.
        note: why the ranking is weaker than it looks; None if there is no such reason.
    """

    ranked: list[Ranked]
    query: Query | None = None
    relaxed: bool = False
    note: str | None = None


def rank(
    connection: Connection,
    question: Question,
    scope: Scope,
    limit: int,
    encoders: Sequence[QueryEncoder],
    vocabulary: ReadVocabulary,
    now: datetime,
    legs: Legs,
) -> Ranking:
    """The messages that answer the question.

    Args:
        connection: any connection to the archive.
        question: its query, mode and recency are used; a blank query finds the newest messages.
        scope: where to look.
        limit: most messages.
        encoders: of the active models; none if the mode needs none.
        vocabulary: reads the archive's words; called only if a word of the query needs a correction.
        now: the moment from which recency counts (aware).
        legs: those of the question.
    """
    if not question.query.strip():
        keys = archived_messages.newest_keys(connection, scope, limit)
        return Ranking([Ranked(chat_id, msg_id, 0.0) for chat_id, msg_id in keys])
    if question.newest_first and question.mode != "text":
        ranking = rank(
            connection, replace(question, newest_first=False), scope, PER_RETRIEVER, encoders, vocabulary, now, legs
        )
        return replace(ranking, ranked=by_time(connection, ranking.ranked))
    if question.mode == "text":
        matches = search_text(connection, question.query, scope, limit, vocabulary, newest_first=question.newest_first)
        note = None if matches.query.terms else notes.NO_WORD
        if not matches.ranked and matches.query.terms:
            note = _left_out(matches.query) or note
        return Ranking(matches.ranked, matches.query, matches.relaxed, note)
    if question.mode == "semantic":
        by_meaning = ByMeaning(question.query, encoders, scope, limit, legs=legs)
        by_meaning.search(connection)
        nearest = by_meaning.nearest(connection)
        return Ranking(nearest.ranked, note=nearest.note)
    return _hybrid(connection, question, scope, limit, encoders, vocabulary, now, legs)


def _left_out(query: Query) -> str | None:
    """What the query has excluded, for an answer without a hit: a minus may have been meant as a sign."""
    excluded = [term for terms in query.alternatives for term in terms if term.excluded and term.tsquery]
    if not excluded:
        return None
    words, typed = ", ".join(f'"{term.word}"' for term in excluded), ", ".join(term.text for term in excluded)
    return notes.LEFT_OUT.format(words=words, typed=typed)


def _hybrid(
    connection: Connection,
    question: Question,
    scope: Scope,
    limit: int,
    encoders: Sequence[QueryEncoder],
    vocabulary: ReadVocabulary,
    now: datetime,
    legs: Legs,
) -> Ranking:
    typed = read(connection, question.query).without_question_words()
    query = embedded = typed
    frequencies = DocumentFrequencies(connection, scope)
    terms = bm25.weighted_terms(typed, frequencies)
    known = {term.tsquery for term in terms if term.messages}
    if any(term.tsquery not in known for term in typed.terms):
        query = corrected(connection, typed, vocabulary(), frequencies)
        embedded = embedding_query(typed, query, known)
        terms = bm25.weighted_terms(query, frequencies)
    scope = replace(scope, without=typed.without)
    count = max(PER_RETRIEVER, limit)
    wishes = read_wishes(connection, typed, scope, now)
    wished = wishes.narrowed(scope)
    text = embedded.plain_text if query.is_corrected or query.without else question.query
    by_meaning = ByMeaning(text, encoders, scope, count, legs=legs, fused=True, wished=wished)
    searched = legs.start(connection, by_meaning.search)
    by_words = bm25.any_word(connection, terms, scope, count, frequencies)
    if wished:
        by_words = _united(by_words, bm25.any_word(connection, terms, wished, count, frequencies))
    keys = [one.key for one in by_words]
    searched()
    nearest = by_meaning.nearest(connection, keys[:_ASKED_OF_MEANING])
    note = nearest.note
    if not encoders:
        note = notes.WORDS_ALONE if query.terms else notes.NO_WORD_NO_VECTOR
    elif not query.terms and not nearest.ranked:
        note = f"{notes.NO_WORD} {note or ''}".rstrip()
    elif nearest.ranked and not by_words:
        alone = notes.MEANING_ALONE if query.terms else notes.NO_WORD_MEANING_ALONE
        note = f"{alone} {note or ''}".rstrip()
    keys += [one.key for one in nearest.ranked]
    keys += wishes.newest(connection, wished) if wished else []
    granted = wishes.granted(connection, list(dict.fromkeys(keys)))
    ranked = fuse(connection, by_words, nearest, granted, scope, limit, half_life=question.recency, now=now)
    if not ranked and typed.terms:
        note = _left_out(typed) or note
    return Ranking(ranked, query, note=note)


def _united(ranking: list[Ranked], more: list[Ranked]) -> list[Ranked]:
    """One ranking of both by words, by score."""
    by_key = {one.key: one for one in (*more, *ranking)}
    ordered = sorted(by_key.values(), key=lambda one: (-one.score, one.key))
    return [
        replace(one, by_retriever=tuple(replace(score, rank=rank) for score in one.by_retriever))
        for rank, one in enumerate(ordered, 1)
    ]
