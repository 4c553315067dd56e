"""The schema is created once, completely or not at all, and only on a server that fits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.postgres import PROGRAMS, PostgresServer
from tests.harness.waiting import until
from vkteams_daemon.errors import DatabaseUnavailable, SchemaError
from vkteams_daemon.store import connections, schema

LATEST = max(schema.migrations())
DUMPS = sorted((Path(__file__).parents[1] / "schemas").glob("*.sql"))


def ask(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def catalogue(url: str) -> dict[str, list[Any]]:
    """Everything in the schema that a program depends on."""
    return {
        "columns": ask(
            url,
            "SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,"
            " pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
            " WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND a.attnum > 0"
            " AND NOT a.attisdropped ORDER BY 1, 2",
        ),
        "constraints": ask(
            url,
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = current_schema()::regnamespace"
            " AND conrelid::regclass::text !~ '_[0-9]{6,}$' ORDER BY 1, 2",  # not of a shard
        ),
        "indexes": ask(
            url, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 1"
        ),
        "options": ask(
            url,
            "SELECT relname, reloptions FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
            " AND reloptions IS NOT NULL ORDER BY 1",
        ),
        "configurations": ask(
            url,
            "SELECT c.cfgname, m.maptokentype, m.mapseqno, d.dictname FROM pg_ts_config c"
            " JOIN pg_ts_config_map m ON m.mapcfg = c.oid JOIN pg_ts_dict d ON d.oid = m.mapdict"
            " WHERE c.cfgnamespace = current_schema()::regnamespace ORDER BY 1, 2, 3",
        ),
    }


def test_every_migration_has_a_number_of_its_own() -> None:
    files = list((Path(schema.__file__).parent / "migrations").glob("*.sql"))
    assert len(files) == len(schema.migrations())


def test_first_migration_makes_the_schema_and_the_second_does_nothing(empty_database_url: str) -> None:
    assert schema.migrate(empty_database_url) == list(schema.migrations())
    first = catalogue(empty_database_url)
    assert schema.migrate(empty_database_url) == []
    assert catalogue(empty_database_url) == first
    assert [row[1] for row in first["columns"] if row[0] == "bots"]


def test_starters_in_threads_migrate_once(empty_database_url: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        applied = list(pool.map(lambda _: schema.migrate(empty_database_url), range(8)))
    assert sorted(version for versions in applied for version in versions) == list(schema.migrations())


def test_starters_in_processes_migrate_once(empty_database_url: str) -> None:
    program = "import sys; from vkteams_daemon.store.schema import migrate; print(len(migrate(sys.argv[1])))"
    starters = [
        subprocess.Popen([sys.executable, "-c", program, empty_database_url], stdout=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    applied = [int(starter.communicate(timeout=100)[0]) for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 5
    assert sum(applied) == len(schema.migrations())


_SLOW = """
import sys
from vkteams_daemon.store import schema
scripts = schema.migrations() | {%(last)d: "CREATE TABLE half (); SELECT pg_sleep(600)"}
schema.migrations = lambda: scripts
schema.migrate(sys.argv[1])
"""


def test_migration_killed_in_the_middle_leaves_the_version_before_it(empty_database_url: str) -> None:
    schema.migrate(empty_database_url)
    before = catalogue(empty_database_url)
    slow = subprocess.Popen([sys.executable, "-c", _SLOW % {"last": LATEST + 1}, empty_database_url])
    try:
        asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        until(lambda: ask(empty_database_url, asleep), 60, "the middle of the migration")
    finally:
        slow.send_signal(signal.SIGKILL)
        slow.wait(30)
    assert catalogue(empty_database_url) == before
    assert ask(empty_database_url, "SELECT max(version) FROM schema_version") == [(LATEST,)]
    assert schema.migrate(empty_database_url) == []


def test_first_migration_killed_in_the_middle_is_begun_again(empty_database_url: str) -> None:
    slow = subprocess.Popen([sys.executable, "-c", _SLOW % {"last": 1}, empty_database_url])
    try:
        asleep = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        until(lambda: ask(empty_database_url, f"{asleep} AND datname = current_database()"), 60, "the migration")
    finally:
        slow.kill()
        slow.wait(30)
    assert schema.migrate(empty_database_url) == list(schema.migrations())


def test_migration_that_fails_leaves_nothing(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    schema.migrate(empty_database_url)
    before = catalogue(empty_database_url)
    scripts = schema.migrations() | {LATEST + 1: "CREATE TABLE half (); SELECT 1 / 0"}
    monkeypatch.setattr(schema, "migrations", lambda: scripts)
    with pytest.raises(Exception, match="division by zero"):
        schema.migrate(empty_database_url)
    assert catalogue(empty_database_url) == before
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        monkeypatch.undo()
        schema.check_version(connection)


def test_waiting_too_long_for_another_migration_raises(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as holder:
        holder.execute(f"SELECT pg_advisory_lock({schema._MIGRATION_LOCK})".encode())
        with (
            psycopg.connect(empty_database_url, autocommit=True) as waiting,
            pytest.raises(DatabaseUnavailable, match="another process has been migrating the schema for 0 s"),
        ):
            schema.apply_migrations(waiting, lock_timeout=0)


def test_newer_schema_is_refused(database_url: str) -> None:
    ask(database_url, f"INSERT INTO schema_version (version) VALUES ({LATEST + 1})")
    sentence = f"the schema is version {LATEST + 1}, newer than this program's {LATEST}"
    with pytest.raises(SchemaError, match=sentence) as refused:
        schema.migrate(database_url)
    assert refused.value.hint == "Upgrade vkteams-daemon."
    assert ask(database_url, "SELECT count(*) FROM events") == [(0,)]


def test_database_without_archive_is_refused_without_migrating(empty_database_url: str) -> None:
    with (
        psycopg.connect(empty_database_url, autocommit=True) as connection,
        pytest.raises(SchemaError, match="the database holds no archive yet"),
    ):
        schema.check_version(connection)


def test_schema_is_created_in_the_first_schema_of_the_search_path(empty_database_url: str) -> None:
    ask(empty_database_url, "CREATE SCHEMA archive")
    url = f"{empty_database_url}?options=-csearch_path%3Darchive,public"
    schema.migrate(url)
    tables = ask(empty_database_url, "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'events'")
    assert tables == [("archive",)]
    assert schema.migrate(url) == []


def test_two_archives_live_beside_each_other(empty_database_url: str) -> None:
    ask(empty_database_url, "CREATE SCHEMA one; CREATE SCHEMA two; CREATE EXTENSION vector")
    urls = [f"{empty_database_url}?options=-csearch_path%3D{schema},public" for schema in ("one", "two")]
    assert [schema.migrate(url) for url in urls] == [list(schema.migrations())] * 2
    ask(urls[0], "INSERT INTO bots (bot_id) VALUES ('b')")
    assert ask(urls[1], "SELECT count(*) FROM bots") == [(0,)]


def test_table_of_another_program_is_not_taken_for_ours(empty_database_url: str) -> None:
    ask(empty_database_url, "CREATE SCHEMA archive; CREATE TABLE public.schema_version (version text, script text)")
    assert schema.migrate(f"{empty_database_url}?options=-csearch_path%3Darchive,public") == list(schema.migrations())


def test_foreign_events_table_is_refused(empty_database_url: str) -> None:
    ask(empty_database_url, "CREATE TABLE events (id int)")
    with pytest.raises(SchemaError, match="schema public has tables of another program: events"):
        schema.migrate(empty_database_url)
    assert ask(empty_database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("events",)]


def test_missing_search_path_is_refused(empty_database_url: str) -> None:
    with pytest.raises(SchemaError, match="no schema of the search_path exists"):
        schema.migrate(f"{empty_database_url}?options=-csearch_path%3Dnowhere")


def test_extension_outside_the_search_path_is_found(empty_database_url: str) -> None:
    ask(empty_database_url, "CREATE SCHEMA archive; CREATE SCHEMA vectors; CREATE EXTENSION vector SCHEMA vectors")
    assert schema.migrate(f"{empty_database_url}?options=-csearch_path%3Darchive") == list(schema.migrations())


def test_extension_in_a_closed_schema_is_refused(postgres_server: PostgresServer, empty_database_url: str) -> None:
    ask(empty_database_url, "CREATE SCHEMA vectors; CREATE EXTENSION vector SCHEMA vectors")
    with role(postgres_server, empty_database_url) as (name, url):
        ask(empty_database_url, f"CREATE SCHEMA AUTHORIZATION {name}")
        with pytest.raises(SchemaError, match=r"pgvector .* in schema vectors cannot be used"):
            schema.migrate(url)


@contextlib.contextmanager
def role(server: PostgresServer, url: str) -> Iterator[tuple[str, str]]:
    """A role without rights, and the URL with which it connects."""
    name = f"role_{url.rpartition('/')[2]}"
    server.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    try:
        yield name, url.replace(f"{server.user}:{server.password}@", f"{name}:secret@")
    finally:
        ask(url, f"DROP OWNED BY {name} CASCADE")
        server.execute(f"DROP ROLE {name}")


def test_missing_rights_are_reported_in_one_sentence(postgres_server: PostgresServer, empty_database_url: str) -> None:
    with (
        role(postgres_server, empty_database_url) as (_, url),
        pytest.raises(SchemaError, match=r"the database role lacks a right: permission denied for schema public") as e,
    ):
        schema.migrate(url)
    assert "docs/schema.md" in e.value.hint


def test_role_with_the_documented_rights_can_migrate(postgres_server: PostgresServer, empty_database_url: str) -> None:
    ask(empty_database_url, "CREATE EXTENSION vector")
    with role(postgres_server, empty_database_url) as (name, url):
        ask(empty_database_url, f"CREATE SCHEMA AUTHORIZATION {name}")
        assert schema.migrate(url) == list(schema.migrations())


def test_role_without_rights_on_the_tables_is_refused(postgres_server: PostgresServer, database_url: str) -> None:
    with (
        role(postgres_server, database_url) as (_, url),
        pytest.raises(SchemaError, match="permission denied for table schema_version"),
    ):
        schema.migrate(url)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_wrong_encoding_is_refused(postgres_server: PostgresServer, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(SchemaError, match=f"the database's encoding is {encoding}, not UTF8"):
            schema.migrate(postgres_server.url(name))
    finally:
        postgres_server.drop_database(name)


def test_missing_pgvector_is_refused(empty_database_url: str) -> None:
    if os.environ.get(PROGRAMS):
        pytest.skip("only PostgreSQL 18 can be told to look for extensions elsewhere")
    name = empty_database_url.rpartition("/")[2]
    ask(empty_database_url, f"ALTER DATABASE {name} SET extension_control_path = '/nowhere'")
    with pytest.raises(SchemaError, match="the server has no pgvector"):
        schema.migrate(empty_database_url)


def test_pgclientencoding_is_ignored(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with psycopg.connect(connections.build_conninfo(database_url, 5, "test")) as connection:
        assert connection.execute("SELECT %s", ("ёж",)).fetchone() == ("ёж",)


@pytest.mark.parametrize(
    "dump", DUMPS or [None], ids=lambda dump: f"from {dump.stem}" if dump else "no schema is released yet: fresh only"
)
def test_upgrade_of_every_released_schema_equals_a_fresh_one(
    postgres_server: PostgresServer, empty_database_url: str, database_url: str, dump: Path | None
) -> None:
    """tests/schemas/NNN.sql: what pg_dump has written of a database at release NNN, with some rows in it."""
    counts: dict[str, Any] = {}
    if dump is not None:
        ask(empty_database_url, dump.read_text(encoding="utf-8"))
        tables = [
            row[0] for row in ask(empty_database_url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        ]
        counts = {table: ask(empty_database_url, f"SELECT count(*) FROM {table}") for table in tables}
        counts.pop("schema_version")
    schema.migrate(empty_database_url)
    assert catalogue(empty_database_url) == catalogue(database_url)
    assert {table: ask(empty_database_url, f"SELECT count(*) FROM {table}") for table in counts} == counts
