"""Writes the facts of a batch about chats, users and members.

The newest known value of every column wins, and `seen_at` is the time of the row's last change. A row that changes
several times within a batch is written once for each change, so that the result does not depend on how the events were
cut into batches. A statement takes each row only once, so there is one statement for each such round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from operator import attrgetter
from typing import Any

from vkteams_daemon.botapi.facts import Chat, Facts, Membership, User
from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection

Row = tuple[Any, ...]

CHATS = ColumnSet((
    ("chat_id", "text"), ("type", "text"), ("title", "text"), ("parent_chat_id", "text"), ("parent_msg_id", "text"),
    ("seen_at", "timestamptz"),
))  # fmt: skip
USERS = ColumnSet((
    ("user_id", "text"), ("first_name", "text"), ("last_name", "text"), ("nick", "text"), ("is_bot", "bool"),
    ("seen_at", "timestamptz"),
))  # fmt: skip
MEMBERS = ColumnSet((
    ("chat_id", "text"), ("user_id", "text"), ("joined_at", "timestamptz"), ("left_at", "timestamptz"),
    ("added_by", "text"), ("removed_by", "text"),
))  # fmt: skip

_CHAT = attrgetter(*(name for name, _ in CHATS.columns[:-1]))
_USER = attrgetter(*(name for name, _ in USERS.columns[:-1]))

_SAVE_CHATS = (
    "INSERT INTO {prefix}chats AS c (chat_id, type, title, parent_chat_id, parent_msg_id, first_seen_at, seen_at)"
    " SELECT chat_id, type, title, parent_chat_id, parent_msg_id, seen_at, seen_at FROM {incoming}"
    " ON CONFLICT (chat_id) DO UPDATE SET type = coalesce(excluded.type, c.type),"
    " title = coalesce(excluded.title, c.title), parent_chat_id = coalesce(excluded.parent_chat_id, c.parent_chat_id),"
    " parent_msg_id = coalesce(excluded.parent_msg_id, c.parent_msg_id), seen_at = excluded.seen_at"
    " WHERE excluded.seen_at >= c.seen_at AND (coalesce(excluded.type, c.type), coalesce(excluded.title, c.title),"
    " coalesce(excluded.parent_chat_id, c.parent_chat_id), coalesce(excluded.parent_msg_id, c.parent_msg_id))"
    " IS DISTINCT FROM (c.type, c.title, c.parent_chat_id, c.parent_msg_id)"
)
_SAVE_USERS = (
    "INSERT INTO {prefix}users AS u (user_id, first_name, last_name, nick, is_bot, seen_at)"
    " SELECT user_id, first_name, last_name, nick, is_bot, seen_at FROM {incoming}"
    " ON CONFLICT (user_id) DO UPDATE SET first_name = coalesce(excluded.first_name, u.first_name),"
    " last_name = coalesce(excluded.last_name, u.last_name), nick = coalesce(excluded.nick, u.nick),"
    " is_bot = coalesce(excluded.is_bot, u.is_bot), seen_at = excluded.seen_at"
    " WHERE excluded.seen_at >= u.seen_at AND (coalesce(excluded.first_name, u.first_name),"
    " coalesce(excluded.last_name, u.last_name), coalesce(excluded.nick, u.nick), coalesce(excluded.is_bot, u.is_bot))"
    " IS DISTINCT FROM (u.first_name, u.last_name, u.nick, u.is_bot)"
)
_SAVE_MEMBERS = (
    "INSERT INTO {prefix}chat_members AS m (chat_id, user_id, joined_at, left_at, added_by, removed_by)"
    " SELECT chat_id, user_id, joined_at, left_at, added_by, removed_by FROM {incoming}"
    " ON CONFLICT (chat_id, user_id) DO UPDATE SET joined_at = coalesce(excluded.joined_at, m.joined_at),"
    " left_at = excluded.left_at, removed_by = excluded.removed_by,"
    " added_by = CASE WHEN excluded.joined_at IS NULL THEN m.added_by ELSE excluded.added_by END"
    " WHERE coalesce(excluded.left_at, excluded.joined_at) >= greatest(m.left_at, m.joined_at)"
)


class People:
    """Collects the facts of a batch about chats, users and members, then saves them."""

    def __init__(self) -> None:
        self._chats, self._users = RowHistory(_CHAT), RowHistory(_USER)
        self._members: list[Membership] = []

    def add(self, facts: Facts, at: datetime) -> None:
        """Add the facts of the next event, which arrived `at`."""
        for chat in facts.chats:
            self._chats.add(chat.chat_id, chat, at)
        for user in facts.users:
            self._users.add(user.user_id, user, at)
        self._members += facts.members

    def save(self, connection: Connection, prefix: str = "") -> None:
        """Write the rows, in a transaction, to the tables chats, users and chat_members with this prefix."""
        for rows in self._chats.rounds():
            CHATS.execute(connection, _SAVE_CHATS, rows, prefix=prefix)
        for rows in self._users.rounds():
            USERS.execute(connection, _SAVE_USERS, rows, prefix=prefix)
        if self._members:
            MEMBERS.execute(connection, _SAVE_MEMBERS, member_rows(self._members), prefix=prefix)


class RowHistory:
    """The rows of one table in the order of arrival, with one state for each change of a row.

    Args:
        row_of: gives the row without its time, from a fact.
    """

    def __init__(self, row_of: Callable[[Any], Row]) -> None:
        self._row_of = row_of
        self._states: dict[str, list[Row]] = {}
        self._latest_facts: dict[str, Chat | User] = {}

    def add(self, key: str, fact: Chat | User, at: datetime) -> None:
        """Add what an event that arrived `at` says about the row; None means that the event does not say it."""
        if self._latest_facts.get(key) == fact:
            return  # most messages come from a known chat and author, and say nothing new about them
        self._latest_facts[key] = fact
        row = self._row_of(fact)
        states = self._states.setdefault(key, [])
        if not states:
            states.append((*row, at))
            return
        latest = states[-1][:-1]
        merged = tuple(new if new is not None else old for new, old in zip(row, latest, strict=True))
        if merged != latest:
            states.append((*merged, at))

    def rounds(self) -> Iterator[list[Row]]:
        """The rows to write, in rounds with each key at most once. Each row ends with the time of its change."""
        # Sorted by key, so that the transactions of two bots lock their common rows in the same order.
        histories = [self._states[key] for key in sorted(self._states)]
        for number in range(max(map(len, histories), default=0)):
            yield [rows[number] for rows in histories if number < len(rows)]


def member_rows(memberships: Iterable[Membership]) -> list[Row]:
    """One row per member: key, joined_at, left_at, added_by, removed_by. None means that the batch does not say it."""
    members: dict[tuple[str, str], Row] = {}
    for member in memberships:
        key = (member.chat_id, member.user_id)
        if member.joined:
            members[key] = (*key, member.at, None, member.by, None)
        else:
            joined_at, added_by = (members[key][2], members[key][4]) if key in members else (None, None)
            members[key] = (*key, joined_at, member.at, added_by, member.by)
    return [members[key] for key in sorted(members)]
