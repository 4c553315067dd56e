"""Maintenance of a database that runs for years: the sizes of tables and indexes, what is to be done, and doing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.store import distribution, embedding_models, vector_index
from vkteams_daemon.store.admin import indexes
from vkteams_daemon.store.admin.indexes import IndexState
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

_DEAD = (
    "SELECT coalesce(pg_catalog.sum(n_dead_tup), 0)::bigint FROM pg_catalog.pg_stat_user_tables"
    " WHERE relid = '%s'::regclass::oid"
)


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
        retired = [
            name
            for model_id, name in connection.execute(
                "SELECT model_id, name FROM embedding_models WHERE state = 'retired' ORDER BY model_id"
            ).fetchall()
            if connection.execute("SELECT 1 FROM embeddings WHERE model_id = %s LIMIT 1", (model_id,)).fetchone()
        ]
        states = indexes.index_states(connection, TABLES)
        return MaintenancePlan(
            _dead_rows(connection),
            [index for index in states if not index.valid or index.is_copy],
            [index for index in states if index.valid and index.grown],
            [vector_index.index_name(model_id) for model_id in vector_index.outgrown(connection)],
            retired,
            _collation_has_changed(connection),
        )


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
            done, work = ("dropped", indexes.drop) if index.is_copy else ("rebuilt", indexes.rebuild)
            run_step(f"{index.name} {done}, which was half built", partial(work, connection, index), remaining)
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
        grown = [index for index in indexes.index_states(connection, TABLES) if index.valid and index.grown]
        connection.execute("SET maintenance_work_mem = '256MB'")
        for number, index in enumerate(grown, 1):
            rebuild = partial(indexes.rebuild, connection, index)
            run_step(f"{index.name} rebuilt, which had grown", rebuild, len(grown) - number)
        connection.execute("RESET maintenance_work_mem")
    return steps


def _run(connection: Connection, statement: str) -> Callable[[], object]:
    return lambda: connection.execute(statement.encode())


def _dead_rows(connection: Connection) -> dict[str, int]:
    """The dead rows of each table that has any, the most first."""
    dead = connection.execute(
        "SELECT relname::text, n_dead_tup FROM pg_stat_user_tables WHERE relid = ANY(%s::regclass[]::oid[])"
        " AND n_dead_tup > 0",
        (list(TABLES),),
    ).fetchall()
    for table in distribution.tables(connection, TABLES):
        dead.append((table, sum(int(shard.answer) for shard in distribution.on_shards(connection, table, _DEAD))))
    return {table: rows for table, rows in sorted(dead, key=lambda each: -each[1]) if rows}


def _collation_has_changed(connection: Connection) -> bool:
    """Whether an upgrade of the system has changed the order of text. PostgreSQL 14 cannot tell: False."""
    if connection.info.server_version < 150000:
        return False
    row = connection.execute(
        "SELECT datcollversion IS DISTINCT FROM pg_catalog.pg_database_collation_actual_version(oid) FROM pg_database"
        " WHERE datname = current_database() AND datcollversion IS NOT NULL"
    ).fetchone()
    return bool(row and row[0])
