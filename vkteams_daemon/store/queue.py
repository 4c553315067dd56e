"""The embedding queue: workers claim rows, store vectors and remove the rows, in one transaction.

A claim is a row lock (FOR UPDATE SKIP LOCKED) in the worker's transaction, so the claims of a worker that dies are free
at once. The writer never waits for a claim: an insert that conflicts with a claimed row does nothing, and a delete
skips it. In return the worker checks, under a share lock that it holds for a moment, that the message still has the
claimed text. Only then it removes or delays the queue row. Otherwise the row stays due and is claimed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pgvector import HalfVector
from pgvector.psycopg.halfvec import register_halfvec_info
from psycopg.types import TypeInfo

from vkteams_daemon.store import distribution, schema, vector_counts
from vkteams_daemon.store.blockers import SilentSessions
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import chat_locks
from vkteams_daemon.store.vector_counts import VectorCountChanges

Vector = npt.NDArray[np.float16]

# A plan that is made while a table is empty, as the queue often is, scans the whole table for every key. It would stay
# cached until the next ANALYZE. A custom plan looks at the present size of the table.
_CUSTOM_PLANS = "SET LOCAL plan_cache_mode = force_custom_plan"
# The check of a foreign key runs once for each inserted row, and one fresh generic plan is enough for all of them.
_GENERIC_PLANS = "DISCARD PLANS; SET LOCAL plan_cache_mode = force_generic_plan"
# By the extension, not by the search_path: another role could have made a type of this name in our schema.
_HALFVEC = (
    "SELECT t.oid, t.typarray FROM pg_catalog.pg_type t JOIN pg_catalog.pg_extension e"
    " ON e.extnamespace = t.typnamespace AND e.extname = 'vector' WHERE t.typname = 'halfvec'"
)
_CLAIMED = (
    "SELECT q.chat_id, q.msg_id, q.kind, {text}q.attempts,"
    " CASE WHEN q.not_before = '-infinity' THEN extract(epoch FROM clock_timestamp() - q.enqueued_at)::float8 END"
    " FROM embedding_queue q {join}WHERE q.model_id = %s AND q.not_before <= clock_timestamp()"
    " ORDER BY q.enqueued_at DESC LIMIT %s FOR UPDATE OF q SKIP LOCKED"
)
# Rows of the queue can only be locked where they lie, and on a cluster the messages lie on other machines: there the
# texts are read apart, which costs one server three times as much.
_CLAIM = _CLAIMED.format(text="", join="").encode()
_CLAIM_WITH_TEXTS = _CLAIMED.format(
    text="m.text, ",
    join="LEFT JOIN LATERAL (SELECT coalesce(text, '') AS text FROM messages WHERE chat_id = q.chat_id"
    " AND msg_id = q.msg_id AND deleted_at IS NULL) m ON true ",
).encode()
# One row for each hash: a short text may be stored ten thousand times.
_ONE_OF_EACH = (
    "SELECT hashes.text_hash, e.embedding FROM pg_catalog.unnest(%(hashes)b::bytea[]) AS hashes (text_hash)"
    " CROSS JOIN LATERAL (SELECT embedding FROM embeddings e WHERE e.model_id = %(model)s"
    " AND e.text_hash = hashes.text_hash LIMIT 1) AS e"
)
# Citus has no such join. Each shard reads all rows of a hash, and so would one server, which has them all.
_ONE_OF_EACH_DISTRIBUTED = (
    "SELECT DISTINCT ON (text_hash) text_hash, embedding FROM embeddings WHERE model_id = %(model)s"
    " AND text_hash = ANY(%(hashes)b::bytea[])"
)


@dataclass(frozen=True, slots=True)
class Claim:
    """One queue row that this transaction has locked.

    Attributes:
        text: the text to embed; None if the message is gone or deleted.
        attempts: how often embedding it has failed.
        age: seconds since the writer queued it; None if it was tried before, or was queued for a new model.
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
    """The vectors of one claim: a pair (text hash, vector) per chunk, in order; empty for a text without tokens."""

    claim: Claim
    chunks: tuple[tuple[bytes, Vector], ...]


