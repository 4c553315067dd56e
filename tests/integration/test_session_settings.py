"""Whatever role, database and environment set, every connection of the product has the same settings."""

from __future__ import annotations

import contextlib
import io
import re
import tokenize
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

import vkteams_daemon
from tests.harness.batches import batch, new
from tests.harness.cluster import on_cluster
from tests.harness.postgres import PostgresServer
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotWrite, StoreError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store import connection_profiles, schema
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer

_HOSTILE = {
    "DateStyle": "German", "IntervalStyle": "sql_standard", "TimeZone": "Asia/Tokyo", "array_nulls": "off",
    "bytea_output": "escape", "extra_float_digits": "-15", "standard_conforming_strings": "off",
    "quote_all_identifiers": "on", "transform_null_equals": "on", "gin_fuzzy_search_limit": "1",
    "default_transaction_isolation": "serializable", "default_transaction_deferrable": "on",
    "statement_timeout": "200", "lock_timeout": "200", "idle_in_transaction_session_timeout": "200",
    "idle_session_timeout": "200", "transaction_timeout": "200", "client_encoding": "LATIN1",
    "search_path": '"$user", public, pg_catalog',
    "session_replication_role": "replica",
}  # fmt: skip
_CHANGING = ("idle_session_timeout", "idle_in_transaction_session_timeout", "lock_timeout")  # by profile


@contextlib.contextmanager
def hostile(server: PostgresServer, url: str) -> Iterator[str]:
    """The URL with which a role connects that has hostile settings and may do everything in the archive."""
    name = f"hostile_{url.rpartition('/')[2]}"
    server.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'x'")
    for setting, value in _HOSTILE.items():
        quoted = value if setting == "search_path" else f"'{value}'"
        server.execute(f"ALTER ROLE {name} SET {setting} = {quoted}")
    try:
        yield url.replace(f"{server.user}:{server.password}@", f"{name}:x@")
    finally:
        server.drop_database(url.rpartition("/")[2])
        server.execute(f"DROP ROLE {name}")


def _settings(connection: Connection) -> dict[str, str]:
    rows = connection.execute(
        "SELECT name, setting FROM pg_settings WHERE name <> 'application_name' AND context IN ('user', 'superuser')"
    ).fetchall()
    return {name: value.replace('"', "") for name, value in rows if name not in _CHANGING}


