"""The embedding queue: claiming and finishing work, so that a vector and its queue row change together.

A claim is a row lock (FOR UPDATE SKIP LOCKED) inside the worker's transaction: a worker that dies gives its claims back
at once. The writer never waits for a claim: what it adds does nothing where it meets the locked row, what it takes away
passes it by. In return the worker lets a queue row go, or puts it off, only after it has seen, under a share lock that
it holds for a moment, that the message still says what it claimed; otherwise the row stays due and comes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pgvector import HalfVector
from pgvector.psycopg import register_vector

from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import projection

Vector = npt.NDArray[np.float16]

# A worker that was stopped (SIGSTOP, a suspended machine) gives its claims back after this time; a round takes seconds.
_SESSION = "SET idle_in_transaction_session_timeout = '10min'"
# A plan made while a table is empty, as the queue often is, scans all of it for every key, and would be kept for as
# long as nobody counts the table anew; a new plan looks at its size.
_PLANNING = "SET LOCAL plan_cache_mode = force_custom_plan"
# But a foreign key is looked up for every row that is added: one new plan will do for all of them.
_PLANNING_ONCE = "DISCARD PLANS; SET LOCAL plan_cache_mode = force_generic_plan"


@dataclass(frozen=True, slots=True)
class Claim:
    """One queue row that this transaction holds.

    Attributes:
        text: what to embed; None where the message is gone or deleted.
        age: seconds since the writer queued it; None where it was tried before or queued for a new model.
    """

    chat_id: str
    msg_id: str
    kind: str
    text: str | None
    attempts: int
    age: float | None

    @property
    def key(self) -> tuple[str, str]:
        """The message's key."""
        return self.chat_id, self.msg_id


@dataclass(frozen=True, slots=True)
class EmbeddingResult:
    """One claim's vectors: a (text hash, halfvec) pair per chunk, in the order of the text; none without a token."""

    claim: Claim
    chunks: tuple[tuple[bytes, Vector], ...]


@dataclass(frozen=True, slots=True)
class EmbeddingFailure:
    """One claim that has no vectors, and why; tried again after `delay` seconds, or parked where that is None."""

    claim: Claim
    error: str
    delay: float | None


@dataclass(frozen=True, slots=True)
class ParkedText:
    """A text that failed too often and is not tried again until it is edited or `retry` is called."""

    chat_id: str
    msg_id: str
    model: str
    attempts: int
    error: str | None
    enqueued_at: datetime


def prepare_connection(connection: Connection) -> None:
    """Ready a pooled connection for claims and vectors; cheap the second time."""
    with translate_errors():
        if not getattr(connection, "_knows_vectors", False):
            register_vector(connection)
            connection.execute(_SESSION)
            connection._knows_vectors = True  # type: ignore[attr-defined]  # lives and dies with the connection


def claim(connection: Connection, model_id: int, limit: int) -> list[Claim]:
    """Up to `limit` due rows of this model's queue, the newest first, locked until the transaction ends."""
    connection.execute(_PLANNING)
    rows = connection.execute(
        "SELECT q.chat_id, q.msg_id, q.kind,"
        " CASE WHEN m.chat_id IS NOT NULL AND m.deleted_at IS NULL THEN coalesce(m.text, '') END, q.attempts,"
        " CASE WHEN q.not_before = '-infinity' THEN extract(epoch FROM clock_timestamp() - q.enqueued_at)::float8 END"
        " FROM embedding_queue q LEFT JOIN messages m USING (chat_id, msg_id)"
        " WHERE q.model_id = %s AND q.not_before <= clock_timestamp()"
        " ORDER BY q.enqueued_at DESC LIMIT %s FOR UPDATE OF q SKIP LOCKED",
        (model_id, limit),
    ).fetchall()
    return [Claim(*row) for row in rows]


