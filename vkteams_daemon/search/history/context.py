"""Context for a reader with a token budget: conversations in their order; if not all fits, the newest is kept.

Kinds: `recent`, the latest messages; `topic`, the conversations that a query touches; `user-profile`, the messages of
one person and where they stand; `around`, the thread and the neighbours of one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from vkteams_daemon import times
from vkteams_daemon.errors import NotFound
from vkteams_daemon.search.history.archived_messages import latest, read
from vkteams_daemon.search.history.context_kind import RECENT, require_argument
from vkteams_daemon.search.history.conversation import neighbours, thread, thread_beginnings
from vkteams_daemon.search.history.results import Context, Conversation, Kind, Place, Profile
from vkteams_daemon.search.history.token_budget import MIN_TOKENS, TokenBudget
from vkteams_daemon.search.messages import ArchivedMessage, MessageKey
from vkteams_daemon.search.names import chat_titles, names
from vkteams_daemon.search.results import Hit
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

TOPIC_HITS = 30  # hits that a topic's query asks for
_TOPIC_CONVERSATIONS = 8  # of these hits, how many bring their conversation
_SILENCE = timedelta(minutes=10)  # ends a conversation
_EACH_WAY = 12  # neighbours before and after a message, at most
_MAX_READ = 2000  # messages that are read, however large the budget
_MAX_PLACES = 20  # chats that a profile names
_ARGUMENT_NAMES = {"query": "a query", "user_id": "a user_id", "msg_id": "a message"}


@dataclass(frozen=True, slots=True)
class ContextRequest:
    """A kind of context with what it needs.

    Raises:
        UsageError: something that the kind needs is missing.
    """

    kind: Kind
    query: str | None = None
    user_id: str | None = None
    message: MessageKey | None = None
    timeframe: timedelta | None = None

    def __post_init__(self) -> None:
        """Check that nothing is missing."""
        arguments = {"query": self.query, "user_id": self.user_id, "msg_id": self.message and self.message[1]}
        require_argument(self.kind, arguments, _ARGUMENT_NAMES)

    def within(self, scope: Scope, now: datetime) -> Scope:
        """The scope, narrowed to the timeframe."""
        span = self.timeframe
        if self.kind == "recent" and span is None and scope.since is None:
            span = RECENT
        if span is None:
            return scope
        return replace(scope, since=max(scope.since, now - span) if scope.since else now - span)


@dataclass(slots=True)
class _Group:
    """Messages that belong together.

    Attributes:
        candidates: messages that may be shown, the most important first.
        matches: keys of the messages that the question named or the query found.
        total: how many messages belong to it, if `candidates` are not all of them.
        messages: the candidates that fit the budget.
    """

    chat_id: str
    candidates: list[ArchivedMessage]
    matches: set[MessageKey] = field(default_factory=set)
    total: int = 0
    messages: list[ArchivedMessage] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        return max(self.total, len(self.candidates)) - len(self.messages)


def answer(
    connection: Connection,
    request: ContextRequest,
    scope: Scope,
    within: Scope,
    hits: Sequence[Hit],
    budget: TokenBudget,
) -> Context:
    """The context of the kind that is asked for.

    Args:
        connection: inside a transaction.
        request: the kind and what it needs.
        scope: what may be seen.
        within: the scope, narrowed to the timeframe.
        hits: the hits of a topic's query.
        budget: the tokens that the answer may take.

    Raises:
        NotFound: there is no such message, or no message of this person.
    """
    if request.kind == "around" and request.message:
        return around(connection, *request.message, scope, budget)
    if request.kind == "topic":
        return topic(connection, hits, scope, budget)
    if request.kind == "user-profile" and request.user_id:
        return user_profile(connection, request.user_id, within, budget)
    context = recent(connection, within, budget)
    if context.conversations or context.cut:
        return context
    return replace(context, note=_silence_note(connection, scope, within))


def _silence_note(connection: Connection, scope: Scope, within: Scope) -> str:
    last = latest(connection, scope, 1)
    if not last:
        return "The archive has no message there."
    since = f" since {times.shown(within.since)}" if within.since else ""
    return f"Nothing was said{since}; the last message is of {times.shown(last[0].sent_at)}."


def recent(connection: Connection, scope: Scope, budget: TokenBudget) -> Context:
    """The newest messages of the scope that fit, the chat with the newest message first."""
    counts = {row[0]: row[1] for row in _count_by_chat(connection, scope)}
    groups = _newest(connection, scope, counts, budget)
    return _context(connection, "recent", groups, scope, budget)


def around(connection: Connection, chat_id: str, msg_id: str, scope: Scope, budget: TokenBudget) -> Context:
    """One message with its thread, then its neighbours in time.

    Raises:
        NotFound: the archive has no such message, or it was deleted, or it lies outside the scope.
    """
    linked = thread(connection, chat_id, msg_id, scope)
    middle = next(message for message in linked if message.key == (chat_id, msg_id))
    near = neighbours(connection, middle, scope, each_way=_EACH_WAY)
    linked.sort(key=lambda message: (message.key != middle.key, abs(message.sent_at - middle.sent_at)))
    group = _Group(chat_id, _distinct([*linked, *near]), {middle.key})
    _fill(group, group.candidates, budget)
    return _context(connection, "around", [group], scope, budget)


def topic(connection: Connection, hits: Sequence[Hit], scope: Scope, budget: TokenBudget) -> Context:
    """The conversations of these hits, the best hit's first; hits of one conversation share it."""
    groups: list[_Group] = []
    # A hit that was found only beside another hit is among its neighbours anyway.
    hits = [hit for hit in hits if any(score.name != "conversation" for score in hit.legs)][:_TOPIC_CONVERSATIONS]
    for hit in hits:
        if any(hit.key in group.matches for group in groups):
            continue
        middle = next(iter(read(connection, [hit.key], scope)), None)
        if middle is None:
            continue
        linked = thread(connection, *hit.key, scope)
        near = neighbours(connection, middle, scope, each_way=_EACH_WAY, silence=_SILENCE)
        _join(groups, _Group(hit.chat_id, _distinct([middle, *linked, *near])), hits)
    # All hits take their place before the messages around them.
    for matching in (True, False):
        for group in groups:
            part = [message for message in group.candidates if (message.key in group.matches) is matching]
            _fill(group, part, budget)
    return _context(connection, "topic", groups, scope, budget)


