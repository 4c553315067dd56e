"""Maintenance of a database that runs for years: the sizes of tables and indexes, what is to be done, and doing it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.store import distribution, embedding_models, vector_index
from vkteams_daemon.store.admin.sizes import IndexSize, TableSize
from vkteams_daemon.store.blockers import PATIENCE, SilentSessions
from vkteams_daemon.store.connections import Connection, translate_errors

TABLES = (
    "events", "messages", "message_versions", "embeddings", "embedding_queue", "chats", "users", "chat_members", "bots",
    "chat_user_counts", "chat_hour_counts", "chat_vector_counts", "bot_chat_counts", "words",
)  # fmt: skip
"""The tables that grow, and `bots`."""

_OF_INDEXES = (
    " ARRAY(SELECT {} FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid{{here}}"
    " ORDER BY pg_catalog.pg_relation_size(i.oid) DESC, i.relname)"
)
_SIZES_OF = (
    f"SELECT t.name, {{rows}}, {{octets}} AS octets, {_OF_INDEXES.format('i.relname::text')},"
    f"{_OF_INDEXES.format('pg_catalog.pg_relation_size(i.oid)')} FROM pg_catalog.unnest(%s::text[]) AS t (name)"
    " JOIN pg_class c ON c.oid = pg_catalog.to_regclass(t.name)::oid{join} ORDER BY octets DESC, t.name"
)
_ROWS, _OCTETS = "nullif(c.reltuples, (-1)::float4)::bigint", "pg_catalog.pg_total_relation_size(c.oid)"
_SIZES = _SIZES_OF.format(rows=_ROWS, octets=_OCTETS, here="", join="").encode()
# The coordinator's own part of a distributed table is empty.
_DISTRIBUTED_SIZES = _SIZES_OF.format(
    rows=f"CASE WHEN p.logicalrelid IS NULL THEN {_ROWS} END",
    octets=f"coalesce(pg_catalog.citus_total_relation_size(p.logicalrelid, false), {_OCTETS})",
    here=" AND p.logicalrelid IS NULL",
    join=" LEFT JOIN pg_catalog.pg_dist_partition p ON p.logicalrelid::oid = c.oid",
).encode()
_OTHER_MACHINES = (
    b"SELECT result::bigint FROM"
    b" pg_catalog.run_command_on_workers('SELECT pg_catalog.pg_database_size(current_database())') WHERE success"
)
_COPY = re.compile(r"_cc(new|old)\d*$")  # an index that is built beside the one that it replaces, or was replaced
_MIN_SAVING = 8 * 2**20  # bytes; an index is rebuilt only if that frees more
_PAGE = 8192  # bytes
_BTREE_ENTRY = 24  # bytes of an entry beside its columns: line pointer, header, alignment
# Bytes of an entry beside its vector, and for each m: two neighbours and a part of those in other layers; measured with
# pgvector 0.8.
_HNSW_ENTRY, _HNSW_NEIGHBOURS = 176, 13


def table_sizes(connection: psycopg.Connection[Any]) -> list[TableSize]:
    """The sizes of the archive's tables, the largest first. Of a distributed table only the whole size is known."""
    distributed = distribution.is_distributed(connection)
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(_DISTRIBUTED_SIZES if distributed else _SIZES, (list(TABLES),))
        return [
            TableSize(name, rows, octets, [IndexSize(*index) for index in zip(names, sizes, strict=True)])
            for name, rows, octets, names, sizes in cursor
        ]


