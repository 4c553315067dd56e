"""The upkeep of a database that runs for years: how large its tables and indexes are, and what keeps them small."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.store import models
from vkteams_daemon.store.admin.sizes import IndexSize, TableSize
from vkteams_daemon.store.connections import Connection, translate_errors

TABLES = (
    "events", "messages", "message_versions", "embeddings", "embedding_queue", "chats", "users", "chat_members", "bots",
    "words",
)  # fmt: skip
"""The tables that grow, and the cursors."""

_WORTH_IT = 8 * 2**20  # bytes that a rebuilt index must give back
_PAGE = 8192
_BTREE_ENTRY = 24  # bytes beside the columns themselves: line pointer, header, alignment
_HNSW_ENTRY = 256  # bytes beside the vector: headers and 12 neighbours (m = 6), measured with pgvector 0.8


def table_sizes(connection: psycopg.Connection[Any]) -> list[TableSize]:
    """Our tables, the largest first."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT t.name, nullif(c.reltuples, -1)::bigint, pg_total_relation_size(c.oid),"
            " ARRAY(SELECT i.relname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid"
            "  WHERE x.indrelid = c.oid ORDER BY pg_relation_size(i.oid) DESC, i.relname),"
            " ARRAY(SELECT pg_relation_size(i.oid) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid"
            "  WHERE x.indrelid = c.oid ORDER BY pg_relation_size(i.oid) DESC, i.relname)"
            " FROM unnest(%s::text[]) AS t (name) JOIN pg_class c ON c.oid = to_regclass(t.name)"
            " ORDER BY pg_total_relation_size(c.oid) DESC, t.name",
            (list(TABLES),),
        )
        return [
            TableSize(name, rows, octets, [IndexSize(*index) for index in zip(names, sizes, strict=True)])
            for name, rows, octets, names, sizes in cursor
        ]


