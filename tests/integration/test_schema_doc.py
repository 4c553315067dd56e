"""docs/schema.md says what the tables are: no more, no less, and its statements run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.harness.batches import batch, new
from tests.harness.postgres import PostgresServer
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.ctl.commands import config_readers
from vkteams_daemon.errors import ConfigError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.store import schema
from vkteams_daemon.store.ingest.writer import Writer

PAGE = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
_QUERIES = re.findall(r"```sql\n(.*?)```", PAGE.partition("## Ten queries")[2], re.DOTALL)


def _sections() -> Iterator[tuple[str, str]]:
    for part in PAGE.split("\n## ")[1:]:
        name, _, body = part.partition("\n")
        if re.fullmatch(r"[a-z_]+", name):
            yield name, body


def _documented() -> dict[str, list[str]]:
    return {name: re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE) for name, body in _sections()}


def _there(url: str) -> dict[str, list[str]]:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position)"
            " FROM information_schema.columns WHERE table_schema = current_schema() GROUP BY table_name"
        ).fetchall()
    return dict(found)


def test_every_table_and_no_other_is_documented(database_url: str) -> None:
    assert sorted(_documented()) == sorted(_there(database_url))


def test_every_column_and_no_other_is_documented(database_url: str) -> None:
    assert _documented() == _there(database_url), "in the order of the tables"


def test_every_key_is_documented(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        keys = connection.execute(
            "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'"
            " AND connamespace = current_schema()::regnamespace"
        ).fetchall()
    bodies = dict(_sections())
    for table, definition in keys:
        columns = definition.removeprefix("PRIMARY KEY ")
        spelt = columns if "," in columns else columns.strip("()")
        assert f"Key: `{spelt}`" in bodies[table], table


@pytest.mark.parametrize("number", range(10))
def test_query_runs(database_url: str, number: int) -> None:
    assert len(_QUERIES) == 10
    with psycopg.connect(database_url) as connection:
        connection.read_only = True
        connection.execute(_QUERIES[number].encode())


def _rights(whose: str, owner: str, reader: str) -> str:
    found = re.search(rf"```sql\n-- rights: {whose}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return re.sub(r"\barchive\b", owner, found[1].replace("archive_reader", reader))


def test_documented_rights_are_enough_and_no_more(postgres_server: PostgresServer, empty_database_url: str) -> None:
    name = empty_database_url.rpartition("/")[2]
    owner, reader = f"owner_{name}", f"reader_{name}"

    def administrator(statements: str) -> None:
        with psycopg.connect(empty_database_url, autocommit=True) as connection:
            connection.execute(statements.encode())

    def url(role: str) -> str:
        return empty_database_url.replace(f"{postgres_server.user}:{postgres_server.password}@", f"{role}:x@")

    try:
        administrator(_rights("daemon", owner, reader))
        administrator(f"ALTER ROLE {owner} PASSWORD 'x'")
        schema.migrate(url(owner))
        writer = Writer(lambda: psycopg.connect(url(owner), autocommit=True), "bot")
        until(writer.acquire, 30, "the lock")
        writer.store(batch(*(new(n) for n in range(1, 301))))
        writer.close()
        administrator(_rights("reader", owner, reader))
        administrator(f"ALTER ROLE {reader} PASSWORD 'x'")
        with psycopg.connect(url(owner), autocommit=True) as connection:
            connection.execute("CREATE TABLE later AS SELECT 1 AS n")
        config = Config(database=DatabaseOptions(url=url(owner), read_url=url(reader)))
        assert config_readers.try_read_url(config) == "the readers' role can connect, and cannot write"
        for role in (url(owner), empty_database_url):
            with pytest.raises(ConfigError, match="may do more than read"):
                config_readers.try_read_url(Config(database=DatabaseOptions(url=url(owner), read_url=role)))
        with psycopg.connect(url(reader), autocommit=True) as connection:
            assert connection.execute("SELECT count(*) FROM messages").fetchone() == (300,)
            assert connection.execute("SELECT n FROM later").fetchone() == (1,)
            for query in _QUERIES:
                connection.execute(query.encode())
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                connection.execute("DELETE FROM messages")
            connection.execute("SET default_transaction_read_only = off")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM messages")
    finally:
        for role in (reader, owner):
            if postgres_server.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)):
                administrator(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