def user_profile(connection: Connection, user_id: str, scope: Scope, budget: TokenBudget) -> Context:
    """The newest messages of one person that fit, and where they spoke.

    Raises:
        NotFound: the archive has no message of this person within the scope.
    """
    theirs = replace(scope, user_id=user_id)
    chats = _count_by_chat(connection, theirs)
    if not chats:
        raise NotFound(f"the archive has no message of user {user_id} there", hint="`vkteamsctl context users` lists.")
    titles = chat_titles(connection, [row[0] for row in chats[:_MAX_PLACES]], scope)
    places = [Place(chat_id, titles.get(chat_id), count, last) for chat_id, count, _, last in chats[:_MAX_PLACES]]
    profile = Profile(
        user_id, names(connection, [user_id], scope).get(user_id), sum(row[1] for row in chats), len(chats),
        min(row[2] for row in chats), max(row[3] for row in chats), places,
    )  # fmt: skip
    groups = _newest(connection, theirs, {row[0]: row[1] for row in chats}, budget)
    return replace(_context(connection, "user-profile", groups, scope, budget), profile=profile)


def _count_by_chat(connection: Connection, scope: Scope) -> list[tuple[Any, ...]]:
    """(chat_id, messages, first, last) of each chat of the scope, most messages first."""
    return connection.execute(
        "SELECT m.chat_id, count(*), pg_catalog.min(m.sent_at), pg_catalog.max(m.sent_at) FROM messages m"
        f" WHERE {scope.condition} GROUP BY m.chat_id ORDER BY count(*) DESC, m.chat_id".encode(),
        scope.parameters,
        prepare=False,
    ).fetchall()


def _newest(connection: Connection, scope: Scope, counts: dict[str, int], budget: TokenBudget) -> list[_Group]:
    """The newest messages of the scope by chat, as many as fit: no message is left out for an older one elsewhere."""
    groups: dict[str, _Group] = {}
    for message in reversed(latest(connection, scope, min(_MAX_READ, budget.left // MIN_TOKENS + 1))):
        group = groups.setdefault(message.chat_id, _Group(message.chat_id, [], total=counts.get(message.chat_id, 0)))
        if not _fill(group, [message], budget):
            break
    return [*groups.values(), *(_Group(chat_id, [], total=n) for chat_id, n in counts.items() if chat_id not in groups)]


def _fill(group: _Group, candidates: Sequence[ArchivedMessage], budget: TokenBudget) -> bool:
    """Add these messages to the group until one does not fit; return whether all of them fit."""
    for message in candidates:
        fitting = budget.take(message, first=not group.messages)
        if fitting is None:
            return False
        group.messages.append(fitting)
    return True


def _join(groups: list[_Group], new: _Group, hits: Sequence[Hit]) -> None:
    """Add a conversation to the groups, or merge it into the first group that it overlaps with."""
    keys = {message.key for message in new.candidates}
    group = next((group for group in groups if any(message.key in keys for message in group.candidates)), None)
    if group is None:
        groups.append(group := new)
    else:
        group.candidates = _distinct([*group.candidates, *new.candidates])
    group.matches = {message.key for message in group.candidates} & {hit.key for hit in hits}


def _distinct(messages: Sequence[ArchivedMessage]) -> list[ArchivedMessage]:
    return list({message.key: message for message in messages}.values())


def _context(
    connection: Connection, kind: Kind, groups: Sequence[_Group], scope: Scope, budget: TokenBudget
) -> Context:
    """The groups that have messages, each with its messages oldest first."""
    chat_ids = {group.chat_id for group in groups if group.messages}
    titles, threads = chat_titles(connection, chat_ids, scope), thread_beginnings(connection, chat_ids, scope)
    conversations = [
        Conversation(
            group.chat_id,
            titles.get(group.chat_id),
            messages := sorted(group.messages, key=lambda message: (message.sent_at, message.msg_id)),
            group.left_out,
            tuple(message.msg_id for message in messages if message.key in group.matches),
            threads.get(group.chat_id),
        )
        for group in groups
        if group.messages
    ]
    left_out = sum(group.left_out for group in groups)
    return Context(kind, conversations, budget.used, budget.cut or left_out > 0, left_out)
