"""The archive as a library: every question that vkteamsctl and agents ask goes through `Archive`.

One read-only transaction reads each answer, so that hits, names and coverage belong together. PostgreSQL cancels a
statement after `[search] timeout`. A search alone is all that most commands need: what answers other questions is
imported when they are asked.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import psycopg

from vkteams_daemon.access import Access
from vkteams_daemon.config import Config, parse_duration
from vkteams_daemon.errors import StoreError, UsageError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search.history import archived_messages, conversation, token_budget
from vkteams_daemon.search.legs import Legs, waited_for
from vkteams_daemon.search.links import message_url
from vkteams_daemon.search.messages import ArchivedMessage, MessageHistory, MessageKey, MessageWithThread, titled
from vkteams_daemon.search.names import chat_titles
from vkteams_daemon.search.question import Question
from vkteams_daemon.search.results import Hit, Mode, SearchResult
from vkteams_daemon.search.retrieval.query_encoder import QueryEncoder, QueryEncoderCache
from vkteams_daemon.search.scope import Kind as HasKind
from vkteams_daemon.search.scope import Period, Scope, existing, spelled_chats, with_threads
from vkteams_daemon.search.spelling.vocabulary import Vocabulary
from vkteams_daemon.store import connection_profiles, database_url
from vkteams_daemon.store.bundled.cluster import READER
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.distribution import is_distributed
from vkteams_daemon.store.embedding_models import active_models

if TYPE_CHECKING:
    from vkteams_daemon.search.history.activity import Activity
    from vkteams_daemon.search.history.chat_view import ChatView, Direction
    from vkteams_daemon.search.history.export import Export
    from vkteams_daemon.search.history.message_counts import DayLag
    from vkteams_daemon.search.history.person_records import PersonRecords
    from vkteams_daemon.search.history.results import (
        By,
        ChatSummary,
        Context,
        Count,
        Kind,
        Lag,
        Statistics,
        UserSummary,
    )
    from vkteams_daemon.search.name_lookup import NameMatch
    from vkteams_daemon.search.visibility import NobodysChat, Visible
    from vkteams_daemon.store.gaps import Gap
    from vkteams_daemon.store.rosters import Roster

_MAX_VOCABULARY_AGE = 60.0  # seconds after which the archive's words are read again
_MAX_VOCABULARIES = 8  # of readers who see different messages; one takes some megabytes


class Archive:
    """The archive of a configuration or a database URL.

    The first question opens it; `close`, or a `with` block, closes it. It is safe for several threads. The first
    semantic or hybrid search loads the models, and a later one loads others after the archive has switched.

    Args:
        source: a configuration, or a postgresql:// URL or conninfo string. A configuration without a database URL means
            the bundled PostgreSQL.
    """

    def __init__(self, source: Config | str) -> None:
        config = source if isinstance(source, Config) else Config(database=DatabaseOptions(url=source))
        if config.database.read_url:
            database_url.check(config.database.read_url, "database.read_url")
            reading = msgspec.structs.replace(config.database, url=config.database.read_url)
            config = msgspec.structs.replace(config, database=reading)
        self._config = config
        self._database = Database(
            self._config, application="vkteams-search", profile=connection_profiles.READER,
            any_layout=not isinstance(source, Config),
        )  # fmt: skip
        self._opened = False
        self._searched = threading.Event()  # since it was opened; of all readers
        self._threads = ThreadPoolExecutor(config.database.pool_size, "search")  # of legs
        self._visible: Visible | None = None
        self._lock = threading.Lock()
        self._encoders = QueryEncoderCache(self._config)
        # By the population of the readers, the oldest first: when it was read (monotonic), and the words.
        self._vocabularies: dict[Scope, tuple[float, Vocabulary]] = {}

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and release the models."""
        with self._lock:
            self._database.close()
            self._opened = False
            self._vocabularies.clear()
            self._searched.clear()
        self._encoders.forget()

    def seen_by(self, access: Access) -> Archive:
        """The same archive for a reader with this access, as it stands now.

        Every question of it is narrowed to what the reader may see. No number and no word of its answers depends on
        anything else: the weights and corrections of words, the names, the counts and the coverage come from what the
        reader may see.
        """
        from vkteams_daemon.search.visibility import visible

        if not access.restricted:
            return self
        options = self._config.access
        with self._transaction() as connection:
            seen = visible(
                connection, access, history=options.history,
                roster_max_age=timedelta(seconds=parse_duration(options.roster_max_age)),
            )  # fmt: skip
        view = copy.copy(self)
        view._visible = seen
        return view

    @property
    def visible_chats(self) -> frozenset[str] | None:
        """The chats that the reader may see, threads included; None is every chat."""
        return self._visible.chat_ids if self._visible else None

    def periods_of(self, chat_id: str) -> list[Period]:
        """The periods of a chat that the reader may see; none if the reader may see all of it."""
        return [period for period in (self._visible.periods if self._visible else ()) if period.chat_id == chat_id]

    @property
    def seen(self) -> Visible | None:
        """What the reader may see, to compare; None is everything."""
        return self._visible

    def nobodys_chats(self) -> list[NobodysChat]:
        """The chats that no person sees through a roster, and why; for administrators."""
        from vkteams_daemon.search.visibility import nobodys_chats

        age = timedelta(seconds=parse_duration(self._config.access.roster_max_age))
        with self._transaction() as connection:
            return nobodys_chats(connection, age)

    def gaps(self) -> list[Gap]:
        """The gaps that nobody has dismissed, the newest first; for administrators."""
        from vkteams_daemon.store.gaps import list_gaps

        with self._transaction() as connection:
            return list_gaps(connection)

    def lag(self, days: int) -> tuple[Lag, list[DayLag]]:
        """How far the archive lagged behind with the newest messages, and on each of these days; for administrators."""
        from vkteams_daemon.search.history import activity, message_counts

        span, _ = activity.last_days(days, datetime.now(UTC))
        with self._transaction() as connection:
            return message_counts.lag(connection, message_counts.CountedPart(Scope())), message_counts.lag_by_day(
                connection, span
            )

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
        newest_first: bool = False,
        has: Collection[HasKind] = (),
        mentions: str | None = None,
        reply_to_user: str | None = None,
        edited: bool = False,
        deleted: bool = False,
    ) -> SearchResult:
        """The messages that answer the query.

        Args:
            query: the text to look for; its words in web search syntax. A blank one finds the newest messages that
                pass the filters, in the mode `text`.
            mode: `text` finds messages with every word, `semantic` finds messages of the same meaning, `hybrid` weighs
                both and follows conversations. Without a model, `hybrid` uses words alone and says so.
            chat_ids: only these chats; None means every chat, an empty collection means none.
            user_id: only this author.
            since: only messages sent at this moment or later (aware).
            until: only messages sent before this moment (aware).
            limit: most hits; None means `[search] limit`.
            context: how many messages before and after each hit come with it.
            recency: for `hybrid`: a message of this age counts half.
            cursor: the cursor of the previous page of the same question.
            newest_first: whether the hits are in the order of time; of `hybrid` and `semantic` the best hundred.
            has: only messages with all of these.
            mentions: only messages that mention this person, by user id.
            reply_to_user: only messages that answer this person, by user id.
            edited: only messages that were edited.
            deleted: only deleted messages, in the place of the others; they are found by `text` alone.

        Raises:
            ModelAbsent: `semantic` only: no model is installed, or none of those whose vectors the archive has.
            UsageError: the cursor is unreadable, or belongs to another question.
        """
        mode = mode if query.strip() else "text"
        scope = replace(
            self._scope(chat_ids, user_id, since, until),
            has=tuple(sorted(set(has))), mentions=mentions, reply_to_user=reply_to_user, edited=edited, deleted=deleted,
        )  # fmt: skip
        if deleted and mode != "text":
            raise UsageError("deleted messages have no vectors", hint="They are found by words: use the mode text.")
        question = Question(
            query, mode, scope, self._config.search.limit if limit is None else limit, context, recency, cursor,
            newest_first, self._named(chat_ids),
        )  # fmt: skip
        question.page()  # refuses a wrong cursor before the model is loaded
        # Only here: the other questions need neither numpy nor what ranks messages.
        from vkteams_daemon.search.retrieval.answer import answer

        encoders: list[QueryEncoder] = []
        if mode != "text":
            with self._transaction() as connection:
                active = active_models(connection)
            encoders = self._encoders.of(active, required=mode == "semantic")
        with self._transaction() as connection, waited_for(self._legs(connection, mode)) as legs:
            result = answer(
                connection, question, encoders, lambda: self._read_vocabulary(connection, question.scope), legs
            )
        self._searched.set()
        options = self._config.web
        return replace(result, hits=[replace(hit, url=message_url(options, hit.key)) for hit in result.hits])

    def thread(
        self, chat_id: str, msg_id: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None
    ) -> list[ArchivedMessage]:
        """One message with its replies in both directions and the message that its thread hangs on; oldest first.

        Args:
            chat_id: the message's chat.
            msg_id: the message's id in it.
            chat_ids: only these chats may be read; None means every chat.
            since: only messages sent at this moment or later may be read (aware).

        Raises:
            NotFound: the archive has no such message, or it was deleted, or it lies outside these chats and times.
        """
        scope = self._scope(chat_ids, since=since)
        with self._transaction() as connection:
            return conversation.thread(connection, chat_id, msg_id, scope)

    def message(
        self, chat_id: str, msg_id: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None
    ) -> MessageWithThread:
        """One message and its thread; arguments and errors are those of `thread`."""
        scope = self._scope(chat_ids, since=since)
        with self._transaction() as connection:
            linked = conversation.thread(connection, chat_id, msg_id, scope)
            title = chat_titles(connection, [chat_id], scope).get(chat_id)
            thread_of = conversation.thread_beginnings(connection, [chat_id], scope).get(chat_id)
        message = next(one for one in linked if one.key == (chat_id, msg_id))
        url = message_url(self._config.web, message.key)
        thread = [one for one in linked if one is not message]
        return MessageWithThread(message, title, thread, url, thread_of)

    def versions(self, chat_id: str, msg_id: str) -> MessageHistory:
        """Every text of a message, also of a deleted one.

        Raises:
            NotFound: the archive has no such message.
        """
        with self._transaction() as connection:
            return archived_messages.versions(connection, chat_id, msg_id, self._scope(None))

    def chat_view(
        self,
        chat_id: str,
        *,
        direction: Direction = "around",
        message: str | None = None,
        moment: datetime | None = None,
        limit: int = 50,
    ) -> ChatView:
        """A part of a chat as people read it; `search.history.chat_view` describes the arguments.

        Raises:
            NotFound: the reader sees no such chat or message.
        """
        from vkteams_daemon.search.history.chat_view import chat_view

        with self._transaction() as connection:
            return chat_view(
                connection, chat_id, self._scope(None), direction=direction, message=message, moment=moment, limit=limit
            )

    def latest(
        self,
        *,
        chat_ids: Collection[str] | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: tuple[datetime, str, str] | None = None,
        limit: int | None = None,
        has: Collection[HasKind] = (),
        mentions: str | None = None,
        reply_to_user: str | None = None,
    ) -> list[ArchivedMessage]:
        """The newest messages, oldest first.

        Args:
            chat_ids: only these chats; None means every chat, an empty collection means none.
            user_id: only this author.
            since: only messages sent at this moment or later (aware).
            until: only messages sent before this moment (aware).
            before: sent_at, chat_id and msg_id of the first message of such an answer; only messages before it.
            limit: most messages; None means `[search] limit`.
            has: as of `search`.
            mentions: as of `search`.
            reply_to_user: as of `search`.
        """
        limit = self._config.search.limit if limit is None else limit
        scope = replace(
            self._scope(chat_ids, user_id, since, until),
            has=tuple(sorted(set(has))), mentions=mentions, reply_to_user=reply_to_user,
        )  # fmt: skip
        with self._transaction() as connection:
            return archived_messages.latest(connection, scope, limit, before)

    def count(
        self,
        query: str | None = None,
        *,
        by: By | None = None,
        chat_ids: Collection[str] | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        has: Collection[HasKind] = (),
        mentions: str | None = None,
        reply_to_user: str | None = None,
        limit: int = 100,
    ) -> Count:
        """How many messages there are, and how many of each person, chat or day of the reader's zone.

        Args:
            query: only messages with these words, as the mode `text` of `search` takes them, and without corrections.
            by: what is counted apart; None counts everything together.
            chat_ids: as of `search`, and so are the other filters.
            user_id: as of `search`.
            since: as of `search`.
            until: as of `search`.
            has: as of `search`.
            mentions: as of `search`.
            reply_to_user: as of `search`.
            limit: most groups; the largest, and of days the newest.
        """
        from vkteams_daemon.search.history import counting

        scope = replace(
            self._scope(chat_ids, user_id, since, until),
            has=tuple(sorted(set(has))), mentions=mentions, reply_to_user=reply_to_user,
        )  # fmt: skip
        with self._transaction() as connection:
            return counting.count(connection, scope, query, by, limit)

    def edits_by_chat(self, chat_ids: Collection[str], since: datetime) -> dict[str, int]:
        """Of each of these chats with edited messages since a moment (aware): a number that grows with each edit."""
        from vkteams_daemon.search.history import message_counts

        with self._transaction() as connection:
            return message_counts.edits_by_chat(connection, self._scope(chat_ids, since=since))

    def counts_by_chat(self, since: datetime) -> dict[str, tuple[int, int, int]]:
        """Of each chat the messages of the hours that begin after a moment (aware), the deleted, and earlier versions.

        These are kept counts: they say quickly whether something has changed.
        """
        from vkteams_daemon.search.history import message_counts

        with self._transaction() as connection:
            return message_counts.counts_by_chat(connection, self._scope(None, since=since))

    def activity(self, *, days: int, chat_ids: Collection[str] | None = None) -> Activity:
        """How much was said, when, where and by whom, and how soon it was answered.

        Args:
            days: how many days of the reader's zone, today the last, at most `activity.MAX_DAYS`.
            chat_ids: only these chats; None means every chat.
        """
        from vkteams_daemon.search.history import activity

        span, end = activity.last_days(min(days, activity.MAX_DAYS), datetime.now(UTC))
        with self._transaction() as connection:
            return activity.activity(connection, self._scope(chat_ids, since=span.starts[0], until=end), span)

    def chat_of(
        self,
        msg_id: str,
        *,
        chat_ids: Collection[str] | None = None,
        since: datetime | None = None,
        deleted: bool = False,
    ) -> str:
        """The chat that has this message; with `deleted` also if the message was deleted.

        Raises:
            NotFound: none of these chats has it.
            UsageError: several of them have it.
        """
        with self._transaction() as connection:
            return archived_messages.chat_of(connection, msg_id, self._scope(chat_ids, since=since), deleted=deleted)

    def find_message(
        self, text: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None
    ) -> MessageKey:
        """The chat_id and msg_id of the message that a msg_id or a transcript's reference means.

        Raises:
            NotFound: none of these chats has it.
            UsageError: several of them have it.
        """
        with self._transaction() as connection:
            return archived_messages.find_message(connection, text, self._scope(chat_ids, since=since))

    def titles(self, chat_ids: Collection[str]) -> dict[str, str]:
        """The titles of these chats, a thread's with the message that it hangs on; chats without one are left out."""
        with self._transaction() as connection:
            titles = chat_titles(connection, chat_ids, self._scope(None))
            threads = conversation.thread_beginnings(connection, chat_ids, self._scope(None))
        return {chat_id: titled(title, threads.get(chat_id)) for chat_id, title in titles.items()}

    def context(
        self,
        kind: Kind = "recent",
        *,
        chat_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        timeframe: timedelta | None = None,
        query: str | None = None,
        user_id: str | None = None,
        message: tuple[str, str] | None = None,
        max_tokens: int = token_budget.DEFAULT_TOKENS,
        cost: Callable[[ArchivedMessage], int] = token_budget.line_cost,
    ) -> Context:
        """Conversations for a reader with a token budget; if not all fits, the newest is kept.

        Args:
            kind: `recent`, the latest messages; `topic`, the conversations that `query` touches; `user-profile`, the
                messages of `user_id` and where they stand; `around`, the thread and the neighbours of `message`.
            chat_ids: only these chats may be read; None means every chat, an empty collection means none.
            since: only messages sent at this moment or later may be read (aware).
            until: only messages sent before this moment may be read (aware).
            timeframe: how far back from now; None means two hours for `recent`, and no limit for the other kinds.
            query: the topic, as `search` takes a query; with `user_id` only this person's messages about it.
            user_id: the person whose profile it is.
            message: chat_id and msg_id.
            max_tokens: the token budget.
            cost: how many tokens a message takes; by default those of a line of time, author and text.

        Raises:
            UsageError: something that this kind needs is missing.
            NotFound: there is no such message, or no message of this person.
        """
        from vkteams_daemon.search.history import context

        request = context.ContextRequest(kind, query, user_id, message, timeframe)
        scope = self._scope(chat_ids, since=since, until=until)
        within = request.within(scope, datetime.now(UTC))
        hits: list[Hit] = []
        note = None
        if kind == "topic":
            topic = self.search(
                query or "",
                chat_ids=chat_ids,
                user_id=user_id,
                since=within.since,
                until=until,
                limit=context.TOPIC_HITS,
            )
            hits, note = topic.hits, topic.note
        with self._transaction() as connection:
            budget = token_budget.TokenBudget(max_tokens, cost)
            answer = context.answer(connection, request, scope, within, hits, budget)
        return replace(answer, note=answer.note or note)

    def chats(
        self,
        *,
        chat_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
    ) -> list[ChatSummary]:
        """The chats, latest message first; with `chat_ids` only these. Only messages of this time are counted."""
        from vkteams_daemon.search.history import directory

        with self._transaction() as connection:
            return directory.chats(connection, self._scope(chat_ids, since=since, until=until), limit)

    def users(
        self,
        *,
        chat_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int | None = None,
        silent: bool = False,
    ) -> list[UserSummary]:
        """The people who have spoken in these chats in this time, latest message first; members too if `silent`."""
        from vkteams_daemon.search.history import directory

        with self._transaction() as connection:
            return directory.users(connection, self._scope(chat_ids, since=since, until=until), limit, silent=silent)

    def rosters(self, chat_ids: Sequence[str] | None = None) -> list[Roster]:
        """What is known of the rosters of these chats; None means every chat that has one."""
        from vkteams_daemon.store.rosters import list_rosters

        with self._transaction() as connection:
            return list_rosters(connection, None if chat_ids is None else list(chat_ids))

    def export(
        self,
        *,
        chat_ids: Collection[str] | None = None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        deleted: bool = False,
    ) -> Export:
        """Every message of these chats, this author and this time, page by page.

        Args:
            chat_ids: only these chats; None means every chat.
            user_id: only this author.
            since: only messages sent at this moment or later (aware).
            until: only messages sent before this moment (aware).
            deleted: whether deleted messages are included.
        """
        from vkteams_daemon.search.history.export import Export

        return Export(self._transaction, self._scope(chat_ids, user_id, since, until), deleted=deleted)

    def person_records(
        self,
        user_id: str,
        *,
        chat_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> PersonRecords:
        """Everything about a person but their messages: earlier texts, names, memberships, mentions; for an export.

        Args:
            user_id: the person.
            chat_ids: only these chats; None means every chat.
            since: only of messages sent at this moment or later (aware).
            until: only of messages sent before this moment (aware).
        """
        from vkteams_daemon.search.history.person_records import PersonRecords

        return PersonRecords(self._transaction, user_id, self._scope(chat_ids, user_id, since, until))

    def statistics(
        self,
        *,
        chat_ids: Collection[str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Statistics:
        """The numbers of the archive, or of these chats, or of this time."""
        from vkteams_daemon.search.history import statistics

        with self._transaction() as connection:
            return statistics.statistics(connection, self._scope(chat_ids, since=since, until=until))

    def existing(
        self,
        chat_ids: Collection[str] | None,
        *,
        threads: bool = False,
        since: datetime | None = None,
    ) -> list[str] | None:
        """These chats as a user has named them, with `threads` also their threads; None, every chat, stays None.

        With `since` a chat exists if it has a message sent at this moment or later (aware).

        Raises:
            NotFound: the archive has no such chat.
        """
        with self._transaction() as connection:
            return existing(connection, chat_ids, threads=threads, since=since)

    def known_user_id(
        self, user_id: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None
    ) -> str:
        """A user id as the archive spells it; one that is an e-mail address is the same in any case.

        For a reader who may not see everything, an id that is unknown in what they see comes back unchanged.

        Raises:
            NotFound: the archive has no such person.
            UsageError: several ids differ in nothing but case.
        """
        from vkteams_daemon.search import name_lookup

        with self._transaction() as connection:
            return name_lookup.known_user_id(connection, user_id, self._scope(chat_ids, since=since))

    def find_user(
        self, name: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None
    ) -> NameMatch:
        """The person whom a name, a part of it, an e-mail or an id means; `search.name_lookup` says how.

        Raises:
            UsageError: several people have this name.
            NotFound: nobody has it.
        """
        from vkteams_daemon.search import name_lookup

        with self._transaction() as connection:
            return name_lookup.find_user(connection, name, self._scope(chat_ids, since=since))

    def find_chat(
        self, name: str, *, chat_ids: Collection[str] | None = None, since: datetime | None = None
    ) -> NameMatch:
        """The chat that a title, a part of it or an id means; errors are those of `find_user`."""
        from vkteams_daemon.search import name_lookup

        with self._transaction() as connection:
            return name_lookup.find_chat(connection, name, self._scope(chat_ids, since=since))

    def named_chat(self, chat_id: str, *, threads: bool, since: datetime | None = None) -> list[str]:
        """A chat that the administrator has named, as the archive spells it; the archive need not know it.

        With `threads` also the threads that hang on its messages, with `since` those that said something since.
        """
        with self._transaction() as connection:
            spelled = spelled_chats(connection, [chat_id])
            return with_threads(connection, spelled, since) if threads else spelled

    def _scope(
        self,
        chat_ids: Collection[str] | None,
        user_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Scope:
        scope = Scope(chat_ids, user_id, since, until)
        return self._visible.narrow(scope) if self._visible else scope

    def _named(self, chat_ids: Collection[str] | None) -> tuple[str, ...] | None:
        """The chats that a question names; None if these are all that the reader may see."""
        seen = self._visible.chat_ids if self._visible else None
        everything = chat_ids is None or (seen is not None and seen.issubset(chat_ids))
        return None if everything else tuple(sorted(chat_ids or ()))

    def _read_vocabulary(self, connection: Connection, scope: Scope) -> Vocabulary:
        """The archive's words, at most a minute old; for a confined question the words of its scope."""
        population = scope.population if scope.confined else Scope()
        key = replace(population, chat_ids=None if population.chat_ids is None else frozenset(population.chat_ids))
        now = time.monotonic()
        with self._lock:
            for old in [k for k, (read_at, _) in self._vocabularies.items() if now - read_at > _MAX_VOCABULARY_AGE]:
                del self._vocabularies[old]
            known = self._vocabularies.get(key)
        if known is None:
            read = Vocabulary.read_scope(connection, population) if scope.confined else Vocabulary.read(connection)
            known = now, read
            with self._lock:
                for old in list(self._vocabularies)[: len(self._vocabularies) + 1 - _MAX_VOCABULARIES]:
                    del self._vocabularies[old]
                self._vocabularies[key] = known
        return known[1]

    def _open(self) -> None:
        with self._lock:
            if not self._opened:
                self._database.open(migrate=False)
                self._opened = True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """A read-only transaction that sees one state of the archive."""
        self._open()
        timeout = self._config.search.timeout
        with self._database.connection() as connection, _timeout_as_store_error(timeout), connection.transaction():
            self._begin(connection)
            yield connection

    def _begin(self, connection: Connection, snapshot: str | None = None) -> None:
        """Begin a question's transaction; with a snapshot it sees what the transaction sees that has exported it."""
        # The owner of the bundled server may do everything in it, and a question only needs to read. To compile by JIT
        # takes longer than any statement of ours. To count by person is twice as fast in memory as on disk. Citus hands
        # SET LOCAL on to its machines, and set_config() not.
        seen = f"SET TRANSACTION SNAPSHOT '{snapshot}';" if snapshot else ""
        begin = (
            "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;"
            f" {seen}"
            f" {'' if self._config.database.url else f'SET LOCAL ROLE {READER};'}"
            f" SET LOCAL statement_timeout = {max(1, int(self._config.search.timeout * 1000))}; SET LOCAL jit = off;"
            " SET LOCAL work_mem = '32MB'"
        )
        connection.execute(begin.encode(), prepare=False)

    def _legs(self, connection: Connection, mode: Mode) -> Legs:
        """The legs of a question. A process that asks once, as a command does, needs no further connection."""
        if mode == "text" or not self._searched.is_set() or is_distributed(connection):
            return Legs()
        return Legs(self._database.pool, self._threads, self._begin)


@contextlib.contextmanager
def _timeout_as_store_error(seconds: float) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.QueryCanceled:
        raise StoreError(
            f"the search was cancelled after {seconds:g} s", hint="Narrow it, or raise search.timeout."
        ) from None
