"""The upkeep of a database that runs for years: how large its tables and indexes are, and what keeps them small."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import tuple_row

TABLES = (
    "events", "messages", "message_versions", "embeddings", "embedding_queue", "chats", "users", "chat_members", "bots",
    "words",
)  # fmt: skip
"""The tables that grow, and the cursors."""


@dataclass(frozen=True, slots=True)
class IndexSize:
    """An index and its bytes."""

    name: str
    octets: int


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table and its bytes.

    Attributes:
        rows: the planner's estimate; None before the first ANALYZE.
        octets: altogether, indexes and long values included.
        indexes: the largest first.
    """

    name: str
    rows: int | None
    octets: int
    indexes: list[IndexSize] = field(default_factory=list)


def tables(connection: psycopg.Connection[Any]) -> list[TableSize]:
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
