"""The rosters: who is in a chat and who runs it, as the API's own lists say, with membership as periods.

What events say of joining and leaving stands in `chat_members`, and is not changed here. Only a complete list ends a
membership, and never over a newer event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row

from vkteams_daemon.store import schema
from vkteams_daemon.store.connections import Connection, translate_errors

_DUE = (
    "SELECT c.chat_id FROM chats c LEFT JOIN rosters r USING (chat_id)"
    " WHERE (r.chat_id IS NULL OR r.tried_at < %(before)s OR (r.tried_at < %(changed_before)s AND EXISTS"
    "  (SELECT FROM chat_members m WHERE m.chat_id = c.chat_id AND greatest(m.joined_at, m.left_at) > r.tried_at)))"
    " AND (%(chats)s::text[] IS NULL OR pg_catalog.lower(c.chat_id) = ANY(%(chats)s)"
    " OR pg_catalog.lower(c.parent_chat_id) = ANY(%(chats)s))"
    " ORDER BY r.tried_at NULLS FIRST, c.seen_at DESC LIMIT 1"
)
_SAVE_CHAT = (
    "INSERT INTO rosters (chat_id, type, title, about, tried_at, read_at, refused)"
    " VALUES (%(chat)s, %(type)s, %(title)s, %(about)s, %(at)s, %(at)s, NULL)"
    " ON CONFLICT (chat_id) DO UPDATE SET type = excluded.type, title = excluded.title, about = excluded.about,"
    " tried_at = excluded.tried_at, read_at = excluded.read_at, refused = NULL"
)
_SAVE_REFUSAL = (
    "INSERT INTO rosters (chat_id, tried_at, refused) VALUES (%(chat)s, %(at)s, %(reason)s)"
    " ON CONFLICT (chat_id) DO UPDATE SET tried_at = excluded.tried_at, refused = excluded.refused"
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


def next_due(
    connection: Connection, before: datetime, chat_ids: list[str] | None, *, changed_before: datetime | None = None
) -> str | None:
    """The chat whose roster was never asked for, or longest ago and before a moment; None if none is due.

    Args:
        connection: in autocommit mode.
        before: the moment.
        chat_ids: only these chats, in lower case, and their threads; None for every chat.
        changed_before: the moment for a chat in which somebody has joined or left since; by default the same.
    """
    parameters = {"before": before, "changed_before": changed_before or before, "chats": chat_ids}
    with translate_errors():
        row = connection.execute(_DUE.encode(), parameters, prepare=False).fetchone()
    return row[0] if row else None


def save(
    connection: Connection,
    chat_id: str,
    at: datetime,
    chat: Mapping[str, str | None],
    members: Mapping[str, str],
) -> None:
    """Store a complete roster, without the people of whom nothing is kept (`database erase --ignore`).

    Args:
        connection: in autocommit mode.
        chat_id: the chat.
        at: when the list was asked for.
        chat: its type, title and about.
        members: the role of each member, by user id.
    """
    parameters: dict[str, Any] = {
        "chat": chat_id, "at": at,
        "type": chat["type"], "title": chat["title"], "about": chat["about"],
    }  # fmt: skip
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        row = connection.execute("SELECT read_at FROM rosters WHERE chat_id = %s FOR UPDATE", (chat_id,)).fetchone()
        ignored = {row[0] for row in connection.execute("SELECT user_id FROM erased_people WHERE ignored").fetchall()}
        if chat_id in ignored:
            return
        kept = {user_id: role for user_id, role in members.items() if user_id not in ignored}
        parameters |= {"users": list(kept), "roles": list(kept.values())}
        parameters["first"] = row is None or row[0] is None
        if row is not None and row[0] is not None and row[0] > at:
            return  # another bot in this chat has read a newer list
        connection.execute(_SAVE_CHAT.encode(), parameters)
        connection.execute(_END.encode(), parameters)
        connection.execute(_BEGIN.encode(), parameters)


def save_refusal(connection: Connection, chat_id: str, at: datetime, reason: str) -> None:
    """Store why a chat has no new roster. The members that are known stay."""
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        connection.execute(_SAVE_REFUSAL.encode(), {"chat": chat_id, "at": at, "reason": reason})


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
