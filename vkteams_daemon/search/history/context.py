"""Context for a reader with little room: conversations as they went, within a budget of tokens, the newest kept.

Kinds: `recent`, what was said of late; `topic`, the conversations that a query touches; `user-profile`, what one person
said and where; `around`, the thread and the neighbours of one message.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.errors import NotFound
from vkteams_daemon.search.history.context_kind import require_argument
from vkteams_daemon.search.history.conversation import latest, neighbours, read, thread
from vkteams_daemon.search.history.results import Context, Conversation, Kind, Place, Profile
from vkteams_daemon.search.history.token_budget import LEAST, TokenBudget
from vkteams_daemon.search.messages import ArchivedMessage
from vkteams_daemon.search.names import chat_titles, names
from vkteams_daemon.search.results import Hit
from vkteams_daemon.search.scope import Scope

RECENT = timedelta(hours=2)  # how far `recent` looks back where nothing is said
LOOKED_AT = 30  # hits of a topic's query
_TOPICS = 8  # of these, so many that the query itself has found
SILENCE = timedelta(minutes=10)  # what ends a conversation
EACH_WAY = 12  # neighbours before and after a message, at most
_MOST = 2000  # messages that are looked at, whatever the budget
_NAMES = {"query": "a query", "user_id": "a user_id", "msg_id": "a message"}
_PLACES = 20  # chats that a profile names

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for; UsageError if something that its kind needs is missing."""

    kind: Kind
    query: str | None = None
    user_id: str | None = None
    message: Key | None = None
    timeframe: timedelta | None = None

    def __post_init__(self) -> None:
        """Check that nothing is missing."""
        arguments = {"query": self.query, "user_id": self.user_id, "msg_id": self.message and self.message[1]}
        require_argument(self.kind, arguments, _NAMES)

    def within(self, scope: Scope, now: datetime) -> Scope:
        """The scope, with no more than the timeframe in it."""
        span = RECENT if self.kind == "recent" and self.timeframe is None else self.timeframe
        if span is None:
            return scope
        return replace(scope, since=max(scope.since, now - span) if scope.since else now - span)


@dataclass(slots=True)
class _Group:
    """Messages that belong together, the most wanted first; `whole` is how many there are, where these are not all."""

    chat_id: str
    wanted: list[ArchivedMessage]
    matches: set[Key] = field(default_factory=set)
    whole: int = 0
    kept: list[ArchivedMessage] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        return max(self.whole, len(self.wanted)) - len(self.kept)


def answer(
    connection: psycopg.Connection[Any],
    wanted: Wanted,
    scope: Scope,
    within: Scope,
    hits: Sequence[Hit],
    budget: TokenBudget,
) -> Context:
    """The context that is wanted.

    Args:
        connection: inside a transaction.
        wanted: what is asked for.
        scope: what may be seen.
        within: the scope with the timeframe.
        hits: of a topic's query.
        budget: the room there is.

    Raises:
        NotFound: there is no such message, or nothing of this person.
    """
    if wanted.kind == "around" and wanted.message:
        return around(connection, *wanted.message, scope, budget)
    if wanted.kind == "topic":
        return topic(connection, hits, scope, budget)
    if wanted.kind == "user-profile" and wanted.user_id:
        return user_profile(connection, wanted.user_id, within, budget)
    found = recent(connection, within, budget)
    if found.conversations or found.cut:
        return found
    return replace(found, note=_silence(connection, scope, within))


def _silence(connection: psycopg.Connection[Any], scope: Scope, within: Scope) -> str:
    last = latest(connection, scope, 1)
    if not last:
        return "The archive has no message there."
    since = f" since {within.since:%Y-%m-%d %H:%M} UTC" if within.since else ""
    return f"Nothing was said{since}; the last message is of {last[0].sent_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC."


def recent(connection: psycopg.Connection[Any], scope: Scope, budget: TokenBudget) -> Context:
    """What was said of late in the scope: the newest that fits, the chat with the newest message first."""
    counts = {row[0]: row[1] for row in _count_by_chat(connection, scope)}
    groups = _newest(connection, scope, counts, budget)
    return _context(connection, "recent", groups, budget)


def around(
    connection: psycopg.Connection[Any], chat_id: str, msg_id: str, scope: Scope, budget: TokenBudget
) -> Context:
    """One message with its thread, then its neighbours in time.

    Raises:
        NotFound: the archive has no such message, or it was deleted, or it lies outside the scope.
    """
    linked = thread(connection, chat_id, msg_id, scope)
    middle = next((said for said in linked if said.key == (chat_id, msg_id)), None)
    if middle is None:
        raise NotFound(f"the archive has no message {msg_id} in chat {chat_id}")
    near = neighbours(connection, middle, scope, each_way=EACH_WAY)
    linked.sort(key=lambda said: (said.key != middle.key, abs(said.sent_at - middle.sent_at)))
    group = _Group(chat_id, _distinct([*linked, *near]), {middle.key})
    _fill(group, group.wanted, budget)
    return _context(connection, "around", [group], budget)


