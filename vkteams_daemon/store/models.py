"""The models the archive knows: registering one, queueing what it lacks, its index, and the switch to a new one.

A new model's vectors are built beside the old ones; searching goes on with the old until the new is complete.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.store.connections import Connection, translate_errors

# Every neighbour of a new vector is a page to write again. Few of them, well chosen, cost half of pgvector's defaults
# (16 and 64), and a walk that looks at more candidates finds as much: see `search.semantic`.
_HNSW = "m = 6, ef_construction = 80"
# A writer that had asked for the models before this one was registered has not committed yet; this waits until it has.
# One that asks later waits for this lock, a moment, and then sees the model.
_WAIT_FOR_WRITERS = "LOCK TABLE embedding_queue IN SHARE MODE"
_PAGE = 5000  # messages
_ENQUEUE_PAGE = (
    "WITH page AS MATERIALIZED (SELECT chat_id, msg_id, sent_at, deleted_at IS NULL AND text <> '' AS speaks"
    " FROM messages WHERE (chat_id, msg_id) > (%(chat)s, %(msg)s) ORDER BY chat_id, msg_id LIMIT %(limit)s),"
    " added AS (INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind, enqueued_at, not_before)"
    " SELECT p.chat_id, p.msg_id, %(model)s, 'message', p.sent_at, clock_timestamp() FROM page p WHERE p.speaks"
    " AND NOT EXISTS (SELECT FROM embeddings e WHERE e.chat_id = p.chat_id AND e.msg_id = p.msg_id"
    " AND e.model_id = %(model)s AND e.kind = 'message') ORDER BY p.chat_id, p.msg_id"
    " ON CONFLICT DO NOTHING RETURNING 1)"
    " SELECT (SELECT count(*) FROM added), chat_id, msg_id FROM page ORDER BY chat_id DESC, msg_id DESC LIMIT 1"
)
_LOCK = "hashtextextended('vkteams models ' || current_schema(), 0)"
# A lock of its own: who registers a model must not wait for an index, nor the index for the snapshot of who waits.
_BUILD_LOCK = "hashtextextended('vkteams index ' || current_schema(), 0)"


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
    """What the archive holds of one model: messages with vectors, rows waiting and rows parked."""

    model: StoredModel
    messages: int
    queued: int
    parked: int
    indexed: bool


_COLUMNS = "model_id, name, fingerprint, dims, state"


def active_model(connection: Connection) -> StoredModel | None:
    """The model that semantic search uses, or None before the first."""
    with translate_errors():
        row = connection.execute(f"SELECT {_COLUMNS} FROM embedding_models WHERE state = 'active'".encode()).fetchone()
    return StoredModel(*row) if row else None


def register(connection: Connection, name: str, fingerprint: str, dims: int) -> StoredModel:
    """The row of this model; from now on the writer queues what it writes for it too.

    The first model is active at once; a further one is `building` until `switch` finds it complete. What was written
    before is queued by `enqueue_missing`.
    """
    with translate_errors(), connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})".encode())
        row = connection.execute(
            f"SELECT {_COLUMNS} FROM embedding_models WHERE fingerprint = %s".encode(), (fingerprint,)
        ).fetchone()
        if row and row[4] != "retired":
            return StoredModel(*row)
        others = connection.execute("SELECT count(*) FROM embedding_models WHERE state = 'active'").fetchone()
        state = "building" if others and others[0] else "active"
        row = connection.execute(
            "INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES (%s, %s, %s, %s)"
            f" ON CONFLICT (fingerprint) DO UPDATE SET state = excluded.state RETURNING {_COLUMNS}".encode(),
            (name, fingerprint, dims, state),
        ).fetchone()
        assert row is not None
        model = StoredModel(*row)
        # A half-built predecessor nobody waits for any more.
        connection.execute(
            "UPDATE embedding_models SET state = 'retired' WHERE state = 'building' AND model_id <> %s",
            (model.model_id,),
        )
        return model


def enqueue_missing(connection: Connection, model_id: int) -> int:
    """Queue every message that has text and no vector of this model; returns how many.

    They count as queued when they were sent, so that what people say now is embedded before what they said last year.

    Page by page, each a transaction: the writer waits for one, a moment, where somebody edits a message of it.

    Args:
        connection: in autocommit mode.
        model_id: of a registered model.
    """
    with translate_errors():
        with connection.transaction():
            connection.execute(_WAIT_FOR_WRITERS)
        found = 0
        place: dict[str, str | int] = {"model": model_id, "chat": "", "msg": "", "limit": _PAGE}
        while page := connection.execute(_ENQUEUE_PAGE.encode(), place).fetchone():
            added, place["chat"], place["msg"] = page
            found += added
        return found


def index_name(model_id: int) -> str:
    """The name of the model's HNSW index over vectors of this kind."""
    return f"embeddings_hnsw_{int(model_id)}_message"


def index_expression(model: StoredModel) -> tuple[str, str]:
    """The indexed expression and the index's condition; a query uses the index only when it repeats both."""
    return (
        f"(embedding::halfvec({int(model.dims)}))",
        f"model_id = {int(model.model_id)} AND kind = 'message'",
    )


def has_index(connection: Connection, model_id: int) -> bool:
    """Whether the index is there and whole."""
    with translate_errors():
        row = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (index_name(model_id),)
        ).fetchone()
    return bool(row and row[0])


