"""A server, a database or a schema that cannot hold an archive is refused in one sentence that says what to run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.harness.batches import batch, new
from tests.harness.postgres import PostgresServer, _free_port
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError, SchemaError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store import schema, server_check
from vkteams_daemon.store.admin import maintenance, word_counts
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import replay
from vkteams_daemon.system.user import choose_owner

_PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


def _database(url: str) -> Database:
    return Database(Config(database=DatabaseOptions(url=url)))


def _execute(url: str, statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statements.encode())


@contextlib.contextmanager
def _pooler(server: PostgresServer, directory: Path, mode: str) -> Iterator[int]:
    """The port of a PgBouncer before the server."""
    port, owner = _free_port(), choose_owner("")
    home = directory / "pooler"
    owner.make_directory(home, 0o700)
    owner.write_file(home / "users", f'"{server.user}" "{server.password}"\n', 0o600)
    owner.write_file(
        home / "ini",
        f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {home}/users\npool_mode = {mode}\n",
        0o600,
    )
    assert _PGBOUNCER is not None
    process = owner.popen([_PGBOUNCER, home / "ini"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(server.url().replace(f":{server.port}/", f":{port}/")).close()
            return True
        return False

    try:
        until(answers, 20, "PgBouncer")
        yield port
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.skipif(_PGBOUNCER is None, reason="PgBouncer is not installed")
@pytest.mark.parametrize("mode", ["transaction", "statement", "session"])
def test_only_a_pooler_in_session_mode_is_taken(
    postgres_server: PostgresServer, database_url: str, open_tmp: Path, mode: str
) -> None:
    with _pooler(postgres_server, open_tmp, mode) as port:
        database = _database(database_url.replace(f":{postgres_server.port}/", f":{port}/"))
        if mode == "session":
            with database:
                return
        with pytest.raises(ConfigError, match="leads through a pooler in transaction mode"):
            database.open()
        with pytest.raises(ConfigError, match="leads through a pooler in transaction mode"):
            database.open(migrate=False)


def test_sessions_that_are_shared_are_refused(database_url: str) -> None:
    """What a pooler that is not busy does: both connections get one session."""
    with psycopg.connect(database_url, autocommit=True) as shared, pytest.raises(ConfigError, match="pooler"):
        server_check.check_session(shared, lambda: shared)
    with psycopg.connect(database_url, autocommit=True) as connection:
        server_check.check_session(connection, lambda: psycopg.connect(database_url, autocommit=True))


def test_new_archive_is_refused_where_others_may_create(
    postgres_server: PostgresServer, empty_database_url: str
) -> None:
    other = f"other_{empty_database_url.rpartition('/')[2]}"
    _execute(empty_database_url, f"CREATE ROLE {other}; GRANT CREATE ON SCHEMA public TO PUBLIC, {other}")
    try:
        with pytest.raises(SchemaError, match="other roles may create functions in schema public") as refused:
            schema.migrate(empty_database_url)
        assert refused.value.hint == f'Run `REVOKE CREATE ON SCHEMA "public" FROM PUBLIC, {other}`.'
        _execute(empty_database_url, refused.value.hint.split("`")[1])
        assert schema.migrate(empty_database_url) == list(schema.migrations())
        _execute(empty_database_url, "GRANT CREATE ON SCHEMA public TO PUBLIC")
        with _database(empty_database_url) as database, database.connect() as connection:
            [problem] = server_check.problems(connection)
            assert "schema public" in problem and "REVOKE CREATE" in problem
    finally:
        _execute(empty_database_url, f"DROP OWNED BY {other}; DROP ROLE {other}")


def test_new_archive_is_refused_where_letters_are_bytes(postgres_server: PostgresServer) -> None:
    name = "letters_are_bytes"
    postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
    try:
        with pytest.raises(SchemaError, match="takes letters for bytes") as refused:
            schema.migrate(postgres_server.url(name))
        postgres_server.drop_database(name)
        postgres_server.execute(refused.value.hint.split("`")[1])
        assert schema.migrate(postgres_server.url(name)) == list(schema.migrations())
    finally:
        postgres_server.drop_database(name)


def test_daemon_makes_no_second_archive_where_the_search_path_went_astray(database_url: str) -> None:
    _execute(database_url, "CREATE SCHEMA astray")
    database = _database(f"{database_url}?options=-csearch_path%3Dastray")
    with pytest.raises(SchemaError, match="leads to schema astray, and the archive is in schema public"):
        database.open()
    with pytest.raises(SchemaError, match="a schema without an archive, and schema public holds one"):
        database.open(migrate=False)
    database.open(beside=True)
    database.close()


def test_template_database_is_refused(postgres_server: PostgresServer) -> None:
    with pytest.raises(SchemaError, match="the database template1 is a template"):
        schema.migrate(postgres_server.url("template1"))


@pytest.mark.parametrize("table", ["users (id int)", "schema_version (version text)", "schema_version (version int)"])
def test_tables_of_another_program_are_named(empty_database_url: str, table: str) -> None:
    _execute(empty_database_url, f"CREATE TABLE {table}")
    with pytest.raises(SchemaError, match=f"schema public has tables of another program: {table.partition(' ')[0]}"):
        schema.migrate(empty_database_url)


_TRAPS = (
    "hashtextextended(text, integer)", "unnest(text[])", "make_interval(double precision)", "max(integer)",
    "concat_ws(text, text, text)", "length(varchar)", "lower(text)", "set_config(text, text, boolean)",
    "plainto_tsquery(text, text)", "pg_notify(text, text)", "count(text)", "current_setting(text)",
)  # fmt: skip


def test_function_of_another_role_never_runs(postgres_server: PostgresServer, database_url: str) -> None:
    eve = f"eve_{database_url.rpartition('/')[2]}"
    _execute(database_url, f"CREATE ROLE {eve} LOGIN PASSWORD 'x'; GRANT CREATE ON SCHEMA public TO {eve}")
    try:
        for trap in _TRAPS:
            _execute(
                database_url.replace(f"{postgres_server.user}:{postgres_server.password}@", f"{eve}:x@"),
                f"CREATE FUNCTION public.{trap} RETURNS bigint LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'a trap runs'; END $$",
            )
        writer = Writer(lambda: psycopg.connect(database_url, autocommit=True), "1")
        assert writer.acquire()
        writer.store(batch(*(new(number) for number in range(1, 301))))
        writer.close()
        with Archive(database_url) as archive, _database(database_url) as database, database.connect() as connection:
            assert archive.search("text 7", mode="text").hits is not None
            assert archive.statistics().messages == len(archive.latest(limit=1000))
            archive.context()
            replay.everything(connection, erase=False)
            word_counts.count_words(connection)
            maintenance.plan(connection)
            assert server_check.problems(connection)
        assert "a trap runs" not in postgres_server.log()
    finally:
        _execute(database_url, f"DROP OWNED BY {eve}; DROP ROLE {eve}")