@dataclass(frozen=True, slots=True)
class EmbeddingFailure:
    """A claim that failed, and why. It is tried again after `delay` seconds, or parked if `delay` is None."""

    claim: Claim
    error: str
    delay: float | None


@dataclass(frozen=True, slots=True)
class ParkedText:
    """A text that has failed too often. It is not tried again until the message is edited or `retry` is called."""

    chat_id: str
    msg_id: str
    model: str
    attempts: int
    error: str | None
    enqueued_at: datetime


def prepare_connection(connection: Connection) -> None:
    """Prepare a pooled connection for claims and vectors. A second call for the same connection does nothing."""
    with translate_errors():
        if not getattr(connection, "_knows_vectors", False):
            # Not by pgvector's register_vector, whose statement takes an operator that another role could have made.
            [(oid, array_oid)] = connection.execute(_HALFVEC.encode()).fetchall()
            register_halfvec_info(connection, TypeInfo("halfvec", oid, array_oid))
            connection._knows_vectors = True  # type: ignore[attr-defined]


def claim(connection: Connection, model_id: int, limit: int) -> list[Claim]:
    """Lock up to `limit` due rows of this model's queue until the transaction ends; the newest come first."""
    connection.execute(_CUSTOM_PLANS)
    if not distribution.is_distributed(connection):
        return [Claim(*row) for row in connection.execute(_CLAIM_WITH_TEXTS, (model_id, limit)).fetchall()]
    rows = connection.execute(_CLAIM, (model_id, limit)).fetchall()
    texts = _texts(connection, [(chat_id, msg_id) for chat_id, msg_id, *_ in rows])
    return [
        Claim(chat_id, msg_id, kind, texts.get((chat_id, msg_id)), *tried) for chat_id, msg_id, kind, *tried in rows
    ]


def keep_alive(connection: Connection) -> None:
    """Show the server that this worker lives. It ends a transaction whose client is silent for long."""
    connection.execute("SELECT")


def stored_vectors(connection: Connection, model_id: int, hashes: Sequence[bytes]) -> dict[bytes, Vector]:
    """The stored vectors of this model for these text hashes, by hash."""
    statement = _ONE_OF_EACH_DISTRIBUTED if distribution.is_distributed(connection) else _ONE_OF_EACH
    rows = (
        connection.cursor(binary=True)
        .execute(statement.encode(), {"hashes": list(hashes), "model": model_id})
        .fetchall()
    )
    return {bytes(text_hash): _as_float16(vector) for text_hash, vector in rows}


def finish(
    connection: Connection,
    model_id: int,
    results: Sequence[EmbeddingResult],
    failures: Sequence[EmbeddingFailure] = (),
) -> int:
    """Store vectors and remove their queue rows, and delay or park the failures, in the transaction of the claims.

    If the text of a message has changed since the claim, its vectors are not stored and its queue row stays due.

    Args:
        connection: in the transaction that has claimed the rows.
        model_id: the model of the vectors.
        results: claims with their vectors; a claim whose message is gone has none.
        failures: claims without vectors.

    Returns:
        How many messages got their vectors.
    """
    claims = [*(item.claim for item in results), *(item.claim for item in failures)]
    schema.fence(connection)
    # Updating the index takes a while, and the writer may want to edit these messages. So the first lock only keeps the
    # messages from being deleted. If a text has changed when the vectors are in, the vectors are deleted again.
    unchanged = _lock_unchanged(connection, claims, "KEY SHARE")
    stored = [item for item in results if item.claim.key in unchanged]
    counts = VectorCountChanges()
    _delete_vectors(connection, model_id, [item.claim for item in stored], counts)
    _copy_vectors(connection, model_id, stored, counts)
    current = _lock_unchanged(connection, [claim for claim in claims if claim.key in unchanged], "SHARE")
    _delete_vectors(connection, model_id, [item.claim for item in stored if item.claim.key not in current], counts)
    stored = [item for item in stored if item.claim.key in current]
    for item in failures:
        if item.claim.key in current:
            _delay_or_park(connection, model_id, item, counts)
    without_message = _lock_without_message(connection, [claim for claim in claims if claim.text is None])
    _dequeue(connection, model_id, [*(item.claim for item in stored), *without_message])
    changed = [claim for claim in claims if claim.text is not None and claim.key not in current]
    _reset_attempts(connection, model_id, [claim for claim in changed if claim.attempts])
    counts.save(connection)
    return len(stored)


