"""Restores a backup into an empty archive, in one transaction: after a failure nothing of the backup is there."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from psycopg import sql

from vkteams_daemon.errors import AlreadyRunning, BackupDamaged, SchemaError, SchemaNewer, StoreError
from vkteams_daemon.store import distribution, gaps, schema
from vkteams_daemon.store.backup import client_programs
from vkteams_daemon.store.backup.backup import describe
from vkteams_daemon.store.backup.container import BackupReader, Manifest
from vkteams_daemon.store.backup.copy_progress import Progress, watch_copies
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.system.user import Owner

_LEFT_OUT = re.compile(r"\d+; \d+ \d+ (SCHEMA|EXTENSION|COMMENT|ACL) ")
_OURS_CONNECTED = (
    "SELECT pid FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database()"
    " AND application_name = 'vkteamsd' AND pid <> pg_backend_pid() LIMIT 1"
)


def restore(
    connect: Callable[[], Connection], conninfo: str, reader: BackupReader, progress: Progress,
    owner: Owner | None = None,
) -> Manifest:  # fmt: skip
    """Restore a backup, bring its schema up to date, and store the gap that it leaves.

    Args:
        connect: opens a connection without time limits to an archive that is up to date and empty.
        conninfo: of the database, for pg_restore.
        reader: the backup, of which only the manifest has been read.
        progress: called with the rows that are done and all rows.
        owner: whom the server is to see; None is the user of this process.

    Returns:
        The manifest of the archive as it is now.

    Raises:
        SchemaError: the place is not empty, or does not fit the backup.
        AlreadyRunning: vkteamsd is connected to the database.
        BackupDamaged: the backup is not whole; nothing of it was restored.
        StoreError: the database refuses it, and nothing of it was restored; or the restored tables have other rows than
            the backup names, and stay to be looked at.
    """
    manifest = reader.manifest
    newest = max(schema.migrations())
    if manifest.schema_version > newest:
        raise SchemaNewer(
            f"the backup's schema is version {manifest.schema_version}, newer than this program's {newest}",
            hint="Upgrade vkteams-daemon.",
        )
    with translate_errors(), connect() as connection:
        distribution.refuse(
            connection,
            "database restore",
            "Restore it to one server, then set database.distributed and run `vkteamsctl database migrate`.",
        )
        _check_place(connection, manifest)
        program = client_programs.find("pg_restore", manifest.server // 10000)
        _clear(connection)
        total = sum(manifest.tables.values())
        with watch_copies(connect, client_programs.application_name(program), lambda: total, progress):
            _load(program, conninfo, reader, owner)
        there = describe(connection, manifest.schema)
        if there.tables != manifest.tables:
            raise StoreError("the restored tables have other rows than the backup names")
        schema.apply_migrations(connection, beside=True)
        with connection.transaction():
            schema.fence(connection)
            gaps.add_restored(connection, manifest.created_at)
        connection.execute("ANALYZE")
        return describe(connection, manifest.schema)


def _check_place(connection: Connection, manifest: Manifest) -> None:
    row = connection.execute("SELECT current_schema()::text").fetchone()
    place = row[0] if row else None
    if place != manifest.schema:
        raise SchemaError(
            f"the backup is of schema {manifest.schema}, and the search_path leads to {place}",
            hint=f"Run `ALTER ROLE ... SET search_path = {manifest.schema}`, and create that schema.",
        )
    if connection.execute(_OURS_CONNECTED).fetchone():
        raise AlreadyRunning("vkteamsd is connected to this database", hint="Stop it first.")
    row = connection.execute(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM events LIMIT 1) AS one),"
        " (SELECT count(*) FROM (SELECT 1 FROM messages LIMIT 1) AS one)"
    ).fetchone()
    if row and any(row):
        raise SchemaError(
            "the archive is not empty, and a backup is restored into an empty one",
            hint="Name an empty database, or stop the daemon and move the bundled one away.",
        )


def _clear(connection: Connection) -> None:
    """Drop what the migrations have made for an empty archive: the backup brings its own, perhaps an earlier one."""
    with connection.transaction():
        for kind, name in schema.created_objects():
            connection.execute(sql.SQL("DROP {} IF EXISTS {} CASCADE").format(sql.SQL(kind), sql.Identifier(name)))


def _load(program: Path, conninfo: str, reader: BackupReader, owner: Owner | None) -> None:
    parts = reader.parts()
    first = next(parts, b"")
    with tempfile.NamedTemporaryFile() as contents, tempfile.TemporaryFile() as errors:
        contents.write(_table_of_contents(program, first))
        contents.flush()
        if owner:
            os.fchown(contents.fileno(), owner.uid, -1)
        command, environment = client_programs.command(
            program, conninfo, "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges",
            f"--use-list={contents.name}",
        )  # fmt: skip
        rights = owner.rights() if owner else {}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors, env=environment, **rights) as process:
            assert process.stdin is not None
            try:
                _feed(process.stdin, first, parts)
            except BackupDamaged:
                process.kill()
                raise
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            if process.wait():
                raise client_programs.failure("pg_restore", errors)


def _feed(pipe: IO[bytes], first: bytes, parts: Iterator[bytes]) -> None:
    """Give the dump to pg_restore, its last part only when the backup has proved whole: pg_restore commits after it.

    If pg_restore has ended early, read the rest of the backup: if it is damaged, that is the reason.
    """
    held = first
    try:
        for part in parts:
            pipe.write(held)
            held = part
        pipe.write(held)
        pipe.flush()
    except BrokenPipeError:
        for _ in parts:
            pass


def _table_of_contents(program: Path, beginning: bytes) -> bytes:
    """The contents of the dump, without what the place must have already."""
    done = subprocess.run([program, "--list"], input=beginning, capture_output=True, check=False)
    if done.returncode:
        raise BackupDamaged("pg_restore cannot read the dump in the backup")
    lines = done.stdout.splitlines(keepends=True)
    return b"".join(line for line in lines if not _LEFT_OUT.match(line.decode(errors="replace")))
