"""The names of people and the titles of chats.

A confined reader gets what the messages that they may see say: a name that only a hidden chat knows stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vkteams_daemon.botapi import facts
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection


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


def people(connection: Connection, user_ids: Iterable[str], scope: Scope) -> dict[str, Person]:
    """People by user id, as their newest events describe them; of a confined scope, as their newest messages do."""
    ids = list(user_ids)
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
        "SELECT c.chat_id, coalesce(nullif(c.title, ''), p.title) FROM chats c"
        f" LEFT JOIN chats p ON p.chat_id = c.parent_chat_id AND {visible_chat('p.chat_id', scope)}"
        " WHERE c.chat_id = ANY(%(ids)s)".encode(),
        {**scope.parameters, "ids": ids},
    )
    titles = {chat_id: title for chat_id, title in rows if title}
    # A private chat has no title. Its id is the user id of the other person.
    return names(connection, [chat_id for chat_id in ids if chat_id not in titles], scope) | titles


def visible_chat(column: str, scope: Scope) -> str:
    """The condition that a confined reader may know of the chat in this column; its parameters are the scope's."""
    if not scope.confined:
        return "true"
    since = " AND m.sent_at >= %(since)s" if scope.since else ""
    since += f" AND {scope.within_periods()}" if scope.periods else ""
    chats = f"{column} = ANY(%(chat_ids)s) AND " if scope.chat_ids is not None else ""
    return f"{chats}EXISTS (SELECT FROM messages m WHERE m.chat_id = {column}{since})"


def _people_as_seen(connection: Connection, user_ids: list[str], scope: Scope) -> dict[str, Person]:
    """People as the events of their newest messages within the scope describe them; the newest known value wins."""
    rows = connection.execute(
        "SELECT u.user_id, e.type, e.payload, e.received_at"
        " FROM pg_catalog.unnest(%(ids)s::text[]) AS u (user_id)"
        " CROSS JOIN LATERAL (SELECT m.chat_id, m.msg_id FROM messages m"
        f"  WHERE m.user_id = u.user_id AND {scope.population.condition}"
        f"  ORDER BY m.sent_at DESC, m.chat_id, m.msg_id LIMIT {_NEWEST}) AS newest"
        " JOIN events e ON e.chat_id = newest.chat_id AND e.subject = newest.msg_id"
        " WHERE e.user_id = u.user_id AND e.error IS NULL AND e.payload IS NOT NULL"
        " ORDER BY e.received_at, e.bot_id, e.event_id".encode(),
        {**scope.population.parameters, "ids": user_ids},
        prepare=False,
    )
    seen: dict[str, Person] = {}
    for user_id, kind, payload, received_at in rows:
        for user in facts.derive(kind, payload, received_at).users:
            if user.user_id == user_id:
                old = seen.get(user_id, _UNKNOWN)
                seen[user_id] = Person(
                    user.first_name if user.first_name is not None else old.first_name,
                    user.last_name if user.last_name is not None else old.last_name,
                    user.nick if user.nick is not None else old.nick,
                    user.is_bot if user.is_bot is not None else old.is_bot,
                )
    return seen
