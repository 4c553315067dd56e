"""What the archive holds about one person beside their messages, for an export.

Each record is read in a page or a statement of its own, as in `search.history.export`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from vkteams_daemon.search.history.export import Export
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

Kind = Literal["name", "version", "membership", "roster", "event", "mention"]

_PAGE = 1000
# The rows of one kind as JSON, in pages by their place in the order.
_ROWS: dict[Kind, str] = {
    "name": "SELECT pg_catalog.to_jsonb(t) AS record, ''::text AS place FROM users t WHERE t.user_id = %(person)s",
    "version": (
        "SELECT pg_catalog.to_jsonb(t), pg_catalog.concat_ws(' ', t.chat_id, t.msg_id, pg_catalog.lpad("
        "t.version::text, 9, '0')) FROM message_versions t JOIN messages m USING (chat_id, msg_id) WHERE {scope}"
    ),
    "membership": (
        "SELECT pg_catalog.to_jsonb(t), pg_catalog.concat_ws(' ', t.chat_id, t.user_id) FROM chat_members t"
        " WHERE %(person)s IN (t.user_id, t.added_by, t.removed_by) AND {chats}"
    ),
    "roster": (
        "SELECT pg_catalog.to_jsonb(t), pg_catalog.concat_ws(' ', t.chat_id, t.since::text) FROM roster_members t"
        " WHERE t.user_id = %(person)s AND {chats}"
    ),
    # What they did beside writing: buttons that they have pressed, and any other event whose author they are.
    "event": (
        "SELECT pg_catalog.to_jsonb(t) - 'raw', pg_catalog.concat_ws(' ', t.bot_id, t.generation::text,"
        " pg_catalog.lpad(t.event_id::text, 20, '0')) FROM events t WHERE t.user_id = %(person)s AND t.type <> ALL"
        " ('{{newMessage,editedMessage,deletedMessage,pinnedMessage,unpinnedMessage}}') AND {chats}"
    ),
}


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """Something about a person: a row of the table that the kind stands for, or a message that names them."""

    kind: Kind
    record: Any


class PersonRecords:
    """Everything about a person but their messages.

    Args:
        transaction: opens a read-only transaction.
        user_id: the person.
        scope: the chats and the time; its author is the person.
    """

    def __init__(
        self, transaction: Callable[[], AbstractContextManager[Connection]], user_id: str, scope: Scope
    ) -> None:
        self._transaction = transaction
        self._user_id = user_id
        self._scope = scope

    def __iter__(self) -> Iterator[PersonRecord]:
        """The records, by kind."""
        chats = "true" if self._scope.chat_ids is None else "t.chat_id = ANY(%(chat_ids)s)"
        for kind, statement in _ROWS.items():
            rows = statement.format(scope=self._scope.condition_with_deleted, chats=chats)
            query = f"SELECT record, place FROM ({rows}) AS r (record, place) WHERE place > %(last)s OR %(first)s"
            last, first = "", True
            while True:
                parameters = {**self._scope.parameters, "person": self._user_id, "last": last, "first": first}
                with self._transaction() as connection:
                    page = connection.execute(
                        f"{query} ORDER BY place LIMIT {_PAGE}".encode(), parameters, prepare=False
                    ).fetchall()
                for record, _ in page:
                    yield PersonRecord(kind, record)
                if len(page) < _PAGE:
                    break
                last, first = page[-1][1], False
        scope = Scope(self._scope.chat_ids, since=self._scope.since, until=self._scope.until)
        for message in Export(self._transaction, scope, deleted=True, about=self._user_id):
            yield PersonRecord("mention", message)
