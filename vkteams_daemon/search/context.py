"""Context for a reader with little room: conversations as they went, within a budget of tokens, the newest kept.

Kinds: `recent`, what was said of late; `topic`, the conversations that a query touches; `user-profile`, what one person
said and where; `around`, the thread and the neighbours of one message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.errors import NotFound
from vkteams_daemon.search.conversation import Said, latest, neighbours, read, thread
from vkteams_daemon.search.hit import Hit, chat_titles, names
from vkteams_daemon.search.scope import Scope

Kind = Literal["recent", "topic", "user-profile", "around"]
KINDS: tuple[Kind, ...] = ("recent", "topic", "user-profile", "around")

SILENCE = timedelta(minutes=10)  # what ends a conversation
EACH_WAY = 12  # neighbours before and after a message, at most
CUT = " […]"
_LINE = 12  # tokens of a message's time and author
_MOST = 2000  # messages that are looked at, whatever the budget


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages of one chat, oldest first.

    Attributes:
        left_out: how many belong to it and did not fit the budget.
        matches: msg_ids of the messages that were asked for, or found.
    """

    chat_id: str
    chat_title: str | None
    messages: list[Said]
    left_out: int = 0
    matches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Profile:
    """One person: how much they said, where and when; `chats` as (chat_id, title, messages), most first."""

    user_id: str
    name: str | None
    messages: int
    first_at: datetime | None
    last_at: datetime | None
    chats: list[tuple[str, str | None, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Context:
    """An answer: conversations, best or newest first, and how much room they take.

    Attributes:
        tokens: an estimate, see `tokens`.
        cut: whether anything was left out or shortened to fit the budget.
    """

    kind: Kind
    conversations: list[Conversation]
    tokens: int
    cut: bool
    profile: Profile | None = None


def tokens(text: str) -> int:
    """About how many tokens a text takes: a quarter of its UTF-8 bytes, four Latin or two Cyrillic letters each."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


class Budget:
    """The room that is left; a message may take a quarter of the whole at most, and is shortened to it."""

    def __init__(self, most: int) -> None:
        self._longest = max(32, most // 4)
        self.left = most
        self.used = 0
        self.cut = False

    def fit(self, said: Said) -> Said | None:
        """The message, shortened where it must be; None where there is no room for it."""
        if tokens(said.text) > self._longest:
            said = replace(said, text=said.text.encode()[: 4 * self._longest].decode("utf-8", "ignore") + CUT)
            self.cut = True
        cost = _LINE + tokens(said.text)
        if cost > self.left:
            self.cut = True
            return None
        self.left -= cost
        self.used += cost
        return said


def recent(connection: psycopg.Connection[Any], scope: Scope, most: int) -> Context:
    """What was said of late in the scope, chat by chat, the chat with the newest message first."""
    budget = Budget(most)
    found = latest(connection, scope, min(_MOST, most // _LINE + 1))
    return _context(connection, "recent", _by_chat(reversed(found)), budget)


def around(connection: psycopg.Connection[Any], chat_id: str, msg_id: str, scope: Scope, most: int) -> Context:
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
    wanted = list({said.key: said for said in (*linked, *near)}.values())
    return _context(connection, "around", [(chat_id, wanted, {middle.key})], Budget(most))


def topic(connection: psycopg.Connection[Any], hits: Sequence[Hit], scope: Scope, most: int) -> Context:
    """The conversations that these hits stand in, the best hit's first; hits of one conversation share it."""
    found: list[tuple[str, list[Said], set[tuple[str, str]]]] = []
    hit_keys = {(hit.chat_id, hit.msg_id) for hit in hits}
    for hit in hits:
        key = (hit.chat_id, hit.msg_id)
        if any(key in {said.key for said in messages} for _, messages, _ in found):
            continue
        middle = next(iter(read(connection, [key], scope)), None)
        if middle is None:
            continue
        linked = thread(connection, *key, scope)
        near = neighbours(connection, middle, scope, each_way=EACH_WAY, gap=SILENCE)
        wanted = list({said.key: said for said in (middle, *linked, *near)}.values())
        matches = {said.key for said in wanted} & hit_keys
        # What was found comes first into the budget, then what is nearest to the best of it.
        wanted.sort(key=lambda said: (said.key not in matches, abs(said.sent_at - middle.sent_at)))
        found.append((hit.chat_id, wanted, matches))
    return _context(connection, "topic", found, Budget(most))


def user_profile(connection: psycopg.Connection[Any], user_id: str, scope: Scope, most: int) -> Context:
    """What one person said and where, newest kept.

    Raises:
        NotFound: the archive has nothing of this person within the scope, and no name.
    """
    theirs = replace(scope, user_id=user_id)
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT m.chat_id, count(*), min(m.sent_at), max(m.sent_at) FROM messages m"
            f" WHERE {theirs.condition} GROUP BY m.chat_id ORDER BY count(*) DESC, m.chat_id".encode(),
            theirs.parameters,
            prepare=False,
        )
        chats = cursor.fetchall()
    name = names(connection, [user_id]).get(user_id)
    if not chats and name is None:
        raise NotFound(f"the archive knows no user {user_id}")
    titles = chat_titles(connection, [row[0] for row in chats])
    profile = Profile(
        user_id, name, sum(row[1] for row in chats),
        min((row[2] for row in chats), default=None), max((row[3] for row in chats), default=None),
        [(chat_id, titles.get(chat_id), count) for chat_id, count, _, _ in chats],
    )  # fmt: skip
    budget = Budget(most)
    found = latest(connection, theirs, min(_MOST, most // _LINE + 1))
    return replace(_context(connection, "user-profile", _by_chat(reversed(found)), budget), profile=profile)


def _by_chat(newest_first: Iterable[Said]) -> list[tuple[str, list[Said], set[tuple[str, str]]]]:
    chats: dict[str, list[Said]] = {}
    for said in newest_first:
        chats.setdefault(said.chat_id, []).append(said)
    return [(chat_id, messages, set()) for chat_id, messages in chats.items()]


def _context(
    connection: psycopg.Connection[Any],
    kind: Kind,
    wanted: Collection[tuple[str, list[Said], set[tuple[str, str]]]],
    budget: Budget,
) -> Context:
    """Fill the budget with each chat's messages, the most wanted first; then put them into the order of saying."""
    titles = chat_titles(connection, {chat_id for chat_id, _, _ in wanted})
    conversations = []
    for chat_id, messages, matches in wanted:
        kept: list[Said] = []
        for said in messages:
            fitting = budget.fit(said)
            if fitting is None:
                break
            kept.append(fitting)
        if kept:
            kept.sort(key=lambda said: (said.sent_at, said.msg_id))
            shown = tuple(said.msg_id for said in kept if said.key in matches)
            conversations.append(Conversation(chat_id, titles.get(chat_id), kept, len(messages) - len(kept), shown))
    return Context(kind, conversations, budget.used, budget.cut)
