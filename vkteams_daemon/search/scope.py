"""What a search may look at: chats, an author, a span of time; deleted messages never."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.errors import NotFound


@dataclass(frozen=True, slots=True)
class Scope:
    """The filters of one search, as one piece of SQL.

    Attributes:
        chat_ids: only these chats; None is every chat, an empty collection is none at all.
        user_id: only this author.
        since: from this moment on (aware).
        until: up to, and not including, this moment (aware).
        arrived: only what had arrived by this moment (aware): the further pages of an answer.
        without: a tsquery that no message may match; "" excludes nothing.
    """

    chat_ids: Collection[str] | None = None
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    arrived: datetime | None = None
    without: str = ""

    @property
    def narrows(self) -> bool:
        """Whether anything is filtered that may leave little."""
        return not (self.chat_ids is None and self.user_id is None and self.since is None and self.until is None)

    @property
    def condition(self) -> str:
        """The condition on `messages AS m`; its parameters are `parameters`."""
        return " AND ".join(["m.deleted_at IS NULL", *self._filters])

    @property
    def condition_with_deleted(self) -> str:
        """The same condition for who wants the deleted messages too: an export, where it is told to."""
        return " AND ".join(self._filters) or "true"

    @property
    def _filters(self) -> list[str]:
        parts = []
        if self.chat_ids is not None:
            parts.append("m.chat_id = ANY(%(chat_ids)s)")
        if self.user_id is not None:
            parts.append("m.user_id = %(user_id)s")
        if self.since is not None:
            parts.append("m.sent_at >= %(since)s")
        if self.until is not None:
            parts.append("m.sent_at < %(until)s")
        if self.arrived is not None:
            parts.append("m.received_at <= %(arrived)s")
        if self.without:
            parts.append("NOT m.search @@ %(without)s::tsquery")
        return parts

    @property
    def parameters(self) -> dict[str, Any]:
        """The values that `condition` names."""
        return {
            "chat_ids": None if self.chat_ids is None else sorted(self.chat_ids),
            "user_id": self.user_id,
            "since": self.since,
            "until": self.until,
            "arrived": self.arrived,
            "without": self.without,
        }


def with_threads(connection: psycopg.Connection[Any], chat_ids: Collection[str]) -> list[str]:
    """These chats, and the threads that hang on their messages: a thread is a chat of its own."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT chat_id FROM unnest(%(chats)s::text[]) AS c (chat_id)"
            " UNION SELECT chat_id FROM chats WHERE parent_chat_id = ANY(%(chats)s) ORDER BY 1",
            {"chats": sorted(chat_ids)},
        )
        return [chat_id for (chat_id,) in cursor]


def existing(
    connection: psycopg.Connection[Any], chat_ids: Collection[str] | None, *, threads: bool, user_id: str | None = None
) -> list[str] | None:
    """These chats, as somebody has named them, and with `threads` those that hang on their messages; None stays None.

    Raises:
        NotFound: of one of them, or of the person, nothing has ever been seen; the answer would look like that of a
            quiet one.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT WHERE %(user)s::text IS NOT NULL AND NOT EXISTS (SELECT FROM users WHERE user_id = %(user)s)"
            " AND NOT EXISTS (SELECT FROM messages WHERE user_id = %(user)s)",
            {"user": user_id},
        )
        if cursor.fetchone() is not None:
            raise NotFound(
                f"the archive has no user {user_id}",
                hint="`vkteamsctl context users` and the tool list_users name those it has.",
            )
        if chat_ids is None:
            return None
        cursor.execute(
            "SELECT chat_id FROM unnest(%s::text[]) AS c (chat_id) WHERE NOT EXISTS (SELECT FROM chats"
            " WHERE chats.chat_id = c.chat_id) AND NOT EXISTS (SELECT FROM messages m WHERE m.chat_id = c.chat_id)",
            (list(chat_ids),),
        )
        for (chat_id,) in cursor:
            raise NotFound(
                f"the archive has no chat {chat_id}",
                hint="`vkteamsctl context chats` and the tool list_chats name those it has.",
            )
    return with_threads(connection, chat_ids) if threads else list(chat_ids)
