"""The models of the archive: registration, queueing of messages without vectors, and the change of models.

Several models may be active: search asks all of them. The vectors of a further model are built beside theirs, and it
becomes active when they are complete. Models that are not chosen any more stay active until every chosen one is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, tuple_row

from vkteams_daemon.store import schema, vector_index
from vkteams_daemon.store.blockers import SilentSessions
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.vector_counts import DELETED, VectorCountChanges

# A writer may have read the models before this one was registered, and not have committed yet. This lock waits for it.
# A writer that reads the models later waits for this lock for a moment, and then sees the model.
_WAIT_FOR_WRITERS = "LOCK TABLE embedding_queue IN SHARE MODE"
_PAGE = 5000  # messages a transaction
# Three statements: the queue and the messages may lie on different machines.
_MESSAGES_PAGE = (
    "SELECT chat_id, msg_id, sent_at, coalesce(deleted_at IS NULL AND text <> '', false) FROM messages"
    " WHERE (chat_id, msg_id) > (%s, %s) ORDER BY chat_id, msg_id LIMIT %s"
)
_EMBEDDED = (
    "SELECT e.chat_id, e.msg_id FROM unnest(%s::text[], %s::text[]) AS k (chat_id, msg_id) JOIN embeddings e"
    " ON e.chat_id = k.chat_id AND e.msg_id = k.msg_id AND e.model_id = %s AND e.kind = 'message'"
)
_ENQUEUE = (
    "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind, enqueued_at, not_before)"
    " SELECT k.chat_id, k.msg_id, %s, 'message', k.sent_at, clock_timestamp()"
    " FROM unnest(%s::text[], %s::text[], %s::timestamptz[]) AS k (chat_id, msg_id, sent_at) ON CONFLICT DO NOTHING"
)
# A worker may have committed the vectors of a message, and removed its queue row, while _ENQUEUE waited for that row.
_DEQUEUE_EMBEDDED = (
    "DELETE FROM embedding_queue q USING unnest(%s::text[], %s::text[]) AS k (chat_id, msg_id)"
    " WHERE q.chat_id = k.chat_id AND q.msg_id = k.msg_id AND q.model_id = %s AND q.kind = 'message'"
    " AND q.attempts = 0 AND q.not_before > '-infinity' AND q.not_before < 'infinity'"
)
_CAUGHT_UP = (
    "NOT EXISTS (SELECT FROM embedding_queue q WHERE q.model_id = %(model)s AND q.not_before > '-infinity'"
    " AND q.not_before < 'infinity')"
)
_MODELS_LOCK = "pg_catalog.hashtextextended('vkteams models ' || current_schema()::text, 0::bigint)"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A row of embedding_models."""

    model_id: int
    name: str
    fingerprint: str
    dims: int
    state: str


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """One model's numbers: messages with vectors, queue rows that wait, queue rows that are parked."""

    model: StoredModel
    messages: int
    queued: int
    parked: int
    indexed: bool


@dataclass(frozen=True, slots=True)
class IdleModel:
    """A model that nobody works for, although messages wait for its vectors.

    Attributes:
        since: when a worker last worked for it, or when it was registered.
        waiting: messages that wait.
    """

    name: str
    state: str
    since: datetime
    waiting: int

    def __str__(self) -> str:
        return (
            f"no worker has worked for the model {self.name} ({self.state}) since {self.since:%Y-%m-%d %H:%M} UTC, and"
            f" {self.waiting} messages wait for its vectors"
        )


_MODEL_COLUMNS = "model_id, name, fingerprint, dims, state"


def active_models(connection: Connection) -> list[StoredModel]:
    """The models that semantic search asks, the oldest first; none before the first one is registered."""
    with translate_errors():
        rows = connection.execute(
            f"SELECT {_MODEL_COLUMNS} FROM embedding_models WHERE state = 'active' ORDER BY model_id".encode()
        ).fetchall()
    return [StoredModel(*row) for row in rows]


def register(
    connection: Connection, name: str, fingerprint: str, dims: int, chosen: Collection[str] | None = ()
) -> StoredModel:
    """Register a model, or return its row. From then on the writer queues new messages for it.

    The first model is active at once. A further model is `building` until `activate_if_complete` finds it complete.
    `enqueue_missing` queues the messages that were written before.

    Args:
        connection: in autocommit mode.
        name: the model's name.
        fingerprint: identifies its vectors: models of one fingerprint share them.
        dims: the length of a vector.
        chosen: the fingerprints of the other chosen models; None if they are not known.
    """
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        connection.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({_MODELS_LOCK})".encode())
        row = connection.execute(
            f"SELECT {_MODEL_COLUMNS} FROM embedding_models WHERE fingerprint = %s".encode(), (fingerprint,)
        ).fetchone()
        if row and row[4] != "retired":
            return StoredModel(*row)
        active = connection.execute("SELECT count(*) FROM embedding_models WHERE state = 'active'").fetchone()
        state = "building" if active and active[0] else "active"
        row = connection.execute(
            "INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES (%s, %s, %s, %s)"
            f" ON CONFLICT (fingerprint) DO UPDATE SET state = excluded.state RETURNING {_MODEL_COLUMNS}".encode(),
            (name, fingerprint, dims, state),
        ).fetchone()
        assert row is not None
        model = StoredModel(*row)
        if chosen is not None:
            # An earlier model that is still building, and is not chosen any more, is not needed.
            connection.execute(
                "UPDATE embedding_models SET state = 'retired' WHERE state = 'building' AND fingerprint <> ALL(%s)",
                ([fingerprint, *chosen],),
            )
        return model


