"""Text search: PostgreSQL's full text with the configuration `vkteams`, in web search syntax.

AND joins the words; `"…"` is a phrase, `-word` excludes, `OR` is either. Ranking costs 15 µs and more a match. Only the
newest `CANDIDATES` matches are ranked, so that a word in every third message stays affordable. A query that finds
nothing is tried again with spelling corrections, and at last with any of its words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from rapidfuzz.distance import Prefix

from vkteams_daemon.search.results import MARKS, Ranked, RetrieverScore
from vkteams_daemon.search.retrieval import bm25
from vkteams_daemon.search.retrieval.document_frequencies import DocumentFrequencies
from vkteams_daemon.search.retrieval.newest_matches import rank_newest
from vkteams_daemon.search.retrieval.query import Query, Term, read, tsqueries
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.search.spelling import correction
from vkteams_daemon.search.spelling.vocabulary import ReadVocabulary
from vkteams_daemon.store.connections import Connection

CANDIDATES = 1000
"""How many of the newest matches are ranked."""

# A message's own words, those that it repeats, those that it forwards; so an original ranks before its copies. The
# server's order is D, C, B, A (store.words.searched_texts).
_WEIGHTS = "'{1.0, 0.5, 0.25, 1.0}'::float4[]"

_BEST_FIRST = "score DESC, sent_at DESC, chat_id, msg_id"
_NEWEST_FIRST = "sent_at DESC, chat_id DESC, msg_id DESC"

# A query with more terms is not tried with other forms of known words: it is a question, and no message repeats it.
_MAX_TERMS_IN_OTHER_FORMS = 5


@dataclass(frozen=True, slots=True)
class Matches:
    """The messages that a text search found.

    Attributes:
        ranked: best first.
        query: the query that found them: as read, or corrected.
        relaxed: whether they hold only some of its words.
    """

    ranked: list[Ranked]
    query: Query
    relaxed: bool = False


def search_text(
    connection: Connection,
    text: str,
    scope: Scope,
    limit: int,
    vocabulary: ReadVocabulary,
    *,
    newest_first: bool = False,
) -> Matches:
    """The messages that match the query, by ts_rank_cd; of equal ranks the newer message comes first.

    Args:
        connection: any connection to the archive.
        text: in web search syntax; every text can be read. A query of stop words alone finds nothing.
        scope: where to look.
        limit: most messages.
        vocabulary: reads the archive's words; called only if the query finds nothing.
        newest_first: whether the newest message comes first, and not the best.
    """
    order = _NEWEST_FIRST if newest_first else _BEST_FIRST
    query = read(connection, text)
    if not query.terms:
        return Matches([], query)
    frequencies = DocumentFrequencies(connection, scope)
    ranked = rank_newest(
        connection, scope, CANDIDATES, frequencies.of_query(query), frequencies,
        partial(_matching, connection, query, limit, order),
    )  # fmt: skip
    if ranked:
        return Matches(ranked, query)
    corrected = correction.corrected(connection, query, vocabulary(), frequencies)
    ranked, _ = _matching(connection, corrected, limit, order, scope)
    if ranked:
        return Matches(ranked, corrected)
    if len(query.terms) <= _MAX_TERMS_IN_OTHER_FORMS:
        wider = correction.corrected(connection, query, vocabulary(), frequencies, wider=True)
        ranked, _ = _matching(connection, wider, limit, order, scope)
        if ranked:
            return Matches(ranked, wider)
    scope = replace(scope, without=query.without)
    ranked = bm25.any_word(connection, bm25.weighted_terms(corrected, frequencies), scope, limit, frequencies)
    return Matches(by_time(connection, ranked) if newest_first else ranked, corrected, relaxed=bool(ranked))


def by_time(connection: Connection, ranked: list[Ranked]) -> list[Ranked]:
    """The same messages, the newest first."""
    rows = connection.execute(
        "SELECT m.chat_id, m.msg_id, m.sent_at FROM unnest(%s::text[], %s::text[]) AS k (chat_id, msg_id)"
        " JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id",
        ([one.chat_id for one in ranked], [one.msg_id for one in ranked]),
    )
    times = {(chat_id, msg_id): sent_at for chat_id, msg_id, sent_at in rows}
    known = [one for one in ranked if one.key in times]
    return sorted(known, key=lambda one: (times[one.key], one.key), reverse=True)


def _matching(connection: Connection, query: Query, limit: int, order: str, scope: Scope) -> tuple[list[Ranked], int]:
    """The newest messages that match the query as it is, ranked, and how many were ranked."""
    if not query.terms:
        return [], 0
    rows = connection.execute(
        # prepare=False: the planner must see the query to know whether its words are rare or common.
        "WITH candidates AS MATERIALIZED ("
        "  SELECT m.chat_id, m.msg_id, m.sent_at, m.search FROM messages m"
        f"  WHERE m.search @@ %(query)s::tsquery AND {scope.condition} ORDER BY m.sent_at DESC LIMIT {CANDIDATES})"
        f" SELECT chat_id, msg_id, pg_catalog.ts_rank_cd({_WEIGHTS}, search, %(query)s::tsquery) AS score,"
        " pg_catalog.count(*) OVER () FROM candidates"
        f" ORDER BY {order} LIMIT %(limit)s".encode(),
        {**scope.parameters, "query": query.tsquery, "limit": limit},
        prepare=False,
    ).fetchall()
    ranked = [
        Ranked(chat_id, msg_id, score, by_retriever=(RetrieverScore("text", rank, score),))
        for rank, (chat_id, msg_id, score, _) in enumerate(rows, 1)
    ]
    return ranked, rows[0][-1] if rows else 0


def shown_query(connection: Connection, query: Query, best: Ranked, snippet: str) -> str | None:
    """The query that an answer shows results for, in the words of its best hit.

    None if that hit holds the words as they were typed, or none of the guesses.

    Args:
        connection: any connection to the archive.
        query: the query that found the hits.
        best: the first hit.
        snippet: its snippet; the marked words replace the lexemes that found them.
    """
    words = snippet.split(MARKS[0])[1::2]
    terms = [term for term in query.terms if term.correction is not None and not term.phrase]
    replacements = {}
    for term, as_typed in zip(terms, _holds(connection, best, [term.typed for term in terms]), strict=True):
        lexeme = term.correction or ""
        if as_typed:
            replacements[term.typed] = replace(term, correction=None)
            continue
        likeliest = max(words, key=lambda word: Prefix.similarity(word.lower(), lexeme), default="")
        if Prefix.similarity(likeliest.lower(), lexeme) >= min(3, len(lexeme)):
            replacements[term.typed] = replace(term, correction=likeliest)
        elif term.guessed:  # the hit was not found by that guess
            replacements[term.typed] = replace(term, correction=None)
    query = query.with_terms(replacements)
    return query.text if query.is_corrected else None


def _holds(connection: Connection, message: Ranked, words: list[str]) -> list[bool]:
    """Whether the message holds each of these words."""
    rows = connection.execute(
        b"SELECT m.search @@ q.tsquery::tsquery FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS q"
        b" (tsquery, place)"
        b" JOIN messages m ON m.chat_id = %s AND m.msg_id = %s ORDER BY q.place",
        (tsqueries(connection, [Term(word) for word in words]), message.chat_id, message.msg_id),
    )
    return [bool(holds) for (holds,) in rows]
