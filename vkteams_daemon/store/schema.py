"""The schema's version and its migrations."""

from __future__ import annotations

import functools
import importlib.resources
import re
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

from vkteams_daemon.errors import DatabaseUnavailable, SchemaError, SchemaNewer
from vkteams_daemon.store.connections import Connection, build_conninfo, translate_errors
from vkteams_daemon.store.profiles import MAINTENANCE

# FOR KEY SHARE locks the table in ROW SHARE mode until the transaction ends. Normally there is no row to lock.
_NEWEST_ABOVE = "SELECT version FROM schema_version WHERE version > %s ORDER BY version DESC LIMIT 1 FOR KEY SHARE"
_MIGRATION_LOCK = "hashtextextended('vkteams migration ' || current_schema(), 0)"


@dataclass(frozen=True, slots=True)
class AppliedMigration:
    """A row of `schema_version`."""

    version: int
    applied_at: datetime


def migrations() -> dict[int, str]:
    """The numbered migrations as {version: SQL}."""
    folder = importlib.resources.files("vkteams_daemon.store") / "migrations"
    scripts = {}
    for file in folder.iterdir():
        match = re.fullmatch(r"(\d{3})_\w+\.sql", file.name)
        if match:
            scripts[int(match[1])] = file.read_text(encoding="utf-8")
    return dict(sorted(scripts.items()))


def schema_version(connection: Connection) -> int:
    """The version of the schema that this connection uses; 0 if it has no archive."""
    # Look only in the schema that we write to. Further down the search_path another program may have such a table.
    exists = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_version')"
    ).fetchone()
    if not exists or not exists[0]:
        return 0
    row = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchone()
    return int(row[0]) if row else 0


def check_version(connection: Connection) -> None:
    """Compare the version of the schema with the one that this program needs.

    Raises:
        SchemaError: there is no schema, or it is older or newer.
    """
    with translate_errors():
        version, latest = schema_version(connection), max(migrations())
    if version > latest:
        raise _newer(version, latest)
    if not version:
        raise SchemaError(
            "the database holds no archive yet", hint="Start vkteamsd, or run `vkteamsctl database init`."
        )
    if version < latest:
        raise SchemaError(
            f"the schema is version {version}, this program needs {latest}", hint="Run `vkteamsctl database migrate`."
        )


def fence(connection: Connection) -> None:
    """Make sure that no newer program has migrated the schema, and keep migrations out until the transaction ends.

    Every transaction that writes calls this first. An old program beside a newer schema would leave out what the new
    schema needs.

    Args:
        connection: in a transaction.

    Raises:
        SchemaNewer: the schema is newer than this program.
    """
    latest = _latest()
    row = connection.execute(_NEWEST_ABOVE, (latest,)).fetchone()
    if row is not None:
        raise _newer(row[0], latest)


@functools.cache
def _latest() -> int:
    return max(migrations())


def _newer(version: int, latest: int) -> SchemaNewer:
    return SchemaNewer(
        f"the schema is version {version}, newer than this program's {latest}", hint="Upgrade vkteams-daemon."
    )


def apply_migrations(connection: Connection, *, lock_timeout: float = 60.0) -> list[int]:
    """Apply the missing migrations, each in its own transaction. Other processes wait until the first has applied them.

    Args:
        connection: in autocommit mode.
        lock_timeout: seconds to wait for another process that migrates.

    Raises:
        SchemaError: the server or its schema does not fit, or is newer than this program.
        DatabaseUnavailable: another process has migrated for longer than `lock_timeout`.

    Returns:
        The versions that this call applied.
    """
    applied = []
    with translate_errors():
        if schema_version(connection) == max(migrations()):
            return []
        _check_server(connection)
        _lock_migrations(connection, lock_timeout)
        try:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS schema_version"
                " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
            version = schema_version(connection)
            for number, script in migrations().items():
                if number <= version:
                    continue
                with connection.transaction():
                    # Wait until the transactions that have passed the fence are over. Later ones see the new version.
                    connection.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")
                    connection.execute(script.encode())
                    connection.execute("INSERT INTO schema_version (version) VALUES (%s)", (number,))
                applied.append(number)
        finally:
            if not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                connection.execute(f"SELECT pg_advisory_unlock({_MIGRATION_LOCK})".encode())
    check_version(connection)
    return applied


def _lock_migrations(connection: Connection, lock_timeout: float) -> None:
    deadline = time.monotonic() + lock_timeout
    while True:
        row = connection.execute(f"SELECT pg_try_advisory_lock({_MIGRATION_LOCK})".encode()).fetchone()
        if row and row[0]:
            return
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f"another process has been migrating the schema for {lock_timeout:g} s")
        time.sleep(0.1)


def _check_server(connection: Connection) -> None:
    row = connection.execute(
        "SELECT current_setting('server_version_num')::int, current_setting('server_encoding'), current_schema(),"
        " ARRAY(SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()),"
        " (SELECT extversion FROM pg_extension WHERE extname = 'vector'),"
        " (SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'),"
        " to_regtype('halfvec') IS NOT NULL,"
        " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')"
    ).fetchone()
    assert row is not None
    version, encoding, schema, tables, installed, where, usable, available = row
    if version < 140000:
        raise SchemaError(f"PostgreSQL {version // 10000} is too old: 14 or newer is needed")
    if encoding != "UTF8":
        raise SchemaError(f"the database's encoding is {encoding}, not UTF8", hint="Create it with ENCODING 'UTF8'.")
    if schema is None:
        raise SchemaError("no schema of the search_path exists", hint="Create one, or set the role's search_path.")
    if "events" in tables and "schema_version" not in tables:
        raise SchemaError(f"schema {schema} has a table `events` that is not ours", hint="Use a schema of its own.")
    if not installed and not available:
        raise SchemaError("the server has no pgvector", hint="Install pgvector for this PostgreSQL.")
    if installed and not usable:
        raise SchemaError(
            f"pgvector {installed} in schema {where} cannot be used: it is older than 0.7, or not in the search_path",
            hint=f"Upgrade it, or add {where} to the role's search_path.",
        )


def migrate(url: str) -> list[int]:
    """Apply the missing migrations to the database at this URL; returns the applied versions."""
    with translate_errors(), psycopg.connect(build_conninfo(url, 5, "vkteams"), autocommit=True) as connection:
        MAINTENANCE.apply(connection)
        return apply_migrations(connection)


def schema_history(connection: psycopg.Connection[Any]) -> list[AppliedMigration]:
    """The migrations that were applied to this database, oldest first."""
    with connection.cursor(row_factory=class_row(AppliedMigration)) as cursor:
        cursor.execute("SELECT version, applied_at FROM schema_version ORDER BY version")
        return cursor.fetchall()