def test_every_connection_has_the_same_settings_whatever_the_role_has(
    postgres_server: PostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gathered(url: str) -> dict[str, dict[str, str]]:
        settings = {}
        database = Database(Config(database=DatabaseOptions(url=url)))
        with database, Archive(url) as archive:
            archive.latest()
            with database.connection() as connection:
                settings["pool"] = _settings(connection)
            for profile in (connection_profiles.WORKER, connection_profiles.READER, connection_profiles.MAINTENANCE):
                with database.connect(profile) as connection:
                    settings[profile.name] = _settings(connection)
            with archive._database.connection() as connection:
                settings["archive"] = _settings(connection)
            writer = Writer(lambda: database.connect(None), "1")
            assert writer.acquire()
            with writer._session.exclusive() as connection:
                settings["writer"] = _settings(connection)
            writer.close()
        return settings

    plain = gathered(database_url)
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("PGOPTIONS", "-c bytea_output=escape -c array_nulls=off")
    with hostile(postgres_server, database_url) as url:
        changed = gathered(url)
    for kind, settings in plain.items():
        assert set(changed[kind].items()) ^ set(settings.items()) == set(), kind
    assert plain["writer"].items() >= {"DateStyle": "ISO, MDY", "search_path": "public, pg_temp"}.items()


def test_no_limit_of_the_role_ends_the_statements_that_lift_it(
    postgres_server: PostgresServer, database_url: str
) -> None:
    if on_cluster(database_url):
        pytest.skip("Citus reads the locked table itself, before it takes the statement that lifts the limits")
    waits = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND now() - query_start > '300 ms'"
    with hostile(postgres_server, database_url) as url, psycopg.connect(database_url) as holder:
        holder.execute("LOCK TABLE pg_extension IN ACCESS EXCLUSIVE MODE")
        with (
            contextlib.closing(Database(Config(database=DatabaseOptions(url=url)))) as database,
            ThreadPoolExecutor() as pool,
        ):
            connecting = pool.submit(database.connect)
            until(lambda: connecting.done() or postgres_server.execute(waits), 30, "it to wait past every limit")
            holder.rollback()
            with connecting.result(30) as connection:
                assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_deleted_text_is_deleted_under_a_datestyle_of_its_own(
    postgres_server: PostgresServer, database_url: str
) -> None:
    with hostile(postgres_server, database_url) as url:
        assert schema.migrate(url) == []
        writer = Writer(lambda: psycopg.connect(url, autocommit=True), "1")
        assert writer.acquire()
        writer.store(batch(new(1)))
        with Database(Config(database=DatabaseOptions(url=url))) as database, database.connection() as connection:
            # A table's column would be written by the machine of a cluster that has the row.
            assert connection.execute("SELECT now()::text").fetchall()[0][0].endswith("+00")
        writer.close()


def test_read_only_database_is_refused_in_one_sentence(postgres_server: PostgresServer, database_url: str) -> None:
    name = database_url.rpartition("/")[2]
    postgres_server.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    database = Database(Config(database=DatabaseOptions(url=database_url)))
    with pytest.raises(CannotWrite, match="can only be read by this role") as refused:
        database.open()
    assert "ALTER DATABASE" in refused.value.hint
    with Archive(database_url) as archive:
        assert archive.latest() == []


def test_closed_search_path_shows_our_schema_and_pgvectors(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Our\'s"; CREATE SCHEMA vectors; CREATE EXTENSION vector SCHEMA vectors')
    url = f"{empty_database_url}?options=-csearch_path%3Dpg_catalog,%22Our's%22,public"
    schema.migrate(url)
    with Database(Config(database=DatabaseOptions(url=url))) as database, database.connect() as connection:
        row = connection.execute("SELECT current_setting('search_path'), current_schema(), to_regclass('bots')::text")
        assert row.fetchone() == ('"Our\'s", vectors, pg_temp', "Our's", "bots")
        with pytest.raises(StoreError):
            Database(Config(database=DatabaseOptions(url=empty_database_url))).open()


# Grammar, or a function that the parser qualifies itself.
_GRAMMAR = {"coalesce", "greatest", "least", "nullif", "grouping", "extract", "substring"}


def _unqualified_calls(names: set[str]) -> Iterator[str]:
    """The calls with arguments in the strings of store/ and search/ that another role's function could win."""
    for folder in ("store", "search"):
        for file in sorted((Path(vkteams_daemon.__file__).parent / folder).rglob("*.py")):
            tokens = tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)
            for token in tokens:
                if token.type != tokenize.STRING or token.string.lstrip("bfr").startswith('"""'):
                    continue
                text = re.sub(r"%\(\w+\)", "%", re.sub(r"\{[^}]*\}", "", token.string))
                for call in re.finditer(r"(?<![\w.%])([a-z_][a-z_0-9]*)\((?!\)|\*)([^()]*\)?)", text):
                    several = call[1] == "unnest" and "," in call[2]  # the parser makes pg_catalog.unnest of each
                    if call[1] in names and call[1] not in _GRAMMAR and not several:
                        yield f"{file.name}:{token.start[0]}: {call[0]}"


def test_calls_with_arguments_are_qualified(postgres_server: PostgresServer) -> None:
    names = {name for (name,) in postgres_server.execute("SELECT DISTINCT proname FROM pg_proc")}
    assert [call for call in _unqualified_calls(names) if not call.startswith("cluster.py")] == []
