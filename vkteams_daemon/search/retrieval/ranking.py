"""The ranking of a question: the retrievers that its mode asks, their query, and how far the result can be trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from vkteams_daemon.embedding import catalogue
from vkteams_daemon.search.question import Question
from vkteams_daemon.search.results import Ranked
from vkteams_daemon.search.retrieval import bm25
from vkteams_daemon.search.retrieval.fulltext import search_text
from vkteams_daemon.search.retrieval.fusion import PER_RETRIEVER, fuse
from vkteams_daemon.search.retrieval.query import Query, read
from vkteams_daemon.search.retrieval.query_encoder import QueryEncoder
from vkteams_daemon.search.retrieval.semantic import EF_SEARCH, EF_SEARCH_FUSED, search_semantic
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.search.spelling.correction import corrected, embedding_query
from vkteams_daemon.search.spelling.vocabulary import ReadVocabulary
from vkteams_daemon.store.connections import Connection

_NO_VECTOR = "no message has a vector of a model that is installed here"
_WORDS_ALONE = f"These were found by their words alone: {_NO_VECTOR}."
_NO_WORD = "This query has no word that can be looked for"
_MEANING_ALONE = "{}: all this comes from its meaning alone."
_ENGLISH_MODEL = (
    "The model {} was made for English: what it takes for the meaning of Russian words is little more than a guess;"
    f" {catalogue.RECOMMENDED} reads both."
)
_UNREADABLE = "The model {} knows nothing of this query: no message was found by its meaning."


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
    encoder: QueryEncoder | None,
    vocabulary: ReadVocabulary,
    now: datetime,
) -> Ranking:
    """The messages that answer the question.

    Args:
        connection: any connection to the archive.
        question: its query, mode and recency are used.
        scope: where to look.
        limit: most messages.
        encoder: the active model; None if there is none, or if the mode needs none.
        vocabulary: reads the archive's words; called only if a word of the query needs a correction.
        now: the moment from which recency counts (aware).
    """
    if question.mode == "text":
        matches = search_text(connection, question.query, scope, limit, vocabulary)
        note = None if matches.query.terms else f"{_NO_WORD}."
        return Ranking(matches.ranked, matches.query, matches.relaxed, note)
    if question.mode == "semantic":
        nearest, note = _by_meaning(connection, question.query, encoder, scope, limit, EF_SEARCH)
        return Ranking(nearest, note=note)
    return _hybrid(connection, question, scope, limit, encoder, vocabulary, now)


def _hybrid(
    connection: Connection,
    question: Question,
    scope: Scope,
    limit: int,
    encoder: QueryEncoder | None,
    vocabulary: ReadVocabulary,
    now: datetime,
) -> Ranking:
    typed = read(connection, question.query)
    query = embedded = typed
    known = bm25.known_tsqueries(connection, typed, scope)
    if any(term.tsquery not in known for term in typed.terms):
        query = corrected(connection, typed, vocabulary(), scope)
        embedded = embedding_query(typed, query, known)
    scope = replace(scope, without=typed.without)
    count = max(PER_RETRIEVER, limit)
    by_words = bm25.any_word(connection, query, scope, count)
    text = embedded.plain_text if query.is_corrected or query.without else question.query
    by_meaning, note = _by_meaning(connection, text, encoder, scope, count, EF_SEARCH_FUSED)
    if encoder is None:
        note = _WORDS_ALONE if query.terms else f"{_NO_WORD}, and {_NO_VECTOR}."
    elif not query.terms and not by_meaning:
        note = f"{_NO_WORD}. {note or ''}".rstrip()
    elif by_meaning and not by_words:
        reason = "No word of this query was found" if query.terms else _NO_WORD
        note = f"{_MEANING_ALONE.format(reason)} {note or ''}".rstrip()
    ranked = fuse(connection, by_words, by_meaning, scope, limit, half_life=question.recency, now=now)
    return Ranking(ranked, query, note=note)


def _by_meaning(
    connection: Connection, text: str, encoder: QueryEncoder | None, scope: Scope, limit: int, ef_search: int
) -> tuple[list[Ranked], str | None]:
    """The messages nearest to the text, and a note if the model does not understand it."""
    if encoder is None or not text:
        return [], None
    vector = encoder.model.embed_texts([text], query=True)[0]
    if not vector.any():
        return [], _UNREADABLE.format(encoder.model.name)
    nearest = search_semantic(connection, vector, encoder.stored, scope, limit, ef_search=ef_search)
    if not nearest or catalogue.understands(encoder.model.name, text):
        return nearest, None
    return nearest, _ENGLISH_MODEL.format(encoder.model.name)