def length(connection: Connection, model_id: int) -> int:
    """How many queue rows wait for this model, without parked ones."""
    row = connection.execute(
        "SELECT count(*) FROM embedding_queue WHERE model_id = %s AND not_before < 'infinity'", (model_id,)
    ).fetchone()
    return int(row[0]) if row else 0


def parked(connection: Connection, *, limit: int = 20) -> list[ParkedText]:
    """The parked texts of all models that are not retired, the newest first."""
    with translate_errors():
        rows = connection.execute(
            "SELECT q.chat_id, q.msg_id, m.name, q.attempts, q.last_error, q.enqueued_at"
            " FROM embedding_queue q JOIN embedding_models m USING (model_id)"
            " WHERE q.not_before = 'infinity' AND m.state <> 'retired' ORDER BY q.enqueued_at DESC LIMIT %s",
            (limit,),
        ).fetchall()
    return [ParkedText(*row) for row in rows]


def retry(connection: Connection) -> int:
    """Make every parked text due again, with no attempts counted; returns how many there were."""
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        count = connection.execute(
            "UPDATE embedding_queue SET attempts = 0, not_before = clock_timestamp(), last_error = NULL"
            " WHERE not_before = 'infinity'"
        ).rowcount
        connection.execute("SELECT pg_catalog.pg_notify('vkteams_queue', '')")
    return count


def free_claims(connection: Connection, holders: SilentSessions) -> bool:
    """End the sessions of workers that have claimed rows and have fallen silent; returns whether there was one.

    Args:
        connection: in autocommit mode.
        holders: of one caller that has nothing to do although rows wait.
    """
    with translate_errors():
        return holders.end_row_lockers(connection, "embedding_queue")


def wait_for_notify(connection: Connection, seconds: float) -> bool:
    """Wait up to `seconds` for a notification of the writer; returns whether one came.

    The connection listens from the first call on.
    """
    with translate_errors():
        connection.execute("LISTEN vkteams_queue")
        return any(True for _ in connection.notifies(timeout=seconds, stop_after=1))


def _lock_unchanged(
    connection: Connection, claims: Sequence[Claim], lock: Literal["KEY SHARE", "SHARE"]
) -> set[tuple[str, str]]:
    """Lock the messages that still have the claimed text; returns their keys.

    A message that another transaction has locked counts as changed. SHARE keeps the writer from editing and deleting
    the messages, KEY SHARE only keeps rows from being deleted.
    """
    of_chats: dict[str, list[Claim]] = {}
    for claim in claims:
        if claim.text is not None:
            of_chats.setdefault(claim.chat_id, []).append(claim)
    # Chat by chat: rows of several machines cannot be locked in one statement.
    with connection.pipeline():
        locked = [
            connection.execute(
                "SELECT m.chat_id, m.msg_id FROM unnest(%b::text[], %b::text[]) AS claimed (msg_id, text)"
                " JOIN messages m ON m.chat_id = %s AND m.msg_id = claimed.msg_id"
                " AND coalesce(m.text, '') = claimed.text"
                f" WHERE m.deleted_at IS NULL FOR {lock} OF m SKIP LOCKED".encode(),
                ([c.msg_id for c in of_chat], [c.text for c in of_chat], chat_id),
            )
            for chat_id, of_chat in of_chats.items()
        ]
        return {(chat_id, msg_id) for rows in locked for chat_id, msg_id in rows}


def _lock_without_message(connection: Connection, claims: Sequence[Claim]) -> list[Claim]:
    """Lock the chats of claims without a message; returns the claims that still have none.

    A claim whose chat another transaction has locked is left out: that transaction may be writing the message.
    """
    if not claims:
        return []
    # A transaction that writes to a chat holds the chat's lock until its commit. So once we have the lock, we see the
    # message that it wrote.
    locked_chats = chat_locks.try_lock_chats(connection, {claim.chat_id for claim in claims})
    there = _texts(connection, [claim.key for claim in claims])
    return [claim for claim in claims if claim.key not in there and claim.chat_id in locked_chats]


