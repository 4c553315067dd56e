"""The tests' own servers do to a client what they promise to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.harness.postgres import PostgresServer
from tests.harness.temporary import clear, servers


def _tables(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]


def test_database_url_has_the_schema_and_no_rows(database_url: str) -> None:
    assert {"bots", "events", "messages"} <= set(_tables(database_url))
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_each_database_is_a_new_one(postgres_server: PostgresServer) -> None:
    with postgres_server.fresh() as first, postgres_server.fresh() as second:
        with psycopg.connect(first) as connection:
            connection.execute("CREATE TABLE only_here ()")
        assert "only_here" not in _tables(second)


def test_empty_database_has_no_table(empty_database_url: str) -> None:
    assert _tables(empty_database_url) == []


def test_database_is_dropped_under_its_clients(postgres_server: PostgresServer) -> None:
    with postgres_server.fresh() as url:
        left = psycopg.connect(url)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    left.close()


def test_only_the_durable_server_flushes(postgres_server: PostgresServer, durable_server: PostgresServer) -> None:
    assert postgres_server.execute("SHOW fsync") == [("off",)]
    assert durable_server.execute("SHOW fsync") == [("on",)]


@pytest.mark.parametrize("end", ["fast", "immediate", "kill"])
def test_committed_rows_survive_the_server(durable_server: PostgresServer, durable_database_url: str, end: str) -> None:
    connection = psycopg.connect(durable_database_url, autocommit=True)
    connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    port, pid = durable_server.port, durable_server.pid
    if end == "kill":
        durable_server.kill()
    else:
        durable_server.stop(end)
    assert not durable_server.running
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    durable_server.start()
    assert durable_server.port == port
    assert durable_server.pid != pid
    assert "kept" in _tables(durable_database_url)


def test_terminated_sessions_are_counted_and_gone(durable_server: PostgresServer, durable_database_url: str) -> None:
    name = durable_database_url.rpartition("/")[2]
    with psycopg.connect(durable_database_url) as connection:
        assert durable_server.terminate_backends(name) == 1
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_paused_server_answers_nothing_until_it_goes_on(
    durable_server: PostgresServer, durable_database_url: str
) -> None:
    durable_server.pause()
    with pytest.raises(psycopg.errors.ConnectionTimeout):
        psycopg.connect(durable_database_url, connect_timeout=2)
    durable_server.resume()
    assert _tables(durable_database_url)


def test_server_left_down_by_a_test_is_brought_back(durable_server: PostgresServer) -> None:
    durable_server.kill()
    durable_server.recover()
    assert durable_server.execute("SELECT 1") == [(1,)]


_RUN = """
import sys
from tests.harness import temporary
from tests.harness.postgres import PostgresServer
base = next(run := temporary.session_tmp.__wrapped__())
server = PostgresServer(base, durable=False)
server.start()
print(base, flush=True)
sys.stdin.read()
"""


class _Run:
    """A process that holds a session's directory with a server in it, as a test run does."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUN], cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout
        self.directory = Path(self.process.stdout.readline().strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_next_run_clears_what_a_killed_run_left_and_spares_the_living() -> None:
    runs = [_Run(), _Run()]
    killed, living = runs
    try:
        killed.kill()
        assert servers(killed.directory), "the killed run left a server behind"
        runs.append(_Run())
        assert not servers(killed.directory)
        assert not killed.directory.exists()
        assert servers(living.directory)
    finally:
        for run in runs:
            run.kill()
            if run.directory.exists():
                clear(run.directory)
