"""The export of a scope: its messages page by page, each page in a short transaction of its own.

Only one page is in memory. A reader may take hours or stop reading: no transaction and no snapshot stays open while it
does. So an export is no picture of one moment. Each message is read once, as it is when its page is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vkteams_daemon.search.names import chat_titles, names
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

_PAGE = 1000  # messages
# The first condition follows from the second. It lets the server read the index on sent_at from there on.
_AFTER = (
    "AND m.sent_at >= %(last_time)s::timestamptz AND (m.sent_at, m.chat_id, m.msg_id)"
    " > (%(last_time)s::timestamptz, %(last_chat)s::text, %(last_msg)s::text)"
)
_ABOUT = (
    "m.user_id IS DISTINCT FROM %(about)s AND pg_catalog.strpos(pg_catalog.concat_ws(' ', m.text, m.parts::text),"
    " %(about)s::text) > 0"
)
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
    """The messages of a scope, oldest first; for one reader.

    Args:
        transaction: opens a read-only transaction.
        scope: which messages.
        deleted: whether deleted messages are included.
        about: only messages of others that name, answer or forward this person.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractContextManager[Connection]],
        scope: Scope,
        *,
        deleted: bool = False,
        about: str | None = None,
    ) -> None:
        self._transaction = transaction
        self._scope = scope
        self._parameters = scope.parameters
        self._from = f"FROM messages m WHERE {scope.condition_with_deleted if deleted else scope.condition}"
        if about is not None:
            self._from += f" AND {_ABOUT}"
            self._parameters = {**self._parameters, "about": about}

    def count(self) -> int:
        """How many messages there are."""
        count = f"SELECT count(*) {self._from}"
        with self._transaction() as connection:
            row = connection.execute(count.encode(), self._parameters, prepare=False).fetchone()
        return int(row[0]) if row else 0

    def __iter__(self) -> Iterator[Exported]:
        """The messages."""
        query = f"SELECT {_COLUMNS} {self._from} {_AFTER} ORDER BY m.sent_at, m.chat_id, m.msg_id LIMIT {_PAGE}"
        last: dict[str, Any] = {"last_time": "-infinity", "last_chat": "", "last_msg": ""}
        while True:
            with self._transaction() as connection:
                page = connection.execute(query.encode(), {**self._parameters, **last}, prepare=False).fetchall()
                titles = chat_titles(connection, {row[0] for row in page}, self._scope)
                authors = names(connection, {row[2] for row in page if row[2]}, self._scope)
            for chat_id, msg_id, user_id, *rest in page:
                author = authors.get(user_id, user_id)
                yield Exported(chat_id, titles.get(chat_id), msg_id, user_id, author, *rest)
            if len(page) < _PAGE:
                return
            last = {"last_time": page[-1][3], "last_chat": page[-1][0], "last_msg": page[-1][1]}
