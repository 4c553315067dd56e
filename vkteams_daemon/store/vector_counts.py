"""Keeps the counts of vectors and of the messages that have some, by chat and model.

Code that stores or deletes vectors tells `VectorCountChanges` of each, in the same transaction. Workers hold no locks
of chats, so a count is the sum of several rows, its parts: a transaction changes a part that no other one has locked,
or adds a part. So nobody waits for a count, and it takes part in no deadlock. There are never more parts than
transactions that have worked in the chat at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import psycopg

from vkteams_daemon.store import schema
from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection

DELETED = "RETURNING e.chat_id, e.model_id, e.kind = 'message' AND e.chunk = 0"
"""Ends a statement that deletes from `embeddings AS e`; its rows are for `VectorCountChanges.deleted`."""

COUNTED = (
    "SELECT chat_id, model_id, count(*) FILTER (WHERE kind = 'message' AND chunk = 0) AS messages,"
    " count(*) AS vectors FROM embeddings GROUP BY chat_id, model_id"
)
"""Counts the vectors."""

_KEY = (("chat_id", "text"), ("model_id", "int4"), ("part", "int8"))
_PARTS = ColumnSet(_KEY)
_CHANGES = ColumnSet((*_KEY, ("messages", "int8"), ("vectors", "int8")))
# Chat by chat: rows of several machines cannot be locked in one statement.
_FREE_PART = (
    "SELECT part, messages, vectors FROM chat_vector_counts WHERE chat_id = %s AND model_id = %s"
    " ORDER BY part LIMIT 1 FOR UPDATE SKIP LOCKED"
)
_SAVE = (
    "INSERT INTO chat_vector_counts AS c (chat_id, model_id, part, messages, vectors)"
    " SELECT chat_id, model_id, part, messages, vectors FROM {incoming} ON CONFLICT (chat_id, model_id, part)"
    " DO UPDATE SET messages = c.messages + excluded.messages, vectors = c.vectors + excluded.vectors"
)
_DELETE = (
    "DELETE FROM chat_vector_counts c USING {incoming} WHERE c.chat_id = incoming.chat_id"
    " AND c.model_id = incoming.model_id AND c.part = incoming.part"
)
_RECOUNTED = COUNTED.replace("FROM embeddings", "FROM embeddings WHERE chat_id = %s")
_TRIES = 20  # of a recount that a worker has disturbed


class VectorCountChanges:
    """Adds up how the counts change within a transaction."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, int], list[int]] = {}  # by chat and model: messages, vectors

    def stored(self, chat_id: str, model_id: int, vectors: int) -> None:
        """Count a message that has got so many vectors."""
        if vectors:
            self._add(chat_id, model_id, 1, vectors)

    def deleted(self, rows: Iterable[tuple[str, int, bool]]) -> None:
        """Count these vectors no longer; the rows are those of `DELETED`."""
        for chat_id, model_id, is_first in rows:
            self._add(chat_id, model_id, -int(is_first), -1)

    def save(self, connection: Connection) -> None:
        """Change the stored counts; in a transaction, in pipeline mode or not."""
        changes = {key: change for key, change in sorted(self._changes.items()) if any(change)}
        self._changes = {}
        if not changes:
            return
        with connection.pipeline():
            locked = {key: connection.execute(_FREE_PART.encode(), key) for key in changes}
            parts = {key: cursor.fetchone() for key, cursor in locked.items()}
        rows, empty = [], []
        for key, (messages, vectors) in changes.items():
            part, *counts = parts[key] or (_new_part(), 0, 0)
            if counts == [-messages, -vectors]:
                empty.append((*key, part))
            else:
                rows.append((*key, part, messages, vectors))
        if rows:
            _CHANGES.execute(connection, _SAVE, rows)
        if empty:
            _PARTS.execute(connection, _DELETE, empty)

    def _add(self, chat_id: str, model_id: int, messages: int, vectors: int) -> None:
        change = self._changes.setdefault((chat_id, model_id), [0, 0])
        change[0] += messages
        change[1] += vectors


def recount(connection: Connection, chat_id: str) -> None:
    """Count the vectors of a chat again.

    Args:
        connection: in autocommit mode.
        chat_id: the chat; it need not be locked.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            _recount(connection, chat_id)
            return
        except psycopg.errors.SerializationFailure:
            if not tries_left:
                raise


def _recount(connection: Connection, chat_id: str) -> None:
    # One snapshot for the vectors and for the parts that counted them. The server refuses to delete a part that a
    # worker has changed since. A part that a worker has added since is not seen, and nor are its vectors.
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        schema.fence(connection)
        counted = connection.execute(_RECOUNTED.encode(), (chat_id,)).fetchall()
        connection.execute("DELETE FROM chat_vector_counts WHERE chat_id = %s", (chat_id,))
        if counted:
            _CHANGES.execute(connection, _SAVE, [(*row[:2], _new_part(), *row[2:]) for row in counted])


def _new_part() -> int:
    """A number that no other transaction takes meanwhile."""
    return random.getrandbits(62)
