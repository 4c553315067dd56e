"""The names of people and the titles of chats.

A confined reader gets what the messages that they may see say: a name that only a hidden chat knows stays unknown.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from vkteams_daemon.botapi import facts
from vkteams_daemon.search.scope import Scope, chat_by_chat
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.distribution import is_distributed


@dataclass(frozen=True, slots=True)
class Person:
    """A person or a bot; None is what nothing has said yet."""

    first_name: str | None
    last_name: str | None
    nick: str | None
    is_bot: bool | None

    @property
    def name(self) -> str | None:
        """First and last name, otherwise the nick; None if none is known."""
        return " ".join(part for part in (self.first_name, self.last_name) if part) or self.nick or None


_UNKNOWN = Person(None, None, None, None)
_NEWEST = 5  # messages of a person; one of them has the name, unless the API left it out five times
_THESE = (
    "SELECT user_id, chat_id, msg_id FROM unnest(%(users)s::text[], %(chats)s::text[], %(messages)s::text[])"
    " AS m (user_id, chat_id, msg_id)"
)

Authored = tuple[str, str, str]
"""The user_id, chat_id and msg_id of a message that has an author."""


def people(connection: Connection, user_ids: Iterable[str], scope: Scope) -> dict[str, Person]:
    """People by user id, as their newest events describe them; of a confined scope, as their newest messages do."""
    ids = list(user_ids)
    if not ids:
        return {}
    if scope.confined:
        return _people_as_seen(connection, ids, scope)
    rows = connection.execute(
        "SELECT user_id, first_name, last_name, nick, is_bot FROM users WHERE user_id = ANY(%s)", (ids,)
    )
    return {user_id: Person(*row) for user_id, *row in rows}


def names(connection: Connection, user_ids: Iterable[str], scope: Scope) -> dict[str, str]:
    """People's names by user id: first and last name, otherwise the nick. People with neither are left out."""
    return {user_id: person.name for user_id, person in people(connection, user_ids, scope).items() if person.name}


def chat_titles(connection: Connection, chat_ids: Iterable[str], scope: Scope) -> dict[str, str]:
    """Titles by chat id: the chat's own, its parent's, or the name of a private chat's other person.

    Chats without any of these are left out.
    """
    ids = list(chat_ids)
    rows = connection.execute(
        "SELECT chat_id, nullif(title, ''), parent_chat_id FROM chats WHERE chat_id = ANY(%s)", (ids,)
    ).fetchall()
    titles = {chat_id: title for chat_id, title, _ in rows if title}
    if parents := visible_chats(connection, {row[2] for row in rows if row[2] and not row[1]}, scope):
        found = connection.execute("SELECT chat_id, title FROM chats WHERE chat_id = ANY(%s)", (sorted(parents),))
        parent_titles = {chat_id: title for chat_id, title in found if title}
        titles |= {row[0]: parent_titles[row[2]] for row in rows if not row[1] and row[2] in parent_titles}
    # A private chat has no title. Its id is the user id of the other person.
    return names(connection, [chat_id for chat_id in ids if chat_id not in titles], scope) | titles


def visible_chats(connection: Connection, chat_ids: Collection[str], scope: Scope) -> set[str]:
    """Those of these chats of which the reader may know: of a confined scope, those with a message within it."""
    if not scope.confined or not chat_ids:
        return set(chat_ids)
    asked = set(chat_ids) if scope.chat_ids is None else set(chat_ids).intersection(scope.chat_ids)
    if not asked:
        return set()
    since = " AND m.sent_at >= %(since)s" if scope.since else ""
    since += f" AND {scope.within_periods()}" if scope.periods else ""
    rows = connection.execute(
        f"SELECT c.chat_id FROM {chat_by_chat(connection, 'asked')}"
        f" WHERE EXISTS (SELECT FROM messages m WHERE m.chat_id = c.chat_id{since})".encode(),
        {**scope.parameters, "asked": sorted(asked)},
        prepare=False,
    )
    return {chat_id for (chat_id,) in rows}


def authors(connection: Connection, messages: Collection[Authored], scope: Scope) -> dict[str, Person]:
    """The authors of these messages by user id; of a confined scope, as the events of these messages describe them.

    Args:
        connection: any connection to the archive.
        messages: messages within the scope.
        scope: what the reader may see.
    """
    if not scope.confined:
        return people(connection, {user_id for user_id, _, _ in messages}, scope)
    columns = dict(zip(("users", "chats", "messages"), map(list, zip(*messages, strict=True)), strict=False))
    return _as_described(connection, _THESE, columns) if messages else {}


def _people_as_seen(connection: Connection, user_ids: list[str], scope: Scope) -> dict[str, Person]:
    """People as the events of their newest messages within the scope describe them."""
    order = "m.sent_at DESC, m.chat_id, m.msg_id"
    if is_distributed(connection):
        # Citus has no such join as the other query. This one reads all messages of these people.
        newest = (
            "SELECT user_id, chat_id, msg_id FROM (SELECT m.user_id, m.chat_id, m.msg_id,"
            f" row_number() OVER (PARTITION BY m.user_id ORDER BY {order}) AS place FROM messages m"
            f" WHERE m.user_id = ANY(%(ids)s::text[]) AND {scope.population.condition}) AS m WHERE place <= {_NEWEST}"
        )
    else:
        newest = (
            "SELECT u.user_id, n.chat_id, n.msg_id FROM pg_catalog.unnest(%(ids)s::text[]) AS u (user_id)"
            " CROSS JOIN LATERAL (SELECT m.chat_id, m.msg_id FROM messages m"
            f"  WHERE m.user_id = u.user_id AND {scope.population.condition_of_few}"
            f"  ORDER BY {order} LIMIT {_NEWEST}) AS n"
        )
    return _as_described(connection, newest, {**scope.population.parameters, "ids": user_ids})


def _as_described(connection: Connection, messages: str, parameters: dict[str, Any]) -> dict[str, Person]:
    """The authors of the messages of a query, as the events of these describe them; the newest known value wins."""
    rows = connection.execute(
        f"WITH said AS MATERIALIZED ({messages}) SELECT s.user_id, (e.payload -> 'from'::text)::text"
        " FROM said s JOIN events e ON e.chat_id = s.chat_id AND e.subject = s.msg_id"
        " WHERE e.user_id = s.user_id AND e.error IS NULL AND e.payload IS NOT NULL"
        " ORDER BY e.received_at, e.bot_id, e.event_id".encode(),
        parameters,
        prepare=False,
    )
    seen: dict[str, Person] = {}
    latest: dict[str, str] = {}
    for user_id, described in rows:
        if described is None or latest.get(user_id) == described:
            continue  # most events of a person describe them in the same way
        latest[user_id] = described
        if user := facts.read_user(msgspec.json.decode(described)):
            old = seen.get(user_id, _UNKNOWN)
            seen[user_id] = Person(
                user.first_name if user.first_name is not None else old.first_name,
                user.last_name if user.last_name is not None else old.last_name,
                user.nick if user.nick is not None else old.nick,
                user.is_bot if user.is_bot is not None else old.is_bot,
            )
    return seen
