"""The answer to a question: one page of its ranking, with snippets, surrounding messages and coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import cast

from vkteams_daemon.search.archive_coverage import coverage
from vkteams_daemon.search.cursor import Cursor
from vkteams_daemon.search.history import archived_messages, conversation
from vkteams_daemon.search.legs import Legs
from vkteams_daemon.search.messages import ArchivedMessage, MessageKey
from vkteams_daemon.search.names import chat_titles
from vkteams_daemon.search.question import MAX_HITS, Question
from vkteams_daemon.search.results import Hit, Ranked, SearchResult
from vkteams_daemon.search.retrieval.fulltext import shown_query
from vkteams_daemon.search.retrieval.query_encoder import QueryEncoder
from vkteams_daemon.search.retrieval.ranking import rank
from vkteams_daemon.search.retrieval.snippets import snippets
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.search.spelling.vocabulary import ReadVocabulary
from vkteams_daemon.store.connections import Connection

_SNIPPET_CHARS = 240


def answer(
    connection: Connection,
    question: Question,
    encoders: Sequence[QueryEncoder],
    vocabulary: ReadVocabulary,
    legs: Legs,
) -> SearchResult:
    """The page of the answer that the question asks for.

    Args:
        connection: inside a transaction that sees one state of the archive.
        question: the question.
        encoders: of the active models; none if the mode needs none.
        vocabulary: reads the archive's words.
        legs: those of the question.

    Raises:
        UsageError: the question's cursor is unreadable, or belongs to another question.
    """
    page = question.page()
    earlier = page.returned if page else 0
    asked_at = page.asked_at if page else _now(connection)
    scope = replace(question.scope, arrived=page.asked_at) if page else question.scope
    # One more than the page needs: its existence says that there is a next page.
    limit = min(MAX_HITS, earlier + question.limit) + 1
    ranking = rank(connection, question, scope, limit, encoders, vocabulary, asked_at, legs)
    rest = page.rest(ranking.ranked) if page else ranking.ranked
    ranked = rest[: question.limit]
    so_far = earlier + len(ranked)
    more = len(rest) > question.limit and so_far < MAX_HITS
    messages = {
        message.key: message for message in archived_messages.read_answered(connection, [r.key for r in ranked], scope)
    }
    ranked = [one for one in ranked if one.key in messages]
    texts = [messages[one.key].text for one in ranked]
    marked = snippets(connection, texts, ranking.query) if ranking.query else [""] * len(ranked)
    showing = None
    if ranking.query and ranking.query.is_corrected and ranked:
        showing = shown_query(connection, ranking.query, ranked[0], marked[0])
    return SearchResult(
        question.query,
        question.mode,
        _hits(connection, ranked, messages, marked, scope, question.context),
        coverage(connection, scope),
        showing=showing,
        relaxed=ranking.relaxed,
        note=ranking.note,
        cursor=Cursor(question.fingerprint, asked_at, so_far, ranked[-1].key).text if more else None,
    )


def _hits(
    connection: Connection,
    ranked: Sequence[Ranked],
    messages: Mapping[MessageKey, ArchivedMessage],
    snippets: Sequence[str],
    scope: Scope,
    each_way: int,
) -> list[Hit]:
    """The hits of these ranked messages, each with so many messages before and after it."""
    chat_ids = {one.chat_id for one in ranked}
    titles = chat_titles(connection, chat_ids, scope)
    threads = conversation.thread_beginnings(connection, chat_ids, scope)
    return [
        Hit(
            chat_id=one.chat_id,
            chat_title=titles.get(one.chat_id),
            msg_id=one.msg_id,
            user_id=message.user_id,
            author=message.author,
            sent_at=message.sent_at,
            text=message.text,
            snippet=snippet or _beginning(message.text),
            score=one.score,
            reply_to_msg_id=message.reply_to_msg_id,
            thread=threads.get(one.chat_id),
            edited=message.edited,
            quotes=message.quotes,
            own_text=message.own_text,
            files=message.files,
            parts=message.parts,
            legs=one.by_retriever,
            context=_around(connection, message, scope, each_way),
        )
        for one, snippet, message in zip(ranked, snippets, (messages[one.key] for one in ranked), strict=True)
    ]


def _around(
    connection: Connection, message: ArchivedMessage, scope: Scope, each_way: int
) -> tuple[ArchivedMessage, ...]:
    """So many messages before and after this one, oldest first."""
    if not each_way:
        return ()
    # A search for one person's messages, or for files, still shows what others said around them.
    visible = replace(scope, user_id=None, has=(), mentions=None, edited=False, deleted=False, without="")
    neighbours = conversation.neighbours(connection, message, visible, each_way=each_way)
    return tuple(sorted(neighbours, key=lambda one: (one.sent_at, one.msg_id)))


def _beginning(text: str) -> str:
    """About the first 240 characters of a text, cut between words, with an ellipsis if it goes on."""
    if len(text) <= _SNIPPET_CHARS:
        return text
    cut = text[:_SNIPPET_CHARS]
    return (cut[: cut.rfind(" ")] if " " in cut[_SNIPPET_CHARS // 2 :] else cut) + " …"


def _now(connection: Connection) -> datetime:
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    return cast(datetime, row[0])