def database_size(connection: psycopg.Connection[Any]) -> int:
    """The size of the whole database on all machines in bytes, with tables of other programs."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT pg_catalog.pg_database_size(current_database())")
        octets = sum(row[0] for row in cursor)
        if distribution.is_distributed(connection):
            cursor.execute(_OTHER_MACHINES)
            octets += sum(row[0] for row in cursor)
    return int(octets)


@dataclass(frozen=True, slots=True)
class IndexState:
    """An index, its size and its condition.

    Attributes:
        kind: btree, gin, hnsw, …
        valid: False after an interrupted build.
        octets: its size in bytes.
        fresh: its estimated size in bytes right after a rebuild; None if there is no estimate.
    """

    name: str
    kind: str
    valid: bool
    octets: int
    fresh: int | None

    @property
    def grown(self) -> bool:
        """Whether a rebuild would free more than half of it, and more than a few megabytes."""
        return self.fresh is not None and self.octets > 2 * self.fresh and self.octets - self.fresh > _MIN_SAVING


@dataclass(frozen=True, slots=True)
class MaintenancePlan:
    """What maintenance is needed.

    Attributes:
        dead: deleted rows that still take space, by table, as the server counts them; tables without any are left out.
        invalid: indexes of interrupted builds, and copies that an interrupted rebuild has left.
        grown: indexes that are much larger than needed.
        outgrown: indexes of vectors that were built for a smaller archive, and find too little now.
        retired: names of retired models whose vectors are still stored.
        collation: whether the system's order of text has changed since the indexes were built.
    """

    dead: dict[str, int]
    invalid: list[IndexState]
    grown: list[IndexState]
    outgrown: list[str]
    retired: list[str]
    collation: bool


@dataclass(frozen=True, slots=True)
class MaintenanceStep:
    """One step of maintenance: what was done, how long it took, and the server's notices."""

    what: str
    seconds: float
    remark: str = ""


def plan(connection: Connection) -> MaintenancePlan:
    """Find out what maintenance is needed; changes nothing."""
    with translate_errors():
        dead = connection.execute(
            "SELECT relname::text, n_dead_tup FROM pg_stat_user_tables WHERE relid = ANY(%s::regclass[]::oid[])"
            " AND n_dead_tup > 0 ORDER BY n_dead_tup DESC",
            (list(TABLES),),
        ).fetchall()
        retired = [
            name
            for model_id, name in connection.execute(
                "SELECT model_id, name FROM embedding_models WHERE state = 'retired' ORDER BY model_id"
            ).fetchall()
            if connection.execute("SELECT 1 FROM embeddings WHERE model_id = %s LIMIT 1", (model_id,)).fetchone()
        ]
        states = index_states(connection)
        return MaintenancePlan(
            dict(dead),
            [index for index in states if not index.valid or _COPY.search(index.name)],
            [index for index in states if index.valid and index.grown],
            [vector_index.index_name(model_id) for model_id in vector_index.outgrown(connection)],
            retired,
            _collation_has_changed(connection),
        )


def index_states(connection: Connection) -> list[IndexState]:
    """The indexes of the archive's tables, without those that are being built."""
    rows = connection.execute(
        "SELECT i.oid::regclass::text, am.amname::text, x.indisvalid, pg_catalog.pg_relation_size(i.oid),"
        " i.reltuples::float8,"
        " (SELECT coalesce(pg_catalog.sum(s.avg_width), 0)::int FROM pg_catalog.unnest(x.indkey) AS k (number)"
        "  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number"
        "  JOIN pg_stats s ON s.schemaname = t.relnamespace::regnamespace::text AND s.tablename = t.relname"
        "  AND s.attname = a.attname),"
        " substring(pg_catalog.pg_get_indexdef(i.oid) FROM 'halfvec\\((\\d+)\\)')::int,"
        " (SELECT o.option_value::int FROM pg_catalog.pg_options_to_table(i.reloptions) AS o WHERE o.option_name = 'm')"
        " FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid"
        " JOIN pg_am am ON am.oid = i.relam WHERE t.oid = ANY(%s::regclass[]::oid[])"
        " AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.oid) ORDER BY 1",
        (list(TABLES),),
    ).fetchall()
    return [
        IndexState(name, kind, valid, octets, _estimate_fresh_size(kind, count, width, dims, m or 0))
        for name, kind, valid, octets, count, width, dims, m in rows
    ]


