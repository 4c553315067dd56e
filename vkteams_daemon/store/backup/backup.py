"""Makes a backup: a consistent dump of the archive beside the daemon, which goes on."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, BinaryIO

from psycopg import sql

from vkteams_daemon import __version__
from vkteams_daemon.store import distribution, gaps
from vkteams_daemon.store.backup import client_programs, container
from vkteams_daemon.store.backup.container import BackedUpCursor, BackedUpModel, Manifest
from vkteams_daemon.store.backup.copy_progress import Progress, watch_copies
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.schema import schema_version
from vkteams_daemon.system.user import Owner

_TABLES = (
    "SELECT c.relname::text FROM pg_catalog.pg_class c WHERE c.relnamespace = ("
    "SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = current_schema()) AND c.relkind IN ('r', 'p')"
    " AND NOT c.relispartition ORDER BY c.relname"
)


def make(
    connect: Callable[[], Connection],
    conninfo: str,
    out: BinaryIO,
    configuration: str,
    progress: Progress,
    owner: Owner | None = None,
) -> Manifest:
    """Write a backup of the archive as it is now.

    Args:
        connect: opens a connection without time limits.
        conninfo: of the archive's database, for pg_dump.
        out: where to; only written to, in order.
        configuration: without secrets.
        progress: called with the rows that are done and all rows.
        owner: whom the server is to see; None is the user of this process.

    Raises:
        ConfigError: no pg_dump fits the server.
        StoreError: the archive cannot be read.
        OSError: `out` does not take it.
    """
    with translate_errors(), connect() as connection:
        distribution.refuse(
            connection,
            "database backup",
            "Stop the daemon, and run PostgreSQL's pg_dump on the coordinator: it writes the rows of all machines"
            " (docs/scaling.md).",
        )
        program = client_programs.find("pg_dump", connection.info.server_version // 10000)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot, schema = _one(connection, "SELECT pg_catalog.pg_export_snapshot(), current_schema()::text")
        command, environment = client_programs.command(
            program, conninfo, "--format=custom", "--no-owner", "--no-privileges", "--no-comments", "--no-publications",
            "--no-subscriptions", "--strict-names", f"--schema={_pattern(schema)}", f"--snapshot={snapshot}",
        )  # fmt: skip
        rights = owner.rights() if owner else {}
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, **rights) as dump,
        ):
            assert dump.stdout is not None
            described: list[Manifest] = []

            def manifest() -> Manifest:
                # pg_dump has the snapshot by now. An open transaction would only keep others waiting.
                described.append(describe(connection, schema))
                connection.execute("COMMIT")
                return described[0]

            def finished() -> None:
                if dump.wait():
                    raise client_programs.failure("pg_dump", errors)

            rows = lambda: sum(described[0].tables.values()) if described else 0  # noqa: E731
            with watch_copies(connect, client_programs.application_name(program), rows, progress):
                try:
                    container.write(out, manifest, configuration, dump.stdout, finished)
                except BaseException:
                    dump.kill()
                    raise
    return described[0]


def describe(connection: Connection, schema: str) -> Manifest:
    """The manifest of the archive as this transaction sees it."""
    tables = [name for (name,) in connection.execute(_TABLES).fetchall()]
    rows = {
        name: int(_one(connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name)))[0])
        for name in tables
    }
    bots = connection.execute("SELECT bot_id, generation, last_event_id FROM bots ORDER BY bot_id").fetchall()
    models = connection.execute("SELECT name, fingerprint, state FROM embedding_models ORDER BY model_id").fetchall()
    (vector,) = _one(connection, "SELECT extversion::text FROM pg_catalog.pg_extension WHERE extname = 'vector'")
    (moment,) = _one(connection, "SELECT pg_catalog.transaction_timestamp()")
    return Manifest(
        created_at=moment.astimezone(UTC) if isinstance(moment, datetime) else datetime.now(UTC),
        program=__version__, schema_version=schema_version(connection), schema=schema,
        archive_id=gaps.archive_id(connection), server=connection.info.server_version, vector=vector, tables=rows,
        bots=[BackedUpCursor(bot_id=row[0], generation=row[1], last_event_id=row[2]) for row in bots],
        models=[BackedUpModel(name=row[0], fingerprint=row[1], state=row[2]) for row in models],
    )  # fmt: skip


def _one(connection: Connection, query: str | sql.Composed) -> tuple[Any, ...]:
    row = connection.execute(query.encode() if isinstance(query, str) else query).fetchone()
    assert row is not None
    return row


def _pattern(schema: str) -> str:
    """The schema's name as pg_dump's pattern that matches it alone."""
    return '"' + schema.replace('"', '""') + '"'