def _texts(connection: Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The texts of those of these messages that are there and not deleted, by key."""
    if not keys:
        return {}
    rows = connection.execute(
        "SELECT m.chat_id, m.msg_id, coalesce(m.text, '') FROM unnest(%b::text[], %b::text[]) AS k (chat_id, msg_id)"
        " JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id WHERE m.deleted_at IS NULL",
        ([key[0] for key in keys], [key[1] for key in keys]),
    ).fetchall()
    return {(chat_id, msg_id): text for chat_id, msg_id, text in rows}


_CLAIM_KEYS = "unnest(%b::text[], %b::text[], %b::text[]) AS claimed (chat_id, msg_id, kind)"
_CLAIMED_ROWS = (
    "t.chat_id = claimed.chat_id AND t.msg_id = claimed.msg_id AND t.kind = claimed.kind AND t.model_id = %s"
)


def _delete_vectors(connection: Connection, model_id: int, claims: Sequence[Claim], counts: VectorCountChanges) -> None:
    if claims:
        rows = connection.execute(
            f"DELETE FROM embeddings e USING {_CLAIM_KEYS} WHERE e.chat_id = claimed.chat_id"
            " AND e.msg_id = claimed.msg_id AND e.kind = claimed.kind AND e.model_id = %s"
            f" {vector_counts.DELETED}".encode(),
            (*_key_columns(claims), model_id),
        )
        counts.deleted(rows)


def _dequeue(connection: Connection, model_id: int, claims: Sequence[Claim]) -> None:
    if claims:
        connection.execute(
            f"DELETE FROM embedding_queue t USING {_CLAIM_KEYS} WHERE {_CLAIMED_ROWS}".encode(),
            (*_key_columns(claims), model_id),
        )


def _reset_attempts(connection: Connection, model_id: int, claims: Sequence[Claim]) -> None:
    """Reset the rows of changed messages: their new text has never been tried."""
    if claims:
        connection.execute(
            "UPDATE embedding_queue t SET attempts = 0, not_before = '-infinity', last_error = NULL"
            f" FROM {_CLAIM_KEYS} WHERE {_CLAIMED_ROWS}".encode(),
            (*_key_columns(claims), model_id),
        )


def _delay_or_park(
    connection: Connection, model_id: int, failure: EmbeddingFailure, counts: VectorCountChanges
) -> None:
    claim = failure.claim
    if failure.delay is None:
        _delete_vectors(connection, model_id, [claim], counts)  # vectors of an earlier text of the message
    connection.execute(
        "UPDATE embedding_queue SET attempts = attempts + 1, last_error = %s,"
        " not_before = coalesce(clock_timestamp() + pg_catalog.make_interval(secs => %s), 'infinity')"
        " WHERE chat_id = %s AND msg_id = %s AND model_id = %s AND kind = %s",
        (failure.error[:500], failure.delay, claim.chat_id, claim.msg_id, model_id, claim.kind),
    )


def _copy_vectors(
    connection: Connection, model_id: int, stored: Sequence[EmbeddingResult], counts: VectorCountChanges
) -> None:
    if not stored:
        return
    connection.execute(_GENERIC_PLANS)
    # Binary COPY, because vectors as text are ten times slower.
    with connection.cursor().copy(
        "COPY embeddings (chat_id, msg_id, model_id, kind, chunk, text_hash, embedding) FROM STDIN (FORMAT BINARY)"
    ) as copy:
        copy.set_types(["text", "text", "int4", "text", "int4", "bytea", "halfvec"])
        for item in stored:
            key = (item.claim.chat_id, item.claim.msg_id, model_id, item.claim.kind)
            counts.stored(item.claim.chat_id, model_id, len(item.chunks))
            for chunk, (text_hash, vector) in enumerate(item.chunks):
                copy.write_row((*key, chunk, text_hash, HalfVector(vector)))
    connection.execute(_CUSTOM_PLANS)


def _key_columns(claims: Sequence[Claim]) -> tuple[list[str], list[str], list[str]]:
    return [c.chat_id for c in claims], [c.msg_id for c in claims], [c.kind for c in claims]


def _as_float16(vector: Any) -> Vector:
    return np.asarray(vector.to_numpy() if hasattr(vector, "to_numpy") else vector, dtype=np.float16)
