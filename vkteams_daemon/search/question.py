"""One question and its answer: which way of searching, which page of it, and what comes with the hits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal, cast

import psycopg

from vkteams_daemon.embedding import catalogue
from vkteams_daemon.search.cursor import Cursor, fingerprint, parse
from vkteams_daemon.search.history import conversation, statistics
from vkteams_daemon.search.results import Hit, Ranked, hits
from vkteams_daemon.search.retrieval import bm25
from vkteams_daemon.search.retrieval.fulltext import search_text, shown_for, snippets
from vkteams_daemon.search.retrieval.fusion import LEG, fuse
from vkteams_daemon.search.retrieval.query import Query, read
from vkteams_daemon.search.retrieval.query_encoder import QueryEncoder
from vkteams_daemon.search.retrieval.semantic import EFFORT, ROUGH, search_semantic
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.search.spelling.correction import corrected, understood
from vkteams_daemon.search.spelling.vocabulary import Vocabulary

Mode = Literal["hybrid", "semantic", "text"]
MODES: tuple[Mode, ...] = ("hybrid", "semantic", "text")

DEEPEST = 1000
"""Hits that can be asked for altogether, further pages included."""

_NO_VECTOR = "no message has a vector of a model that is installed here"
_BY_WORDS = f"These were found by their words alone: {_NO_VECTOR}."
_WORDLESS = "This query has no word that can be looked for"
_BY_MEANING = "{}: all this comes from its meaning alone."
_FOREIGN = (
    "The model {} was made for English: what it takes for the meaning of Russian words is little more than a guess;"
    f" {catalogue.RECOMMENDED} reads both."
)
_UNKNOWN = "The model {} knows nothing of this query: no message was found by its meaning."

Words = Callable[[], Vocabulary]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one question: the hits, best first, and what the archive knows at all.

    Attributes:
        showing: the query that these are results for, where it is not the one that was asked.
        relaxed: whether no message holds all of the query's words, so that these hold some.
        note: why the answer is weaker than it looks, as a sentence or two; None where nothing is known against it.
        cursor: gives the next page; None after the last.
    """

    query: str
    mode: Mode
    hits: list[Hit]
    coverage: statistics.Coverage
    showing: str | None = None
    relaxed: bool = False
    note: str | None = None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked; see `search.archive.Archive.search` for the fields."""

    query: str
    mode: Mode
    scope: Scope
    limit: int
    context: int = 0
    recency: timedelta | None = None
    cursor: str | None = None

    @property
    def name(self) -> str:
        """The same for every page of the answer, and for no other question.

        The moments are left out: `2h` ago is another one when the next page is asked for.
        """
        scope = replace(self.scope, since=None, until=None).parameters
        return fingerprint(self.query, self.mode, sorted(scope.items()), self.recency)

    def page(self) -> Cursor | None:
        """Where the page begins that is asked for; None for the first.

        Raises:
            UsageError: the cursor is none, or another question's.
        """
        return parse(self.cursor, self.name) if self.cursor else None


@dataclass(frozen=True, slots=True)
class _Ranking:
    ranked: list[Ranked]
    query: Query | None = None
    relaxed: bool = False
    note: str | None = None


def answer(
    connection: psycopg.Connection[Any], question: Question, meaning: QueryEncoder | None, words: Words
) -> SearchResult:
    """The page of the answer that is asked for.

    Args:
        connection: a transaction that sees one state of the archive.
        question: what is asked.
        meaning: the model that the archive's vectors are of; None where there is none, or none is needed.
        words: gives the archive's words.

    Raises:
        UsageError: the question's cursor is none, or another question's.
    """
    page = question.page()
    given = page.given if page else 0
    asked = page.asked if page else _now(connection)
    scope = replace(question.scope, arrived=page.asked) if page else question.scope
    ranking = _ranking(connection, question, scope, min(DEEPEST, given + question.limit) + 1, meaning, words, asked)
    rest = page.rest(ranking.ranked) if page else ranking.ranked
    shown = rest[: question.limit]
    given += len(shown)
    more = len(rest) > question.limit and given < DEEPEST
    marked = snippets(connection, shown, ranking.query) if ranking.query else None
    showing = None
    if ranking.query and ranking.query.changed and marked:
        showing = shown_for(connection, ranking.query, shown[0], marked[0])
    chat_ids = None if scope.chat_ids is None else sorted(scope.chat_ids)
    return SearchResult(
        question.query,
        question.mode,
        _with_context(connection, hits(connection, shown, marked), scope, question.context),
        statistics.coverage(connection, chat_ids),
        showing=showing,
        relaxed=ranking.relaxed,
        note=ranking.note,
        cursor=Cursor(question.name, asked, given, shown[-1].key).text if more else None,
    )


def _ranking(
    connection: psycopg.Connection[Any],
    question: Question,
    scope: Scope,
    limit: int,
    meaning: QueryEncoder | None,
    words: Words,
    now: datetime,
) -> _Ranking:
    text = question.query
    if question.mode == "text":
        matches = search_text(connection, text, scope, limit, words)
        note = None if matches.query.terms else f"{_WORDLESS}."
        return _Ranking(matches.ranked, matches.query, matches.relaxed, note=note)
    if question.mode == "semantic":
        near, note = _by_meaning(connection, text, meaning, scope, limit)
        return _Ranking(near, note=note)
    query = said = read(connection, text)
    known = bm25.known(connection, query)
    if any(term.tsquery not in known for term in query.terms):
        query = corrected(connection, query, words())
        said = understood(said, query, known)
    scope = replace(scope, without=query.without)
    leg = max(LEG, limit)
    by_words = bm25.any_word(connection, query, scope, leg)
    wanted = said.wanted if query.changed or query.without else text
    by_meaning, note = _by_meaning(connection, wanted, meaning, scope, leg, effort=ROUGH)
    if meaning is None:
        note = _BY_WORDS if query.terms else f"{_WORDLESS}, and {_NO_VECTOR}."
    elif not query.terms and not by_meaning:
        note = f"{_WORDLESS}. {note or ''}".rstrip()
    elif by_meaning and not by_words:
        why = "No word of this query was found" if query.terms else _WORDLESS
        note = f"{_BY_MEANING.format(why)} {note or ''}".rstrip()
    ranked = fuse(connection, by_words, by_meaning, scope, limit, half_life=question.recency, now=now)
    return _Ranking(ranked, query, note=note)


def _by_meaning(
    connection: psycopg.Connection[Any],
    text: str,
    meaning: QueryEncoder | None,
    scope: Scope,
    limit: int,
    effort: int = EFFORT,
) -> tuple[list[Ranked], str | None]:
    """What is near to the text, and what there is to say of that."""
    if meaning is None or not text:
        return [], None
    vector = meaning.model.embed_texts([text], query=True)[0]
    if not vector.any():
        return [], _UNKNOWN.format(meaning.model.name)
    near = search_semantic(connection, vector, meaning.stored, scope, limit, effort=effort)
    understood = not near or catalogue.understands(meaning.model.name, text)
    return near, None if understood else _FOREIGN.format(meaning.model.name)


def _with_context(connection: psycopg.Connection[Any], found: list[Hit], scope: Scope, each_way: int) -> list[Hit]:
    """The hits with so many messages before and after each."""
    if not each_way:
        return found
    # Whoever looks for what one person said wants to read the answers, too.
    seen = replace(scope, user_id=None)
    around = {
        middle.key: conversation.neighbours(connection, middle, seen, each_way=each_way)
        for middle in conversation.read(connection, [hit.key for hit in found], seen)
    }
    return [
        replace(hit, context=tuple(sorted(around.get(hit.key, ()), key=lambda said: (said.sent_at, said.msg_id))))
        for hit in found
    ]


def _now(connection: psycopg.Connection[Any]) -> datetime:
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    return cast(datetime, row[0])
