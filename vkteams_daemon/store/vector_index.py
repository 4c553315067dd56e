"""The index of a model's vectors: an HNSW graph whose parameters grow with the archive.

An insert rewrites the page of every neighbour of the new vector. So a small archive has a graph of few but well chosen
neighbours, where an insert costs half of what it costs with pgvector's defaults (m = 16, ef_construction = 64), and a
search with more candidates finds as much (`Graph.ef_search`). In a large archive such a graph
misses too much. An index that is built then has more neighbours; one that was built before is built again by
maintenance, beside the old one, which serves until then.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from vkteams_daemon.store import distribution
from vkteams_daemon.store.blockers import SilentSessions
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.system.memory import physical_memory

# A lock of its own: the registration of a model must not wait for the build of an index. Nor must the build wait for
# the snapshot of a transaction that waits for the lock.
INDEX_LOCK = "pg_catalog.hashtextextended('vkteams index ' || current_schema()::text, 0::bigint)"

_LEAST_MEMORY = 256 * 2**20  # bytes for a build
_SHARE_OF_MACHINE = 4  # a build on this machine takes at most this part of its memory
# Bytes of a vector in a build beside its numbers, and of each of its neighbours, of which it has 2 m and some more.
_ELEMENT, _NEIGHBOUR = 200, 18


@dataclass(frozen=True, slots=True)
class Graph:
    """The parameters of an index.

    Attributes:
        m: neighbours of a vector in each layer; in the lowest one twice as many.
        ef_construction: candidates of which they are chosen.
        ef_search: candidates that a search by meaning alone keeps (hnsw.ef_search).
        ef_search_fused: those of a search whose hits are put together with hits by words. In a large archive these make
            up for what is missed; a smaller one has no need to miss it.
        exact: messages of a filtered search up to which they are compared one by one: that is no slower than a filtered
            walk, and exact.
        most: vectors up to which an index with these parameters serves well.
    """

    m: int
    ef_construction: int
    ef_search: int
    ef_search_fused: int
    exact: int
    most: float


GRAPHS = (Graph(6, 80, 1000, 1000, 5000, 300_000), Graph(12, 100, 1000, 200, 15_000, float("inf")))
"""The smallest first; docs/benchmarks.md says how they were chosen."""

# Of a shard: its entries in the model's index, as the planner estimates them, and its vectors.
_ESTIMATE = (
    "SELECT coalesce(pg_catalog.max(i.reltuples), 0) FROM pg_catalog.pg_index x JOIN pg_catalog.pg_class i"
    " ON i.oid = x.indexrelid WHERE x.indrelid = '%s'::regclass::oid"
    " AND pg_catalog.starts_with(i.relname::text, 'embeddings_hnsw_{}_message_')"
)
_VECTORS = "SELECT count(*) FROM %s WHERE {}"

_M = "(SELECT o.option_value::int FROM pg_catalog.pg_options_to_table(i.reloptions) AS o WHERE o.option_name = 'm')"


def graph_for(vectors: float) -> Graph:
    """The parameters for an index of so many vectors."""
    return next(graph for graph in GRAPHS if vectors <= graph.most)


def index_name(model_id: int) -> str:
    """The name of the model's index."""
    return f"embeddings_hnsw_{int(model_id)}_message"


def has_index(connection: Connection, model_id: int) -> bool:
    """Whether the model's index exists and is valid."""
    with translate_errors():
        row = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = pg_catalog.to_regclass(%s)::oid",
            (index_name(model_id),),
        ).fetchone()
    return bool(row and row[0])


def graph_of(connection: Connection, model_id: int) -> Graph:
    """The parameters of the model's index; without an index those of the smallest."""
    row = connection.execute(
        f"SELECT {_M} FROM pg_class i WHERE i.oid = pg_catalog.to_regclass(%s)::oid".encode(), (index_name(model_id),)
    ).fetchone()
    m = row[0] if row else None
    return next((graph for graph in reversed(GRAPHS) if m and graph.m <= m), GRAPHS[0])


def outgrown(connection: Connection) -> list[int]:
    """The models whose index has the parameters of a smaller archive, by the planner's estimate of its vectors.

    On a cluster the index of the largest shard counts.
    """
    rows = connection.execute(
        f"SELECT m.model_id, i.reltuples::float8, {_M} FROM embedding_models m JOIN pg_class i"
        " ON i.oid = pg_catalog.to_regclass('embeddings_hnsw_' || m.model_id::text || '_message')::oid"
        " WHERE m.state <> 'retired' ORDER BY m.model_id".encode()
    ).fetchall()
    if distribution.is_distributed(connection):
        rows = [(model_id, _largest_shard(connection, _ESTIMATE.format(int(model_id))), m) for model_id, _, m in rows]
    return [model_id for model_id, vectors, m in rows if (m or GRAPHS[0].m) < graph_for(vectors).m]