def enqueue_missing(connection: Connection, model_id: int) -> int:
    """Queue every message that has a text and no vector of this model; returns how many were queued.

    `enqueued_at` is the time when a message was sent, so that today's messages are embedded before last year's.

    Each page is a transaction. A writer that edits a message of the page waits for a moment.

    Args:
        connection: in autocommit mode.
        model_id: a registered model.
    """
    with translate_errors():
        with connection.transaction():
            schema.fence(connection)
            connection.execute(_WAIT_FOR_WRITERS)
        count = 0
        last = ("", "")
        while True:
            with connection.transaction():
                schema.fence(connection)
                page = connection.execute(_MESSAGES_PAGE.encode(), (*last, _PAGE)).fetchall()
                count += _enqueue(connection, model_id, [row[:3] for row in page if row[3]])
            if not page:
                return count
            last = page[-1][:2]


def _enqueue(connection: Connection, model_id: int, messages: Sequence[tuple[Any, ...]]) -> int:
    """Queue those of these messages (chat_id, msg_id, sent_at) that have no vector of the model; returns how many."""
    if not messages:
        return 0
    embedded = _embedded(connection, model_id, messages)
    missing = [message for message in messages if message[:2] not in embedded]
    if not missing:
        return 0
    count = connection.execute(_ENQUEUE.encode(), (model_id, *_columns(missing))).rowcount
    if since := _embedded(connection, model_id, missing):
        count -= connection.execute(_DEQUEUE_EMBEDDED.encode(), (*_columns(list(since)), model_id)).rowcount
    return count


def _embedded(connection: Connection, model_id: int, messages: Sequence[tuple[Any, ...]]) -> set[tuple[str, str]]:
    """The keys of those of these messages (chat_id, msg_id, …) that have a vector of the model."""
    return set(connection.execute(_EMBEDDED.encode(), (*_columns(messages)[:2], model_id)).fetchall())


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def mark_worked(connection: Connection, model_id: int) -> str | None:
    """Note that a worker works for this model now, or would if anything waited; returns the model's state.

    Args:
        connection: in autocommit mode.
        model_id: a registered model.
    """
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        row = connection.execute(
            "UPDATE embedding_models SET worked_at = now() WHERE model_id = %s RETURNING state", (model_id,)
        ).fetchone()
    return row[0] if row else None


def idle_models(connection: Connection, patience: float) -> list[IdleModel]:
    """The models for which messages wait, and for which no worker has worked for `patience` seconds."""
    with translate_errors(), connection.cursor(row_factory=class_row(IdleModel)) as cursor:
        cursor.execute(
            "SELECT m.name, m.state, coalesce(m.worked_at, m.created_at) AS since, q.waiting FROM embedding_models m"
            " CROSS JOIN LATERAL (SELECT count(*) AS waiting FROM embedding_queue q WHERE q.model_id = m.model_id"
            "  AND q.not_before < 'infinity') AS q"
            " WHERE m.state <> 'retired' AND q.waiting > 0 AND coalesce(m.worked_at, m.created_at)"
            " < clock_timestamp() - pg_catalog.make_interval(secs => %s::float8) ORDER BY m.model_id",
            (patience,),
        )
        return cursor.fetchall()


def has_caught_up(connection: Connection, model_id: int) -> bool:
    """Whether nothing waits that was queued for the model itself, or waits for another attempt.

    What the writer has queued (`not_before` is -infinity) waits for every model: in a busy archive something always
    does.
    """
    row = connection.execute(f"SELECT {_CAUGHT_UP}".encode(), {"model": model_id}).fetchone()
    return bool(row and row[0])


def activate_if_complete(connection: Connection, model: StoredModel) -> bool:
    """Make a building model active if it has caught up with the archive; returns whether it did."""
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        connection.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({_MODELS_LOCK})".encode())
        row = connection.execute(
            f"SELECT state = 'building' AND {_CAUGHT_UP} FROM embedding_models WHERE model_id = %(model)s".encode(),
            {"model": model.model_id},
        ).fetchone()
        if not row or not row[0]:
            return False
        connection.execute("UPDATE embedding_models SET state = 'active' WHERE model_id = %s", (model.model_id,))
    return True