def _estimate_fresh_size(kind: str, rows: float, width: int, dims: int | None, m: int) -> int | None:
    """The estimated size in bytes of a new index with so many entries; None if there is no estimate."""
    if rows <= 0:
        return None
    if kind == "btree" and width:
        return int(rows * (width + _BTREE_ENTRY) / 0.9) + _PAGE
    if kind == "hnsw" and dims:
        return int(rows * (2 * dims + _HNSW_ENTRY + _HNSW_NEIGHBOURS * m)) + _PAGE
    return None


def maintain(
    connection: Connection,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    patience: float = PATIENCE,
) -> list[MaintenanceStep]:
    """Do the maintenance that is needed. It runs beside a daemon: no step blocks reading or writing.

    Args:
        connection: used for this alone, in autocommit mode; its role owns the tables.
        progress: called after each step.
        patience: seconds after which a silent process is ended that holds the lock of the index builds.
    """
    steps: list[MaintenanceStep] = []
    notices: list[str] = []
    connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))

    def run_step(what: str, work: Callable[[], object], remaining: int) -> None:
        started = time.monotonic()
        notices.clear()
        work()
        steps.append(MaintenanceStep(what, time.monotonic() - started, "; ".join(notices)))
        progress(len(steps), len(steps) + remaining)

    with translate_errors():
        maintenance_plan = plan(connection)
        remaining = len(TABLES) + len(maintenance_plan.invalid) + bool(maintenance_plan.retired)
        if maintenance_plan.retired:
            remaining -= 1
            run_step(
                f"remains of {', '.join(maintenance_plan.retired)} deleted",
                lambda: embedding_models.delete_retired(connection, SilentSessions(patience)),
                remaining,
            )
        for index in maintenance_plan.invalid:
            remaining -= 1
            # An interrupted REINDEX leaves a copy, which is dropped. Any other invalid index is needed, and is rebuilt.
            is_copy = _COPY.search(index.name)
            statement = (
                f"DROP INDEX CONCURRENTLY {index.name}" if is_copy else f"REINDEX INDEX CONCURRENTLY {index.name}"
            )
            run_step(
                f"{index.name} {'dropped' if is_copy else 'rebuilt'}, which was half built",
                _run(connection, statement),
                remaining,
            )
        for table in table_sizes(connection):
            remaining -= 1
            run_step(
                f"{table.name} vacuumed and analysed", _run(connection, f"VACUUM (ANALYZE) {table.name}"), remaining
            )
        # After ANALYZE, which estimates how many vectors there are.
        outgrown = vector_index.outgrown(connection)
        for number, model_id in enumerate(outgrown, 1):
            run_step(
                f"{vector_index.index_name(model_id)} rebuilt for so many vectors",
                partial(vector_index.rebuild, connection, model_id, SilentSessions(patience)),
                len(outgrown) - number,
            )
        grown = [index for index in index_states(connection) if index.valid and index.grown]
        connection.execute("SET maintenance_work_mem = '256MB'")
        for number, index in enumerate(grown, 1):
            rebuild = _run(connection, f"REINDEX INDEX CONCURRENTLY {index.name}")
            run_step(f"{index.name} rebuilt, which had grown", rebuild, len(grown) - number)
        connection.execute("RESET maintenance_work_mem")
    return steps


def _run(connection: Connection, statement: str) -> Callable[[], object]:
    return lambda: connection.execute(statement.encode())


def _collation_has_changed(connection: Connection) -> bool:
    """Whether an upgrade of the system has changed the order of text. PostgreSQL 14 cannot tell: False."""
    if connection.info.server_version < 150000:
        return False
    row = connection.execute(
        "SELECT datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(oid) FROM pg_database"
        " WHERE datname = current_database() AND datcollversion IS NOT NULL"
    ).fetchone()
    return bool(row and row[0])