def database_size(connection: psycopg.Connection[Any]) -> int:
    """Bytes of the whole database, whatever else lies in it."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        row = cursor.fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True)
class IndexState:
    """An index and how it does.

    Attributes:
        kind: btree, gin, hnsw, …
        valid: False for what an interrupted build has left.
        octets: how large it is.
        fresh: about how large it would be if it were built now; None where nobody can tell.
    """

    name: str
    kind: str
    valid: bool
    octets: int
    fresh: int | None

    @property
    def grown(self) -> bool:
        """Whether building it anew would give back more than half of it, and more than a few megabytes."""
        return self.fresh is not None and self.octets > 2 * self.fresh and self.octets - self.fresh > _WORTH_IT


@dataclass(frozen=True, slots=True)
class MaintenancePlan:
    """What is to be done.

    Attributes:
        dead: rows by table that are gone and still take room, as the server counts them; none left out.
        invalid: indexes that an interrupted build has left.
        grown: indexes that are far larger than they need be.
        retired: models that are used no more and whose vectors are still there.
        collation: whether the system sorts text otherwise than when the indexes were built.
    """

    dead: dict[str, int]
    invalid: list[IndexState]
    grown: list[IndexState]
    retired: list[str]
    collation: bool


@dataclass(frozen=True, slots=True)
class MaintenanceStep:
    """Something that was done, what the server remarked on it, and how long it took."""

    what: str
    seconds: float
    remark: str = ""


def plan(connection: Connection) -> MaintenancePlan:
    """Look at what is to be done; changes nothing."""
    with translate_errors():
        dead = connection.execute(
            "SELECT relname::text, n_dead_tup FROM pg_stat_user_tables WHERE relid = ANY(%s::regclass[])"
            " AND n_dead_tup > 0 ORDER BY n_dead_tup DESC",
            (list(TABLES),),
        ).fetchall()
        retired = connection.execute(
            "SELECT m.name FROM embedding_models m WHERE state = 'retired'"
            " AND EXISTS (SELECT FROM embeddings e WHERE e.model_id = m.model_id) ORDER BY model_id"
        ).fetchall()
        known = index_states(connection)
        return MaintenancePlan(
            dict(dead),
            [index for index in known if not index.valid],
            [index for index in known if index.valid and index.grown],
            [name for (name,) in retired],
            _sorts_otherwise(connection),
        )


def index_states(connection: Connection) -> list[IndexState]:
    """The indexes of our tables, but for those that are being built."""
    rows = connection.execute(
        "SELECT i.oid::regclass::text, am.amname::text, x.indisvalid, pg_relation_size(i.oid), i.reltuples::float8,"
        " (SELECT coalesce(sum(s.avg_width), 0)::int FROM unnest(x.indkey) AS k (number)"
        "  JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number"
        "  JOIN pg_stats s ON s.schemaname = t.relnamespace::regnamespace::text AND s.tablename = t.relname"
        "  AND s.attname = a.attname),"
        " substring(pg_get_indexdef(i.oid) FROM 'halfvec\\((\\d+)\\)')::int"
        " FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid"
        " JOIN pg_am am ON am.oid = i.relam WHERE t.oid = ANY(%s::regclass[])"
        " AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.index_relid = i.oid) ORDER BY 1",
        (list(TABLES),),
    ).fetchall()
    return [
        IndexState(name, kind, valid, octets, _fresh(kind, count, width, dims))
        for name, kind, valid, octets, count, width, dims in rows
    ]


def _fresh(kind: str, rows: float, width: int, dims: int | None) -> int | None:
    """About how many bytes so many entries take in an index that was just built."""
    if rows <= 0:
        return None
    if kind == "btree" and width:
        return int(rows * (width + _BTREE_ENTRY) / 0.9) + _PAGE
    if kind == "hnsw" and dims:
        return int(rows * (2 * dims + _HNSW_ENTRY)) + _PAGE
    return None


def maintain(
    connection: Connection, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[MaintenanceStep]:
    """Do what is to be done, beside a running daemon: nothing here blocks reading or writing.

    Args:
        connection: of the caller's own, in autocommit mode, of the owner of the tables.
        progress: called after each step.
    """
    done: list[MaintenanceStep] = []
    remarks: list[str] = []
    connection.add_notice_handler(lambda notice: remarks.append(notice.message_primary or ""))

    def step(what: str, work: Callable[[], object], left: int) -> None:
        started = time.monotonic()
        remarks.clear()
        work()
        done.append(MaintenanceStep(what, time.monotonic() - started, "; ".join(remarks)))
        progress(len(done), len(done) + left)

    with translate_errors():
        agenda = plan(connection)
        left = len(TABLES) + len(agenda.invalid) + bool(agenda.retired)
        if agenda.retired:
            left -= 1
            step(f"remains of {', '.join(agenda.retired)} deleted", lambda: models.delete_retired(connection), left)
        for index in agenda.invalid:
            left -= 1
            # What a REINDEX has left is a copy; anything else is the index itself, and agenda.
            half = re.search(r"_cc(new|old)\d*$", index.name)
            statement = f"DROP INDEX CONCURRENTLY {index.name}" if half else f"REINDEX INDEX CONCURRENTLY {index.name}"
            step(
                f"{index.name} {'dropped' if half else 'rebuilt'}, which was half built",
                _run(connection, statement),
                left,
            )
        for table in table_sizes(connection):
            left -= 1
            step(f"{table.name} vacuumed and analysed", _run(connection, f"VACUUM (ANALYZE) {table.name}"), left)
        grown = [index for index in index_states(connection) if index.valid and index.grown]
        connection.execute("SET maintenance_work_mem = '256MB'")
        for number, index in enumerate(grown, 1):
            rebuild = _run(connection, f"REINDEX INDEX CONCURRENTLY {index.name}")
            step(f"{index.name} rebuilt, which had grown", rebuild, len(grown) - number)
        connection.execute("RESET maintenance_work_mem")
    return done


def _run(connection: Connection, statement: str) -> Callable[[], object]:
    return lambda: connection.execute(statement.encode())


def _sorts_otherwise(connection: Connection) -> bool:
    """Whether an upgrade of the system has changed the order of text; PostgreSQL 15 and newer can tell."""
    if connection.info.server_version < 150000:
        return False
    row = connection.execute(
        "SELECT datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) FROM pg_database"
        " WHERE datname = current_database() AND datcollversion IS NOT NULL"
    ).fetchone()
    return bool(row and row[0])