def stored_vectors(connection: Connection, model_id: int, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
    """The vectors that this model has already given to these texts."""
    # One row of each: a word that was said ten thousand times has as many.
    rows = (
        connection.cursor(binary=True)
        .execute(
            "SELECT k.text_hash, e.embedding FROM unnest(%b::bytea[]) AS k (text_hash) CROSS JOIN LATERAL"
            " (SELECT embedding FROM embeddings e WHERE e.model_id = %s AND e.text_hash = k.text_hash LIMIT 1) AS e",
            (list(hashes), model_id),
        )
        .fetchall()
    )
    return {bytes(text_hash): _numpy(vector) for text_hash, vector in rows}


def finish(
    connection: Connection, model_id: int, done: Sequence[EmbeddingResult], failed: Sequence[EmbeddingFailure] = ()
) -> int:
    """Store vectors and let their queue rows go, and put off what failed, in the claims' own transaction.

    Args:
        connection: the transaction that claimed them.
        model_id: whose vectors these are.
        done: claims with their vectors; one whose message is gone has none.
        failed: claims without.

    Returns:
        How many messages were stored. One whose text has changed since keeps its queue row and comes again.
    """
    claims = [*(item.claim for item in done), *(item.claim for item in failed)]
    # Keeping the index takes a while, and the writer may want to edit what is being stored: until that is done, the
    # rows are only kept from being removed. Whose text has changed by then loses its vectors again.
    there = _unchanged(connection, claims, "KEY SHARE")
    stored = [item for item in done if item.claim.key in there]
    _drop_vectors(connection, model_id, [item.claim for item in stored])
    _copy(connection, model_id, stored)
    current = _unchanged(connection, [claim for claim in claims if claim.key in there], "SHARE")
    _drop_vectors(connection, model_id, [item.claim for item in stored if item.claim.key not in current])
    stored = [item for item in stored if item.claim.key in current]
    for item in failed:
        if item.claim.key in current:
            _put_off(connection, model_id, item)
    gone = _gone(connection, [claim for claim in claims if claim.text is None])
    _dequeue(connection, model_id, [*(item.claim for item in stored), *gone])
    changed = [claim for claim in claims if claim.text is not None and claim.key not in current]
    _start_over(connection, model_id, [claim for claim in changed if claim.attempts])
    return len(stored)


def length(connection: Connection, model_id: int) -> int:
    """ColumnSet that wait for this model, parked ones left out."""
    row = connection.execute(
        "SELECT count(*) FROM embedding_queue WHERE model_id = %s AND not_before < 'infinity'", (model_id,)
    ).fetchone()
    return int(row[0]) if row else 0


def parked(connection: Connection, *, limit: int = 20) -> list[ParkedText]:
    """The parked texts of models in use, the newest first."""
    with translate_errors():
        rows = connection.execute(
            "SELECT q.chat_id, q.msg_id, m.name, q.attempts, q.last_error, q.enqueued_at"
            " FROM embedding_queue q JOIN embedding_models m USING (model_id)"
            " WHERE q.not_before = 'infinity' AND m.state <> 'retired' ORDER BY q.enqueued_at DESC LIMIT %s",
            (limit,),
        ).fetchall()
    return [ParkedText(*row) for row in rows]


def retry(connection: Connection) -> int:
    """Make every parked text due again, as if it had never been tried; returns how many there were."""
    with translate_errors(), connection.transaction():
        count = connection.execute(
            "UPDATE embedding_queue SET attempts = 0, not_before = clock_timestamp(), last_error = NULL"
            " WHERE not_before = 'infinity'"
        ).rowcount
        connection.execute("SELECT pg_notify('vkteams_queue', '')")
    return count


def wait_for_notify(connection: Connection, seconds: float) -> bool:
    """Wait up to `seconds` for the writer's notification; the connection listens from the first call on."""
    with translate_errors():
        connection.execute("LISTEN vkteams_queue")
        return any(True for _ in connection.notifies(timeout=seconds, stop_after=1))


def _unchanged(
    connection: Connection, claims: Sequence[Claim], lock: Literal["KEY SHARE", "SHARE"]
) -> set[tuple[str, str]]:
    """The messages that still say what was claimed, locked; one that another transaction keeps locked has changed.

    Against the writer's edits and deletions only SHARE is a lock.
    """
    there = [claim for claim in claims if claim.text is not None]
    if not there:
        return set()
    rows = connection.execute(
        "SELECT k.place FROM unnest(%b::text[], %b::text[], %b::text[]) WITH ORDINALITY"
        " AS k(chat_id, msg_id, text, place)"
        " JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id AND coalesce(m.text, '') = k.text"
        f" WHERE m.deleted_at IS NULL FOR {lock} OF m SKIP LOCKED".encode(),
        ([c.chat_id for c in there], [c.msg_id for c in there], [c.text for c in there]),
    ).fetchall()
    return {there[place - 1].key for (place,) in rows}


def _gone(connection: Connection, claims: Sequence[Claim]) -> list[Claim]:
    """Those whose message is still not there, and is not being written now; it may come back as long as they wait."""
    if not claims:
        return []
    # Whoever writes to a chat holds its lock until that is committed, and is seen by whoever has the lock after that.
    free = projection.try_lock_chats(connection, {claim.chat_id for claim in claims})
    rows = connection.execute(
        "SELECT k.place FROM unnest(%b::text[], %b::text[]) WITH ORDINALITY AS k(chat_id, msg_id, place)"
        " WHERE NOT EXISTS (SELECT FROM messages m WHERE m.chat_id = k.chat_id AND m.msg_id = k.msg_id"
        " AND m.deleted_at IS NULL)",
        ([c.chat_id for c in claims], [c.msg_id for c in claims]),
    ).fetchall()
    return [claim for (place,) in rows if (claim := claims[place - 1]).chat_id in free]


_KEYS = "unnest(%b::text[], %b::text[], %b::text[]) AS k(chat_id, msg_id, kind)"
_THESE = "t.chat_id = k.chat_id AND t.msg_id = k.msg_id AND t.kind = k.kind AND t.model_id = %s"


def _drop_vectors(connection: Connection, model_id: int, claims: Sequence[Claim]) -> None:
    if claims:
        connection.execute(
            f"DELETE FROM embeddings t USING {_KEYS} WHERE {_THESE}".encode(), (*_columns(claims), model_id)
        )


def _dequeue(connection: Connection, model_id: int, claims: Sequence[Claim]) -> None:
    if claims:
        connection.execute(
            f"DELETE FROM embedding_queue t USING {_KEYS} WHERE {_THESE}".encode(), (*_columns(claims), model_id)
        )


def _start_over(connection: Connection, model_id: int, claims: Sequence[Claim]) -> None:
    """What the message says now has never been tried."""
    if claims:
        connection.execute(
            "UPDATE embedding_queue t SET attempts = 0, not_before = '-infinity', last_error = NULL"
            f" FROM {_KEYS} WHERE {_THESE}".encode(),
            (*_columns(claims), model_id),
        )


def _put_off(connection: Connection, model_id: int, failed: EmbeddingFailure) -> None:
    claim = failed.claim
    if failed.delay is None:
        _drop_vectors(connection, model_id, [claim])  # of what the message said before
    connection.execute(
        "UPDATE embedding_queue SET attempts = attempts + 1, last_error = %s,"
        " not_before = coalesce(clock_timestamp() + make_interval(secs => %s), 'infinity')"
        " WHERE chat_id = %s AND msg_id = %s AND model_id = %s AND kind = %s",
        (failed.error[:500], failed.delay, claim.chat_id, claim.msg_id, model_id, claim.kind),
    )


def _copy(connection: Connection, model_id: int, stored: Sequence[EmbeddingResult]) -> None:
    if not stored:
        return
    connection.execute(_PLANNING_ONCE)
    # Binary COPY or not at all: vectors as text are ten times slower.
    with connection.cursor().copy(
        "COPY embeddings (chat_id, msg_id, model_id, kind, chunk, text_hash, embedding) FROM STDIN (FORMAT BINARY)"
    ) as copy:
        copy.set_types(["text", "text", "int4", "text", "int4", "bytea", "halfvec"])
        for item in stored:
            key = (item.claim.chat_id, item.claim.msg_id, model_id, item.claim.kind)
            for chunk, (text_hash, vector) in enumerate(item.chunks):
                copy.write_row((*key, chunk, text_hash, HalfVector(vector)))
    connection.execute(_PLANNING)


def _columns(claims: Sequence[Claim]) -> tuple[list[str], list[str], list[str]]:
    return [c.chat_id for c in claims], [c.msg_id for c in claims], [c.kind for c in claims]


def _numpy(vector: Any) -> Vector:
    return np.asarray(vector.to_numpy() if hasattr(vector, "to_numpy") else vector, dtype=np.float16)
