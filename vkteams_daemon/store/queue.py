"""The embedding queue: claiming, finishing and failing work, so that a vector and its queue row change together.

A claim is a row lock (FOR UPDATE SKIP LOCKED) inside the worker's transaction: a worker that dies gives its claims back
at once. The writer never waits for a claim: its ON CONFLICT DO NOTHING does not touch a locked row, and the worker lets
a queue row go only after it has seen, under a share lock, that the message still says what it embedded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pgvector import HalfVector
from pgvector.psycopg import register_vector

from vkteams_daemon.store.database import Connection, translated

Vector = npt.NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class Claim:
    """One queue row that this transaction holds.

    Attributes:
        text: what to embed; None where the message is gone or says nothing.
        version: of the message when it was claimed.
        age: seconds since it was queued.
    """

    chat_id: str
    msg_id: str
    kind: str
    text: str | None
    version: int | None
    attempts: int
    age: float

    @property
    def key(self) -> tuple[str, str]:
        """The message's key."""
        return self.chat_id, self.msg_id


@dataclass(frozen=True, slots=True)
class Embedded:
    """One claim's vectors: a (text hash, halfvec) pair per chunk, in the order of the text."""

    claim: Claim
    chunks: tuple[tuple[bytes, Vector], ...]


def prepare(connection: Connection) -> None:
    """Teach a pooled connection pgvector's types; cheap the second time."""
    with translated():
        if not getattr(connection, "_knows_vectors", False):
            register_vector(connection)
            connection._knows_vectors = True  # type: ignore[attr-defined]  # lives and dies with the connection


def claim(connection: Connection, model_id: int, limit: int) -> list[Claim]:
    """Up to `limit` due rows of this model's queue, the newest first, locked until the transaction ends."""
    rows = connection.execute(
        "SELECT q.chat_id, q.msg_id, q.kind, CASE WHEN m.deleted_at IS NULL THEN m.text END, m.version, q.attempts,"
        " extract(epoch FROM clock_timestamp() - q.enqueued_at)::float8"
        " FROM embedding_queue q LEFT JOIN messages m USING (chat_id, msg_id)"
        " WHERE q.model_id = %s AND q.not_before <= clock_timestamp()"
        " ORDER BY q.enqueued_at DESC LIMIT %s FOR UPDATE OF q SKIP LOCKED",
        (model_id, limit),
    ).fetchall()
    return [Claim(*row) for row in rows]


def known_vectors(connection: Connection, model_id: int, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
    """The vectors that this model has already given to these texts."""
    rows = connection.execute(
        "SELECT DISTINCT ON (text_hash) text_hash, embedding FROM embeddings"
        " WHERE model_id = %s AND text_hash = ANY(%s)",
        (model_id, list(hashes)),
    ).fetchall()
    return {bytes(hash): _numpy(vector) for hash, vector in rows}


def finish(connection: Connection, model_id: int, done: Sequence[Embedded], empty: Sequence[Claim]) -> int:
    """Store the vectors of claims and let their queue rows go, in the claims' own transaction.

    Args:
        connection: the transaction that claimed them.
        model_id: whose vectors these are.
        done: claims with their vectors.
        empty: claims with nothing to embed.

    Returns:
        How many messages were stored. One whose text has changed since keeps its queue row and comes again.
    """
    current = _unchanged(connection, done)
    stored = [item for item in done if item.claim.key in current]
    chats, messages, kinds = _columns([item.claim for item in stored])
    if stored:
        connection.execute(
            "DELETE FROM embeddings e USING unnest(%s::text[], %s::text[], %s::text[]) AS k(chat_id, msg_id, kind)"
            " WHERE e.chat_id = k.chat_id AND e.msg_id = k.msg_id AND e.kind = k.kind AND e.model_id = %s",
            (chats, messages, kinds, model_id),
        )
        # Binary COPY or not at all: vectors as text are ten times slower.
        with connection.cursor().copy(
            "COPY embeddings (chat_id, msg_id, model_id, kind, chunk, text_hash, embedding) FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.set_types(["text", "text", "int4", "text", "int4", "bytea", "halfvec"])
            for item in stored:
                key = (item.claim.chat_id, item.claim.msg_id, model_id, item.claim.kind)
                for chunk, (text_hash, vector) in enumerate(item.chunks):
                    copy.write_row((*key, chunk, text_hash, HalfVector(vector)))
    _dequeue(connection, model_id, [*(item.claim for item in stored), *empty])
    return len(stored)


def fail(connection: Connection, model_id: int, failed: Claim, error: str, *, delay: float, park: bool) -> None:
    """Put a claim off by `delay` seconds, or for good when it is parked; its error stays in the row."""
    connection.execute(
        "UPDATE embedding_queue SET attempts = attempts + 1, last_error = %s, not_before = CASE WHEN %s THEN 'infinity'"
        " ELSE clock_timestamp() + make_interval(secs => %s) END"
        " WHERE chat_id = %s AND msg_id = %s AND model_id = %s AND kind = %s",
        (error[:500], park, delay, failed.chat_id, failed.msg_id, model_id, failed.kind),
    )


def length(connection: Connection, model_id: int) -> int:
    """Rows that wait for this model, parked ones left out."""
    row = connection.execute(
        "SELECT count(*) FROM embedding_queue WHERE model_id = %s AND not_before < 'infinity'", (model_id,)
    ).fetchone()
    return int(row[0]) if row else 0


def _unchanged(connection: Connection, done: Sequence[Embedded]) -> set[tuple[str, str]]:
    """The messages that still say what was embedded, under a share lock; one being edited now counts as changed."""
    if not done:
        return set()
    claims = [item.claim for item in done]
    rows = connection.execute(
        "SELECT m.chat_id, m.msg_id FROM unnest(%s::text[], %s::text[], %s::int[]) AS k(chat_id, msg_id, version)"
        " JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id AND m.version = k.version"
        " WHERE m.deleted_at IS NULL FOR SHARE OF m SKIP LOCKED",
        ([c.chat_id for c in claims], [c.msg_id for c in claims], [c.version for c in claims]),
    ).fetchall()
    return {(row[0], row[1]) for row in rows}


def _dequeue(connection: Connection, model_id: int, claims: Sequence[Claim]) -> None:
    if claims:
        connection.execute(
            "DELETE FROM embedding_queue q USING unnest(%s::text[], %s::text[], %s::text[]) AS k(chat_id, msg_id, kind)"
            " WHERE q.chat_id = k.chat_id AND q.msg_id = k.msg_id AND q.kind = k.kind AND q.model_id = %s",
            (*_columns(claims), model_id),
        )


def _columns(claims: Sequence[Claim]) -> tuple[list[str], list[str], list[str]]:
    return [c.chat_id for c in claims], [c.msg_id for c in claims], [c.kind for c in claims]


def _numpy(vector: Any) -> Vector:
    return np.asarray(vector.to_numpy() if hasattr(vector, "to_numpy") else vector, dtype=np.float16)


def wake_ups(connection: Connection, seconds: float) -> bool:
    """Wait up to `seconds` for the writer's notification; the connection listens from the first call on."""
    with translated():
        connection.execute("LISTEN vkteams_queue")
        return any(True for _ in connection.notifies(timeout=seconds, stop_after=1))