def topic(connection: psycopg.Connection[Any], hits: Sequence[Hit], scope: Scope, budget: TokenBudget) -> Context:
    """The conversations that these hits stand in, the best hit's first; hits of one conversation share it."""
    groups: list[_Group] = []
    # What was found only beside another hit is around that anyway.
    hits = [hit for hit in hits if any(leg.name != "conversation" for leg in hit.legs)][:_TOPICS]
    for hit in hits:
        if any(hit.key in group.matches for group in groups):
            continue
        middle = next(iter(read(connection, [hit.key], scope)), None)
        if middle is None:
            continue
        linked = thread(connection, *hit.key, scope)
        near = neighbours(connection, middle, scope, each_way=EACH_WAY, gap=SILENCE)
        _join(groups, _Group(hit.chat_id, _distinct([middle, *linked, *near])), hits)
    # What was found has its place before anything that merely stands around it.
    for found in (True, False):
        for group in groups:
            _fill(group, [said for said in group.wanted if (said.key in group.matches) is found], budget)
    return _context(connection, "topic", groups, budget)


def user_profile(connection: psycopg.Connection[Any], user_id: str, scope: Scope, budget: TokenBudget) -> Context:
    """What one person said and where: the newest that fits.

    Raises:
        NotFound: the archive has nothing of this person within the scope.
    """
    theirs = replace(scope, user_id=user_id)
    chats = _count_by_chat(connection, theirs)
    if not chats:
        raise NotFound(f"the archive has no message of user {user_id} there", hint="`vkteamsctl context users` lists.")
    titles = chat_titles(connection, [row[0] for row in chats[:_PLACES]])
    places = [Place(chat_id, titles.get(chat_id), count, last) for chat_id, count, _, last in chats[:_PLACES]]
    profile = Profile(
        user_id, names(connection, [user_id]).get(user_id), sum(row[1] for row in chats), len(chats),
        min(row[2] for row in chats), max(row[3] for row in chats), places,
    )  # fmt: skip
    groups = _newest(connection, theirs, {row[0]: row[1] for row in chats}, budget)
    return replace(_context(connection, "user-profile", groups, budget), profile=profile)


def _count_by_chat(connection: psycopg.Connection[Any], scope: Scope) -> list[tuple[str, int, datetime, datetime]]:
    """(chat_id, messages, first, last) of each chat of the scope, most messages first."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT m.chat_id, count(*), min(m.sent_at), max(m.sent_at) FROM messages m"
            f" WHERE {scope.condition} GROUP BY m.chat_id ORDER BY count(*) DESC, m.chat_id".encode(),
            scope.parameters,
            prepare=False,
        )
        return cursor.fetchall()


def _newest(
    connection: psycopg.Connection[Any], scope: Scope, counts: dict[str, int], budget: TokenBudget
) -> list[_Group]:
    """The scope's newest messages by chat, as many as fit: none is left out for an older one of another chat."""
    groups: dict[str, _Group] = {}
    for said in reversed(latest(connection, scope, min(_MOST, budget.left // LEAST + 1))):
        group = groups.setdefault(said.chat_id, _Group(said.chat_id, [], whole=counts.get(said.chat_id, 0)))
        if not _fill(group, [said], budget):
            break
    known = groups.keys()
    return [*groups.values(), *(_Group(chat_id, [], whole=n) for chat_id, n in counts.items() if chat_id not in known)]


def _fill(group: _Group, wanted: Sequence[ArchivedMessage], budget: TokenBudget) -> bool:
    """Keep these messages until one does not fit; whether all of them did."""
    for said in wanted:
        fitting = budget.fit(said, first=not group.kept)
        if fitting is None:
            return False
        group.kept.append(fitting)
    return True


def _join(groups: list[_Group], new: _Group, hits: Sequence[Hit]) -> None:
    """Add a conversation, to one that it overlaps with where there is such a one."""
    keys = {said.key for said in new.wanted}
    home = next((group for group in groups if any(said.key in keys for said in group.wanted)), None)
    if home is None:
        groups.append(home := new)
    else:
        home.wanted = _distinct([*home.wanted, *new.wanted])
    home.matches = {said.key for said in home.wanted} & {hit.key for hit in hits}


def _distinct(said: Sequence[ArchivedMessage]) -> list[ArchivedMessage]:
    return list({one.key: one for one in said}.values())


def _context(connection: psycopg.Connection[Any], kind: Kind, groups: Sequence[_Group], budget: TokenBudget) -> Context:
    """What was kept, in the order of saying."""
    titles = chat_titles(connection, {group.chat_id for group in groups if group.kept})
    conversations = [
        Conversation(
            group.chat_id,
            titles.get(group.chat_id),
            kept := sorted(group.kept, key=lambda said: (said.sent_at, said.msg_id)),
            group.left_out,
            tuple(said.msg_id for said in kept if said.key in group.matches),
        )
        for group in groups
        if group.kept
    ]
    left_out = sum(group.left_out for group in groups)
    return Context(kind, conversations, budget.used, budget.cut or left_out > 0, left_out)
