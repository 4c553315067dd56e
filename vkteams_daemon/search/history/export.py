"""The export of a scope: its messages through a server-side cursor, so that only one page of them is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vkteams_daemon.search.names import chat_titles, names
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

_PAGE = 1000  # messages
_COLUMNS = (
    "m.chat_id, m.msg_id, m.user_id, m.sent_at, m.edited_at, m.deleted_at, m.pinned_at, m.version, m.text, m.format,"
    " m.parts, m.reply_to_msg_id, m.forward, m.thread"
)


@dataclass(frozen=True, slots=True)
class Exported:
    """A row of the table `messages` (docs/schema.md), with the chat's title and the author's name."""

    chat_id: str
    chat_title: str | None
    msg_id: str
    user_id: str | None
    author: str | None
    sent_at: datetime
    edited_at: datetime | None
    deleted_at: datetime | None
    pinned_at: datetime | None
    version: int
    text: str | None
    format: Any
    parts: Any
    reply_to_msg_id: str | None
    forward: Any
    thread: Any


class Export:
    """The messages of a scope, oldest first; for one reader, inside one transaction.

    Args:
        connection: inside a transaction that sees one state of the archive.
        scope: which messages.
        deleted: whether deleted messages are included.
    """

    def __init__(self, connection: Connection, scope: Scope, *, deleted: bool = False) -> None:
        self._connection = connection
        self._parameters = scope.parameters
        self._from = f"FROM messages m WHERE {scope.condition_with_deleted if deleted else scope.condition}"

    def count(self) -> int:
        """How many messages there are."""
        count = f"SELECT count(*) {self._from}"
        row = self._connection.execute(count.encode(), self._parameters, prepare=False).fetchone()
        return int(row[0]) if row else 0

    def __iter__(self) -> Iterator[Exported]:
        """The messages."""
        with self._connection.cursor(name="export") as cursor:
            cursor.itersize = _PAGE
            cursor.execute(
                f"SELECT {_COLUMNS} {self._from} ORDER BY m.sent_at, m.chat_id, m.msg_id".encode(), self._parameters
            )
            while page := cursor.fetchmany(_PAGE):
                titles = chat_titles(self._connection, {row[0] for row in page})
                authors = names(self._connection, {row[2] for row in page if row[2]})
                for chat_id, msg_id, user_id, *rest in page:
                    author = authors.get(user_id, user_id)
                    yield Exported(chat_id, titles.get(chat_id), msg_id, user_id, author, *rest)
