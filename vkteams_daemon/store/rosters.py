"""The rosters: who is in a chat and who runs it, as the API's own lists say, with membership as periods.

What events say of joining and leaving stands in `chat_members`, and is not changed here. Only a complete list ends a
membership, and never over a newer event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import class_row

from vkteams_daemon.botapi.values import fold_id
from vkteams_daemon.store import schema
from vkteams_daemon.store.connections import Connection, translate_errors

# A chat belongs to the bot that has read it, until that bot is late. A chat that was refused to
# one bot is due for each other one. Of an ignored person's private chat no roster is kept.
_DUE = (
    "SELECT c.chat_id, coalesce(r.type, c.type) = 'private' AS private, (SELECT count(*) FROM roster_members m"
    "  WHERE m.chat_id = c.chat_id AND m.until IS NULL) AS members"
    " FROM chats c LEFT JOIN rosters r USING (chat_id)"
    " WHERE (r.chat_id IS NULL OR (r.refused IS NOT NULL AND %(bot)s::text <> ALL(r.refused_to))"
    "  OR ((r.refused IS NOT NULL OR coalesce(r.read_by = %(bot)s::text, true) OR r.tried_at < %(others_before)s)"
    "   AND (r.tried_at < %(before)s OR (r.tried_at < %(changed_before)s AND EXISTS"
    "    (SELECT FROM chat_members m WHERE m.chat_id = c.chat_id"
    "     AND greatest(m.joined_at, m.left_at) > r.tried_at)))))"
    " AND NOT EXISTS (SELECT FROM erased_people p WHERE p.ignored AND (p.user_id = c.chat_id"
    "  OR (pg_catalog.strpos(p.user_id, '@'::text) > 0 AND pg_catalog.lower(p.user_id) = pg_catalog.lower(c.chat_id))))"
    " AND (%(chats)s::text[] IS NULL OR pg_catalog.lower(c.chat_id) = ANY(%(chats)s)"
    " OR pg_catalog.lower(c.parent_chat_id) = ANY(%(chats)s))"
    " ORDER BY r.tried_at NULLS FIRST, c.seen_at DESC LIMIT %(limit)s"
)
# Two who read the first list at the same time take turns.
_BEGIN_CHAT = "INSERT INTO rosters (chat_id, tried_at) VALUES (%(chat)s, %(at)s) ON CONFLICT DO NOTHING"
_SAVE_CHAT = (
    "UPDATE rosters SET type = %(type)s, title = %(title)s, about = %(about)s, tried_at = %(at)s, read_at = %(at)s,"
    " read_by = %(bot)s, refused = NULL, refused_to = '{}' WHERE chat_id = %(chat)s"
)
_SAVE_REFUSAL = (
    "INSERT INTO rosters AS r (chat_id, tried_at, refused, refused_to)"
    " VALUES (%(chat)s, %(at)s, %(reason)s, ARRAY[%(bot)s::text])"
    " ON CONFLICT (chat_id) DO UPDATE SET tried_at = excluded.tried_at, refused = excluded.refused,"
    # The second refusal to a bot begins a new round, in which the others ask again.
    " refused_to = CASE WHEN %(bot)s::text = ANY(r.refused_to) THEN excluded.refused_to"
    "  ELSE r.refused_to OPERATOR(pg_catalog.||) excluded.refused_to END"
)
# Somebody who joined after the list was asked for may be missing in it.
_END = (
    "UPDATE roster_members r SET until = greatest(r.since, coalesce("
    "  (SELECT m.left_at FROM chat_members m WHERE m.chat_id = r.chat_id AND m.user_id = r.user_id"
    "   AND m.left_at >= r.since AND m.left_at <= %(at)s), %(at)s))"
    " WHERE r.chat_id = %(chat)s AND r.until IS NULL AND NOT r.user_id = ANY(%(users)s::text[])"
    " AND NOT EXISTS (SELECT FROM chat_members m WHERE m.chat_id = r.chat_id AND m.user_id = r.user_id"
    "  AND m.joined_at >= %(at)s AND m.left_at IS NULL)"
)
# The members in the first list were members before, for a time that nobody knows. A new member of a later list joined
# when an event says so, or at the latest when the list was asked for.
_BEGIN = (
    "INSERT INTO roster_members (chat_id, user_id, since, role)"
    " SELECT %(chat)s, l.user_id, greatest(coalesce("
    "  (SELECT m.joined_at FROM chat_members m WHERE m.chat_id = %(chat)s AND m.user_id = l.user_id"
    "   AND m.left_at IS NULL AND m.joined_at <= %(at)s),"
    "  CASE WHEN %(first)s THEN '-infinity'::timestamptz ELSE %(at)s END),"
    "  (SELECT pg_catalog.max(r.until) FROM roster_members r WHERE r.chat_id = %(chat)s AND r.user_id = l.user_id)),"
    " l.role"
    " FROM unnest(%(users)s::text[], %(roles)s::text[]) AS l (user_id, role)"
    " ON CONFLICT (chat_id, user_id) WHERE until IS NULL DO UPDATE SET role = excluded.role"
    " WHERE roster_members.role <> excluded.role"
)


@dataclass(frozen=True, slots=True)
class Roster:
    """What is known of a chat's roster.

    Attributes:
        tried_at: when the API was asked last.
        read_at: when a complete list was read last; None if that never worked.
        refused: why the last attempt failed; None if it worked.
        members: present members.
    """

    chat_id: str
    tried_at: datetime
    read_at: datetime | None
    refused: str | None
    members: int


@dataclass(frozen=True, slots=True)
class DueRoster:
    """A chat whose roster is due.

    Attributes:
        private: whether it is a private chat; None if its type is unknown.
        members: present members by the last list.
    """

    chat_id: str
    private: bool | None
    members: int


def list_due(
    connection: Connection,
    before: datetime,
    chat_ids: list[str] | None,
    *,
    bot_id: str,
    changed_before: datetime | None = None,
    others_before: datetime | None = None,
    limit: int | None = None,
) -> list[DueRoster]:
    """The chats whose roster this bot has to read: those never asked for, then those asked for longest ago.

    Args:
        connection: in autocommit mode.
        before: what was asked for before this moment is due.
        chat_ids: only these chats, in lower case, and their threads; None for every chat.
        bot_id: the bot that will ask.
        changed_before: the moment for a chat in which somebody has joined or left since; by default the same.
        others_before: the moment for a chat that another bot has read; by default a day before `before`.
        limit: the most chats.
    """
    parameters = {
        "before": before, "changed_before": changed_before or before,
        "others_before": others_before or before - timedelta(days=1),
        "chats": chat_ids, "bot": bot_id, "limit": limit,
    }  # fmt: skip
    with translate_errors(), connection.cursor(row_factory=class_row(DueRoster)) as cursor:
        return cursor.execute(_DUE.encode(), parameters, prepare=False).fetchall()


def save(
    connection: Connection,
    chat_id: str,
    at: datetime,
    chat: Mapping[str, str | None],
    members: Mapping[str, str],
    *,
    bot_id: str,
) -> None:
    """Store a complete roster, without the people of whom nothing is kept (`database erase --ignore`).

    Args:
        connection: in autocommit mode.
        chat_id: the chat.
        at: when the list was asked for.
        chat: its type, title and about.
        members: the role of each member, by user id.
        bot_id: the bot that has asked.
    """
    parameters: dict[str, Any] = {
        "chat": chat_id, "at": at, "bot": bot_id,
        "type": chat["type"], "title": chat["title"], "about": chat["about"],
    }  # fmt: skip
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        rows = connection.execute("SELECT user_id FROM erased_people WHERE ignored").fetchall()
        ignored = {fold_id(user_id) for (user_id,) in rows}
        if fold_id(chat_id) in ignored:
            return
        connection.execute(_BEGIN_CHAT.encode(), parameters)
        row = connection.execute("SELECT read_at FROM rosters WHERE chat_id = %s FOR UPDATE", (chat_id,)).fetchone()
        read_at = row[0] if row else None
        if read_at is not None and read_at > at:
            return  # somebody else has read a newer list
        kept = {user_id: role for user_id, role in members.items() if fold_id(user_id) not in ignored}
        parameters |= {"users": list(kept), "roles": list(kept.values()), "first": read_at is None}
        connection.execute(_SAVE_CHAT.encode(), parameters)
        connection.execute(_END.encode(), parameters)
        connection.execute(_BEGIN.encode(), parameters)


def save_refusal(connection: Connection, chat_id: str, at: datetime, reason: str, *, bot_id: str) -> None:
    """Store why this bot got no new roster of a chat. The members that are known stay."""
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        connection.execute(_SAVE_REFUSAL.encode(), {"chat": chat_id, "at": at, "reason": reason, "bot": bot_id})


def list_rosters(connection: Connection, chat_ids: list[str] | None = None) -> list[Roster]:
    """What is known of each chat's roster; None means every chat that has one."""
    with translate_errors(), connection.cursor(row_factory=class_row(Roster)) as cursor:
        cursor.execute(
            "SELECT r.chat_id, r.tried_at, r.read_at, r.refused, (SELECT count(*) FROM roster_members m"
            " WHERE m.chat_id = r.chat_id AND m.until IS NULL) AS members FROM rosters r"
            " WHERE %(chats)s::text[] IS NULL OR r.chat_id = ANY(%(chats)s) ORDER BY r.chat_id",
            {"chats": chat_ids},
        )
        return cursor.fetchall()