def ensure_index(connection: Connection, model: StoredModel) -> bool:
    """Build the model's HNSW index without blocking anybody, unless it is there or somebody is at it.

    Args:
        connection: in autocommit mode; the build may take minutes for a large archive.
        model: whose vectors.

    Returns:
        Whether it is there now.
    """
    if has_index(connection, model.model_id):
        return True
    name = index_name(model.model_id)
    expression, condition = index_expression(model)
    statement = (
        f"CREATE INDEX CONCURRENTLY {name} ON embeddings USING hnsw ({expression} halfvec_cosine_ops)"
        f" WITH ({_HNSW}) WHERE {condition}"
    )
    with translate_errors():
        row = connection.execute(f"SELECT pg_try_advisory_lock({_BUILD_LOCK})".encode()).fetchone()
        if not row or not row[0]:
            return False
        try:
            connection.execute("SET maintenance_work_mem = '256MB'")
            # Left to itself, the server takes a table of some thousand vectors for too small to share the work.
            connection.execute("SET min_parallel_table_scan_size = 0")
            try:
                _build(connection, name, statement)
            except psycopg.errors.DiskFull:
                # What several processes build lies in shared memory, and a container may have less of it than we allow.
                connection.execute("SET max_parallel_maintenance_workers = 0")
                _build(connection, name, statement)
        finally:
            if not connection.closed:
                connection.execute(
                    "RESET maintenance_work_mem; RESET min_parallel_table_scan_size;"
                    " RESET max_parallel_maintenance_workers"
                )
                connection.execute(f"SELECT pg_advisory_unlock({_BUILD_LOCK})".encode())
    return True


def _build(connection: Connection, name: str, statement: str) -> None:
    # An invalid index is what an interrupted build leaves.
    connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}".encode())
    connection.execute(statement.encode())


def activate_if_complete(connection: Connection, model: StoredModel) -> bool:
    """Make a building model active once nothing waits for it, and retire the one before; returns whether it did."""
    with translate_errors(), connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})".encode())
        row = connection.execute(
            "SELECT state = 'building' AND NOT EXISTS (SELECT FROM embedding_queue q WHERE q.model_id = m.model_id"
            " AND q.not_before < 'infinity') FROM embedding_models m WHERE model_id = %s",
            (model.model_id,),
        ).fetchone()
        if not row or not row[0]:
            return False
        connection.execute("UPDATE embedding_models SET state = 'retired' WHERE state = 'active'")
        connection.execute("UPDATE embedding_models SET state = 'active' WHERE model_id = %s", (model.model_id,))
    return True


def delete_retired(connection: Connection, *, batch: int = 5000) -> int:
    """Delete what retired models left (vectors, queue rows, indexes), a batch a transaction; returns rows deleted.

    A model that is registered again meanwhile keeps what it still has.

    Args:
        connection: in autocommit mode.
        batch: most vectors of one transaction.
    """
    deleted = 0
    with translate_errors():
        retired = connection.execute("SELECT model_id FROM embedding_models WHERE state = 'retired'").fetchall()
        for (model_id,) in retired:
            _drop_retired_index(connection, model_id)
            count = batch
            while count == batch:
                with connection.transaction():
                    connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})".encode())
                    if not _is_retired(connection, model_id):
                        break
                    connection.execute("DELETE FROM embedding_queue WHERE model_id = %s", (model_id,))
                    count = connection.execute(
                        "DELETE FROM embeddings WHERE (chat_id, msg_id, model_id, kind, chunk) IN (SELECT chat_id,"
                        " msg_id, model_id, kind, chunk FROM embeddings WHERE model_id = %s LIMIT %s)",
                        (model_id, batch),
                    ).rowcount
                deleted += count
    return deleted


def _drop_retired_index(connection: Connection, model_id: int) -> None:
    # In no transaction, for it waits for whoever uses the index; a lock of the session keeps it from coming to life.
    # Beside a build it would wait for that, and the build for the snapshot of whoever waits for the lock: next time.
    row = connection.execute(f"SELECT pg_try_advisory_lock({_BUILD_LOCK})".encode()).fetchone()
    if not row or not row[0]:
        return
    try:
        connection.execute(f"SELECT pg_advisory_lock({_LOCK})".encode())
        if _is_retired(connection, model_id):
            connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index_name(model_id)}".encode())
    finally:
        if not connection.closed:
            connection.execute(f"SELECT pg_advisory_unlock({_LOCK}), pg_advisory_unlock({_BUILD_LOCK})".encode())


def _is_retired(connection: Connection, model_id: int) -> bool:
    row = connection.execute("SELECT state FROM embedding_models WHERE model_id = %s", (model_id,)).fetchone()
    return row is not None and row[0] == "retired"


def model_statistics(connection: Connection) -> list[ModelStatistics]:
    """Every model the archive knows, the active one first."""
    with translate_errors():
        rows = connection.execute(
            f"SELECT {_COLUMNS},"
            " (SELECT count(*) FROM embeddings e WHERE e.model_id = m.model_id AND e.kind = 'message' AND e.chunk = 0),"
            " (SELECT count(*) FROM embedding_queue q WHERE q.model_id = m.model_id AND q.not_before < 'infinity'),"
            " (SELECT count(*) FROM embedding_queue q WHERE q.model_id = m.model_id AND q.not_before = 'infinity')"
            " FROM embedding_models m ORDER BY state = 'active' DESC, state = 'building' DESC, model_id".encode()
        ).fetchall()
    return [ModelStatistics(StoredModel(*r[:5]), r[5], r[6], r[7], has_index(connection, r[0])) for r in rows]


@dataclass(frozen=True, slots=True)
class VectorStore:
    """What semantic search stands on: pgvector's version, the active model's name, and whether its index is whole."""

    extension: str | None
    model: str | None
    indexed: bool


def vector_store(connection: Connection) -> VectorStore:
    """Whether vectors can be stored and searched."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        row = cursor.fetchone()
    model = active_model(connection)
    indexed = model is not None and has_index(connection, model.model_id)
    return VectorStore(row[0] if row else None, model.name if model else None, indexed)