def ensure_index(connection: Connection, model_id: int, dims: int, holders: SilentSessions | None = None) -> bool:
    """Build the model's index, concurrently, unless it exists or another process builds an index.

    Args:
        connection: in autocommit mode; the build may take minutes for a large archive.
        model_id: the model of the vectors.
        dims: their length.
        holders: ends another process that has fallen silent after it has taken the lock of the builds; of one caller.

    Returns:
        Whether the index exists now.
    """
    if has_index(connection, model_id):
        return True
    with translate_errors():
        if not try_index_lock(connection, holders):
            return False
        try:
            _build(connection, index_name(model_id), model_id, dims)
        finally:
            unlock(connection)
    return True


def rebuild(connection: Connection, model_id: int, holders: SilentSessions | None = None) -> bool:
    """Build the model's index again with the parameters for its vectors, and put it into the place of the old one.

    The old index serves until then. A copy that is left of an interrupted rebuild is dropped by the next maintenance.

    Args:
        connection: in autocommit mode.
        model_id: the model of the vectors, which has an index.
        holders: see `ensure_index`.

    Returns:
        False if another process builds an index.
    """
    # The endings of REINDEX CONCURRENTLY's own copies.
    name, new, old = (index_name(model_id) + ending for ending in ("", "_ccnew", "_ccold"))
    if not try_index_lock(connection, holders):
        return False
    try:
        row = connection.execute("SELECT dims FROM embedding_models WHERE model_id = %s", (model_id,)).fetchone()
        assert row is not None
        _build(connection, new, model_id, row[0])
        with connection.transaction():
            connection.execute(f"ALTER INDEX {name} RENAME TO {old}".encode())
            connection.execute(f"ALTER INDEX {new} RENAME TO {name}".encode())
        connection.execute(f"DROP INDEX CONCURRENTLY {old}".encode())
    finally:
        unlock(connection)
    return True


def try_index_lock(connection: Connection, holders: SilentSessions | None) -> bool:
    """Take the lock of the builds for this session; returns whether it is taken."""
    while True:
        row = connection.execute(f"SELECT pg_catalog.pg_try_advisory_lock({INDEX_LOCK})".encode()).fetchone()
        if row and row[0]:
            return True
        if not (holders or SilentSessions()).end_holders(connection, INDEX_LOCK, {}):
            return False


def unlock(connection: Connection) -> None:
    """Release the lock of the builds, unless the connection is closed."""
    if not connection.closed:
        connection.execute(f"SELECT pg_catalog.pg_advisory_unlock({INDEX_LOCK})".encode())


def build_memory(connection: Connection, vectors: int, dims: int) -> int:
    """Bytes of maintenance_work_mem with which an index of so many vectors is built.

    A graph that does not fit is finished on the disk, which takes many times as long. The memory of another machine is
    known to its administrator alone: there the server's own setting holds.
    """
    row = connection.execute("SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem'))")
    configured = int(row.fetchall()[0][0])
    needed = int(vectors * (_ELEMENT + 2 * dims + _NEIGHBOUR * 2 * graph_for(vectors).m) * 1.1)
    here = connection.info.host.startswith("/")
    most = physical_memory() // _SHARE_OF_MACHINE if here else configured
    return max(_LEAST_MEMORY, min(needed, max(most, configured)))


def _largest_shard(connection: Connection, command: str) -> float:
    """The largest answer of a shard of the vectors."""
    return max((float(shard.answer) for shard in distribution.on_shards(connection, "embeddings", command)), default=0)


def _build(connection: Connection, name: str, model_id: int, dims: int) -> None:
    """Build an index of the model's vectors, with the parameters for their number."""
    condition = f"model_id = {int(model_id)} AND kind = 'message'"
    if distribution.is_distributed(connection):  # each shard has an index of its own
        vectors = int(_largest_shard(connection, _VECTORS.format(condition)))
    else:
        [(vectors,)] = connection.execute(f"SELECT count(*) FROM embeddings WHERE {condition}".encode()).fetchall()
    graph = graph_for(vectors)
    statement = (
        f"CREATE INDEX CONCURRENTLY {name} ON embeddings USING hnsw"
        f" ((embedding::halfvec({int(dims)})) halfvec_cosine_ops)"
        f" WITH (m = {graph.m}, ef_construction = {graph.ef_construction}) WHERE {condition}"
    )
    try:
        memory = build_memory(connection, vectors, dims) // 1024
        connection.execute(f"SET maintenance_work_mem = '{memory}kB'".encode())
        # By default the server builds an index on some thousand vectors without parallel workers.
        connection.execute("SET min_parallel_table_scan_size = 0")
        try:
            _create(connection, name, statement)
        except psycopg.errors.DiskFull:
            # A parallel build is done in shared memory, and a container may have less of it than
            # maintenance_work_mem. Build it in one process then.
            connection.execute("SET max_parallel_maintenance_workers = 0")
            _create(connection, name, statement)
    finally:
        if not connection.closed:
            connection.execute(
                "RESET maintenance_work_mem; RESET min_parallel_table_scan_size; RESET max_parallel_maintenance_workers"
            )


def _create(connection: Connection, name: str, statement: str) -> None:
    # An interrupted build leaves an invalid index.
    connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}".encode())
    connection.execute(statement.encode())
