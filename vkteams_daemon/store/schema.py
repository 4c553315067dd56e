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
from vkteams_daemon.store import blockers, distribution, server_check
from vkteams_daemon.store.connection_profiles import MAINTENANCE
from vkteams_daemon.store.connections import Connection, build_conninfo, connect, translate_errors

# FOR KEY SHARE locks the table in ROW SHARE mode until the transaction ends. Normally there is no row to lock.
_NEWEST_ABOVE = "SELECT version FROM schema_version WHERE version > %s ORDER BY version DESC LIMIT 1 FOR KEY SHARE"
_MIGRATION_LOCK = "pg_catalog.hashtextextended('vkteams migration ' || coalesce(current_schema()::text, ''), 0::bigint)"


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
    if not _has_version_table(connection):
        return 0
    row = connection.execute("SELECT coalesce(pg_catalog.max(version), 0) FROM schema_version").fetchone()
    return int(row[0]) if row else 0


def _has_version_table(connection: Connection) -> bool:
    # Look only in the schema that we write to. Further down the search_path another program may have such a table, and
    # another program's table of this name has other columns.
    exists = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid WHERE n.nspname = current_schema()"
        " AND c.relname = 'schema_version' AND a.attname = 'applied_at' AND a.atttypid = 'timestamptz'::regtype::oid)"
    ).fetchone()
    return bool(exists and exists[0])


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
        with translate_errors():
            others = server_check.other_archives(connection)
        if others:
            raise SchemaError(
                f"the search_path leads to a schema without an archive, and schema {others[0]} holds one",
                hint=f"Set the role's search_path to {others[0]}.",
            )
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
    check_fence(send_fence(connection))


def send_fence(connection: Connection) -> Any:
    """The first half of `fence`, for a caller in pipeline mode; returns the cursor for `check_fence`."""
    return connection.execute(_NEWEST_ABOVE, (_latest(),))


def check_fence(cursor: Any) -> None:
    """The second half of `fence`.

    Raises:
        SchemaNewer: the schema is newer than this program.
    """
    row = cursor.fetchone()
    if row is not None:
        raise _newer(row[0], _latest())


@functools.cache
def _latest() -> int:
    return max(migrations())


def _newer(version: int, latest: int) -> SchemaNewer:
    return SchemaNewer(
        f"the schema is version {version}, newer than this program's {latest}", hint="Upgrade vkteams-daemon."
    )


def apply_migrations(
    connection: Connection,
    *,
    lock_timeout: float = 60.0,
    beside: bool = False,
    distributed: bool | None = None,
    move: bool = False,
    patience: float = blockers.PATIENCE,
) -> list[int]:
    """Apply the missing migrations, each in its own transaction. Other processes wait until the first has applied them.

    Args:
        connection: in autocommit mode.
        lock_timeout: seconds to wait for another process that migrates.
        beside: whether a new archive may stand beside one that this role has in another schema.
        distributed: whether a new archive is distributed, and an older one must be; None if it stays as it is.
        move: whether an older one that should be distributed and is not is distributed now.
        patience: seconds after which another process that migrates and has fallen silent is ended.

    Raises:
        ConfigError: the archive is distributed and should not be, or the reverse.
        SchemaError: the server or its schema does not fit, or is newer than this program.
        DatabaseUnavailable: another process has migrated for longer than `lock_timeout`.

    Returns:
        The versions that this call applied.
    """
    applied = []
    with translate_errors():
        version = schema_version(connection)
        move = bool(distributed) and (move or not version) and not distribution.is_distributed(connection)
        if move:
            distribution.check_server(connection)
        elif distributed is not None and version:
            distribution.check(connection, distributed)
        if version == max(migrations()) and not move:
            return []
        _lock_migrations(connection, lock_timeout, patience)
        try:
            if not schema_version(connection):
                server_check.check_new_archive(connection, _tables(connection), beside=beside)
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
                    for statement in statements(script):  # Citus hands on the whole text of one that it hands on
                        connection.execute(statement.encode())
                    connection.execute("INSERT INTO schema_version (version) VALUES (%s)", (number,))
                applied.append(number)
            if move or distribution.is_distributed(connection):
                distribution.distribute(connection)
        finally:
            if not connection.closed and connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
                connection.execute(f"SELECT pg_catalog.pg_advisory_unlock({_MIGRATION_LOCK})".encode())
    check_version(connection)
    return applied


def statements(script: str) -> list[str]:
    """The statements of a migration. Each ends with a semicolon at the end of a line, outside of a body in $$."""
    found: list[str] = []
    lines: list[str] = []
    in_body = False
    for line in script.splitlines():
        if line.lstrip().startswith("--") and not in_body:
            continue
        lines.append(line)
        in_body ^= line.count("$$") % 2 == 1
        if line.rstrip().endswith(";") and not in_body:
            found.append("\n".join(lines).strip())
            lines = []
    return [*found, rest] if (rest := "\n".join(lines).strip()) else found


def created_objects() -> list[tuple[str, str]]:
    """(kind, name) of everything but indexes that the migrations make in our schema."""
    found = re.findall(
        r"CREATE(?: OR REPLACE)? (TABLE|FUNCTION|TEXT SEARCH CONFIGURATION|TYPE|SEQUENCE|VIEW) (\w+)",
        "".join(migrations().values()),
    )
    return [("TABLE", "schema_version"), *dict.fromkeys(found)]


def _tables(connection: Connection) -> set[str]:
    """The tables that a first migration makes. `schema_version` is left out if it is ours and empty."""
    names = set(re.findall(r"CREATE TABLE (\w+)", "".join(migrations().values())))
    return names if _has_version_table(connection) else names | {"schema_version"}


def _lock_migrations(connection: Connection, lock_timeout: float, patience: float) -> None:
    deadline = time.monotonic() + lock_timeout
    sessions = blockers.SilentSessions(patience)
    while True:
        row = connection.execute(f"SELECT pg_catalog.pg_try_advisory_lock({_MIGRATION_LOCK})".encode()).fetchone()
        if row and row[0]:
            return
        if sessions.end_holders(connection, _MIGRATION_LOCK, {}):
            continue
        if time.monotonic() > deadline:
            raise DatabaseUnavailable(f"another process has been migrating the schema for {lock_timeout:g} s")
        time.sleep(0.1)


def migrate(url: str) -> list[int]:
    """Apply the missing migrations to the database at this URL, or make an archive; returns the applied versions."""
    with translate_errors(), connect(build_conninfo(url, 5, "vkteams"), MAINTENANCE.apply) as connection:
        return apply_migrations(connection, beside=True)


def schema_history(connection: psycopg.Connection[Any]) -> list[AppliedMigration]:
    """The migrations that were applied to this database, oldest first."""
    with connection.cursor(row_factory=class_row(AppliedMigration)) as cursor:
        cursor.execute("SELECT version, applied_at FROM schema_version ORDER BY version")
        return cursor.fetchall()
