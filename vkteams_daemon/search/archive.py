"""The archive as a library: every question that vkteamsctl and agents ask goes through `Archive`.

Each answer is read in one read-only transaction, so that hits, names and coverage belong together, and is cancelled
after `[search] timeout`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from vkteams_daemon.config import Config
from vkteams_daemon.errors import NotFound, StoreError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search.history import context, conversation, directory, statistics, token_budget
from vkteams_daemon.search.history.export import Export
from vkteams_daemon.search.history.results import ChatSummary, Context, Kind, Statistics, UserSummary
from vkteams_daemon.search.messages import ArchivedMessage, MessageWithThread
from vkteams_daemon.search.names import chat_titles
from vkteams_daemon.search.question import Mode, Question, SearchResult, answer
from vkteams_daemon.search.results import Hit
from vkteams_daemon.search.retrieval.query_encoder import QueryEncoderCache
from vkteams_daemon.search.scope import Scope, existing, with_threads
from vkteams_daemon.search.spelling.vocabulary import Vocabulary
from vkteams_daemon.store.bundled.cluster import READER
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.models import active_model

_VOCABULARY_AGE = 60.0  # seconds after which the archive's words are read again


class Archive:
    """The archive behind a configuration or a DSN; opened by the first question, to be closed (a context manager).

    Safe for several threads. The model is loaded by the first semantic search, and again when the archive has
    switched to another.

    Args:
        source: a configuration (without a database URL: the bundled PostgreSQL), or a postgresql:// URL or conninfo.
    """

    def __init__(self, source: Config | str) -> None:
        self._config = source if isinstance(source, Config) else Config(database=DatabaseOptions(url=source))
        self._database = Database(self._config, application="vkteams-search")
        self._opened = False
        self._lock = threading.Lock()
        self._encoders = QueryEncoderCache(self._config)
        self._vocabulary: tuple[float, Vocabulary] | None = None

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and forget the model."""
        with self._lock:
            self._database.close()
            self._opened, self._vocabulary = False, None
        self._encoders.forget()

    def search(
        self,
        query: str,
        *,
        mode: Mode = "hybrid",
        chat_ids: Collection[str] | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        context: int = 0,
        recency: timedelta | None = None,
        cursor: str | None = None,
    ) -> SearchResult:
        """The messages that answer the query.

        Args:
            query: what is looked for; its words in web search syntax.
            mode: `text` finds every word of it, `semantic` what means the same, `hybrid` weighs both and follows
                conversations; without a model it goes by words alone and says so.
            chat_ids: only these chats; None is every chat, an empty collection none.
            user_id: only this author.
            since: from this moment on (aware).
            until: before this moment (aware).
            limit: most hits; None is `[search] limit`.
            context: so many messages before and after each hit come with it.
            recency: hybrid only: a message of this age counts half.
            cursor: of the page before, with the same question.

        Raises:
            ModelAbsent: semantic only: no model is installed, or not the one whose vectors the archive has.
            UsageError: the cursor is none, or another question's.
        """
        question = Question(
            query, mode, Scope(chat_ids, user_id, since, until),
            self._config.search.limit if limit is None else limit, context, recency, cursor,
        )  # fmt: skip
        question.page()  # refused before the model is loaded
        meaning = None
        if mode != "text":
            with self._reading() as connection:
                active = active_model(connection)
            meaning = self._encoders.of(active, required=mode == "semantic")
        with self._reading() as connection:
            return answer(connection, question, meaning, lambda: self._words(connection))

    def thread(
        self, chat_id: str, msg_id: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None
    ) -> list[ArchivedMessage]:
        """One message with what it answers, what answers it, and what its thread hangs on; oldest first.

        Args:
            chat_id: the message's chat.
            msg_id: the message's id in it.
            chat_ids: only these chats may be looked at; None is every chat.
            since: only what was sent from this moment on (aware).

        Raises:
            NotFound: the archive has no such message, or it was deleted, or it lies outside these chats and times.
        """
        with self._reading() as connection:
            found = conversation.thread(connection, chat_id, msg_id, Scope(chat_ids, since=since))
        if not found:
            raise NotFound(f"the archive has no message {msg_id} in chat {chat_id}")
        return found

    def message(
        self, chat_id: str, msg_id: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None
    ) -> MessageWithThread:
        """One message and its thread; arguments and errors are those of `thread`."""
        linked = self.thread(chat_id, msg_id, chat_ids=chat_ids, since=since)
        middle = next(said for said in linked if said.key == (chat_id, msg_id))
        with self._reading() as connection:
            title = chat_titles(connection, [chat_id]).get(chat_id)
        return MessageWithThread(middle, title, [said for said in linked if said is not middle])

    def latest(
        self,
        *,
        chat_ids: Collection[str] | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: tuple[datetime, str, str] | None = None,
        limit: int | None = None,
    ) -> list[ArchivedMessage]:
        """The newest messages, in the order they were said in.

        Args:
            chat_ids: only these chats; None is every chat, an empty collection none.
            user_id: only this author.
            since: from this moment on (aware).
            until: before this moment (aware).
            before: sent_at, chat_id and msg_id of a message that such an answer began with: those before it.
            limit: most messages; None is `[search] limit`.
        """
        most = self._config.search.limit if limit is None else limit
        with self._reading() as connection:
            return conversation.latest(connection, Scope(chat_ids, user_id, since, until), most, before)

    def chat_of(self, msg_id: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None) -> str:
        """The chat that has this message; NotFound where none of them has it, UsageError where several have."""
        with self._reading() as connection:
            return conversation.chat_of(connection, msg_id, Scope(chat_ids, since=since))

    def context(
        self,
        kind: Kind = "recent",
        *,
        chat_ids: Collection[str] | None = None,
        since: datetime | None = None,
        timeframe: timedelta | None = None,
        query: str | None = None,
        user_id: str | None = None,
        message: tuple[str, str] | None = None,
        max_tokens: int = token_budget.MOST,
        cost: Callable[[ArchivedMessage], int] = token_budget.as_read,
    ) -> Context:
        """Conversations for a reader with little room: what does not fit is left out, the newest kept.

        Args:
            kind: `recent`, what was said of late; `topic`, the conversations that `query` touches; `user-profile`,
                what `user_id` said and where; `around`, the thread and the neighbours of `message`.
            chat_ids: only these chats may be looked at; None is every chat, an empty collection none.
            since: only what was sent from this moment on may be looked at (aware).
            timeframe: how far back from now to look for it; None is two hours for `recent`, else all the way.
            query: what a topic is, as `search` takes it; with `user_id` only what this person said of it.
            user_id: whose profile it is.
            message: chat_id and msg_id.
            max_tokens: how much room there is.
            cost: how much of it a message takes; unless told, what its line of time, author and text does.

        Raises:
            UsageError: what this kind needs is missing.
            NotFound: there is no such message, or nothing of this person.
        """
        wanted = context.Wanted(kind, query, user_id, message, timeframe)
        within = wanted.within(Scope(chat_ids, since=since), datetime.now(UTC))
        found: list[Hit] = []
        note = None
        if kind == "topic":
            topic = self.search(
                query or "", chat_ids=chat_ids, user_id=user_id, since=within.since, limit=context.LOOKED_AT
            )
            found, note = topic.hits, topic.note
        with self._reading() as connection:
            room = token_budget.TokenBudget(max_tokens, cost)
            answer = context.answer(connection, wanted, Scope(chat_ids, since=since), within, found, room)
        return replace(answer, note=answer.note or note)

    def chats(
        self, *, chat_ids: Collection[str] | None = None, since: datetime | None = None, limit: int | None = None
    ) -> list[ChatSummary]:
        """The chats, the one that spoke last first; only these, and counted only what was sent from `since` on."""
        with self._reading() as connection:
            return directory.chats(connection, Scope(chat_ids, since=since), limit)

    def users(
        self, *, chat_ids: Collection[str] | None = None, since: datetime | None = None, limit: int | None = None
    ) -> list[UserSummary]:
        """Who has spoken in these chats from `since` on, the one who spoke last first."""
        with self._reading() as connection:
            return directory.users(connection, Scope(chat_ids, since=since), limit)

    @contextlib.contextmanager
    def export(
        self,
        *,
        chat_ids: Collection[str] | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        deleted: bool = False,
    ) -> Iterator[Export]:
        """Every message of these chats, this author and this time, as they stood at one moment, for a `with` block.

        Args:
            chat_ids: only these chats; None is every chat.
            user_id: only this author.
            since: from this moment on (aware).
            until: before this moment (aware).
            deleted: whether deleted messages come too.
        """
        with self._reading() as connection:
            yield Export(connection, Scope(chat_ids, user_id, since, until), deleted=deleted)

    def statistics(self, *, chat_ids: Collection[str] | None = None, since: datetime | None = None) -> Statistics:
        """The archive in numbers."""
        with self._reading() as connection:
            return statistics.statistics(connection, chat_ids=chat_ids, since=since)

    def existing(
        self, chat_ids: Collection[str] | None, *, threads: bool = False, user_id: str | None = None
    ) -> list[str] | None:
        """These chats, as somebody has named them, and with `threads` theirs; None, every chat, stays None.

        Raises:
            NotFound: the archive has no such chat, or no such person.
        """
        with self._reading() as connection:
            return existing(connection, chat_ids, threads=threads, user_id=user_id)

    def with_threads(self, chat_ids: Collection[str]) -> list[str]:
        """These chats, and the threads that hang on their messages."""
        with self._reading() as connection:
            return with_threads(connection, chat_ids)

    def _words(self, connection: psycopg.Connection[Any]) -> Vocabulary:
        """The archive's words, at most a minute old."""
        known = self._vocabulary
        if known is None or time.monotonic() - known[0] > _VOCABULARY_AGE:
            known = self._vocabulary = (time.monotonic(), Vocabulary.read(connection))
        return known[1]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[psycopg.Connection[Any]]:
        with self._lock:
            if not self._opened:
                self._database.open(migrate=False)
                self._opened = True
        timeout = self._config.search.timeout
        with self._database.connection() as connection, _plain_timeout(timeout), connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            if not self._config.database.url:
                # Its owner may do everything in the bundled server, and a question needs to read alone.
                connection.execute(f"SET LOCAL ROLE {READER}".encode())
            # Compiling a statement takes longer than any of ours runs.
            connection.execute(
                "SELECT set_config('statement_timeout', %s, true), set_config('jit', 'off', true),"
                # Counting by person is twice as quick in memory as on disk.
                " set_config('work_mem', '32MB', true)",
                (str(max(1, int(timeout * 1000))),),
            )
            yield connection


@contextlib.contextmanager
def _plain_timeout(seconds: float) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise StoreError(
            f"the search was cancelled after {seconds:g} s", hint="Narrow it, or raise search.timeout."
        ) from None