def retire_others(connection: Connection, chosen: Collection[str]) -> list[str]:
    """Retire the models that are not chosen, if every chosen one is active; returns their names.

    Args:
        connection: in autocommit mode.
        chosen: fingerprints of models, at least one.
    """
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        connection.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({_MODELS_LOCK})".encode())
        rows = connection.execute(
            "UPDATE embedding_models SET state = 'retired' WHERE state <> 'retired'"
            " AND fingerprint <> ALL(%(chosen)s) AND (SELECT count(*) FROM embedding_models"
            " WHERE state = 'active' AND fingerprint = ANY(%(chosen)s)) = %(count)s RETURNING name",
            {"chosen": list(chosen), "count": len(set(chosen))},
        ).fetchall()
    return [name for (name,) in rows]


def delete_retired(connection: Connection, holders: SilentSessions | None = None, *, batch: int = 5000) -> int:
    """Delete the vectors, queue rows and indexes of retired models; returns how many vectors were deleted.

    Each batch is a transaction. A model that is registered again meanwhile keeps its remaining vectors.

    Args:
        connection: in autocommit mode.
        holders: see `vector_index.ensure_index`.
        batch: the most vectors that one transaction deletes.
    """
    deleted = 0
    with translate_errors():
        retired = connection.execute("SELECT model_id FROM embedding_models WHERE state = 'retired'").fetchall()
        for (model_id,) in retired:
            _drop_retired_index(connection, model_id, holders)
            count = batch
            while count == batch:
                with connection.transaction():
                    schema.fence(connection)
                    connection.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({_MODELS_LOCK})".encode())
                    if not _is_retired(connection, model_id):
                        break
                    connection.execute("DELETE FROM embedding_queue WHERE model_id = %s", (model_id,))
                    rows = connection.execute(
                        "DELETE FROM embeddings e WHERE (chat_id, msg_id, model_id, kind, chunk) IN (SELECT chat_id,"
                        " msg_id, model_id, kind, chunk FROM embeddings WHERE model_id = %s LIMIT %s)"
                        f" {DELETED}".encode(),
                        (model_id, batch),
                    ).fetchall()
                    counts = VectorCountChanges()
                    counts.deleted(rows)
                    counts.save(connection)
                    count = len(rows)
                deleted += count
    return deleted


def _drop_retired_index(connection: Connection, model_id: int, holders: SilentSessions | None) -> None:
    # DROP INDEX CONCURRENTLY waits for the transactions that use the index, and cannot run in a transaction. So a lock
    # of the session keeps the model from being registered again. If an index is being built, skip the drop until next
    # time: the drop would wait for the build, and the build for the snapshot of a transaction that waits for the lock.
    if not vector_index.try_index_lock(connection, holders):
        return
    try:
        connection.execute(f"SELECT pg_catalog.pg_advisory_lock({_MODELS_LOCK})".encode())
        if _is_retired(connection, model_id):
            connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {vector_index.index_name(model_id)}".encode())
    finally:
        if not connection.closed:
            connection.execute(f"SELECT pg_catalog.pg_advisory_unlock({_MODELS_LOCK})".encode())
            vector_index.unlock(connection)


def _is_retired(connection: Connection, model_id: int) -> bool:
    row = connection.execute("SELECT state FROM embedding_models WHERE model_id = %s", (model_id,)).fetchone()
    return row is not None and row[0] == "retired"


def model_statistics(connection: Connection) -> list[ModelStatistics]:
    """The numbers of every model, the active ones first."""
    with translate_errors():
        rows = connection.execute(
            f"SELECT {_MODEL_COLUMNS} FROM embedding_models"
            " ORDER BY state = 'active' DESC, state = 'building' DESC, model_id".encode()
        ).fetchall()
        vectors: dict[int, int] = dict(
            connection.execute(
                "SELECT model_id, pg_catalog.sum(messages)::bigint FROM chat_vector_counts GROUP BY model_id"
            ).fetchall()
        )
        queued = {
            model_id: (waiting, parked)
            for model_id, waiting, parked in connection.execute(
                "SELECT model_id, count(*) FILTER (WHERE not_before < 'infinity'),"
                " count(*) FILTER (WHERE not_before = 'infinity') FROM embedding_queue GROUP BY model_id"
            )
        }
    models = [StoredModel(*row) for row in rows]
    return [
        ModelStatistics(
            model, vectors.get(model.model_id, 0), *queued.get(model.model_id, (0, 0)),
            vector_index.has_index(connection, model.model_id),
        )
        for model in models
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class VectorStore:
    """The state of semantic search.

    Attributes:
        extension: the version of pgvector; None without it.
        models: the names of the active models.
        indexed: whether the index of every active model exists and is valid.
    """

    extension: str | None
    models: tuple[str, ...]
    indexed: bool


def vector_store(connection: Connection) -> VectorStore:
    """Read the state of semantic search."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        row = cursor.fetchone()
    models = active_models(connection)
    indexed = all(vector_index.has_index(connection, model.model_id) for model in models)
    return VectorStore(row[0] if row else None, tuple(model.name for model in models), indexed)
