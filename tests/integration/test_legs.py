"""The legs of a search run side by side, and see one state of the archive; without a free connection one by one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.mcp import embedded
from tests.harness.models import NAME
from tests.harness.talk import Talk
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.options import Embedding
from vkteams_daemon.search import legs as legs_of
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.legs import Legs
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database


def _count(connection: Connection) -> int:
    [(count,)] = connection.execute("SELECT count(*) FROM messages").fetchall()
    return int(count)


def _begin(connection: Connection, snapshot: str | None = None) -> None:
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    if snapshot:
        connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())


@pytest.fixture
def database(talk: Talk) -> Iterator[Database]:
    with Database(Config(database=DatabaseOptions(url=talk.url, pool_size=2))) as database:
        with database.connection(), database.connection():
            pass  # both are open
        yield database


@pytest.fixture
def question(database: Database) -> Iterator[tuple[Connection, Legs]]:
    """The connection of a question, and its legs."""
    with ThreadPoolExecutor(2) as threads, database.connection() as connection, connection.transaction():
        _begin(connection)
        with legs_of.waited_for(Legs(database.pool, threads, _begin)) as legs:
            yield connection, legs


def test_a_leg_sees_the_state_of_the_question(question: tuple[Connection, Legs], talk: Talk) -> None:
    connection, legs = question
    talk.say("1", "before")
    assert _count(connection) == 1
    talk.say("2", "after")
    leg = legs.start(connection, lambda other: (_count(other), other is not connection))
    assert leg() == (1, True)
    assert legs.start(connection, _count)() == 1, "the connection is free again"


def test_a_leg_without_a_free_connection_waits_for_nobody(question: tuple[Connection, Legs]) -> None:
    connection, legs = question
    go_on = threading.Event()
    first = legs.start(connection, lambda other: (go_on.wait(30), other is connection))
    second = legs.start(connection, lambda other: other is connection)
    assert second(), "it runs on the question's own"
    go_on.set()
    assert first() == (True, False)


def test_a_leg_whose_connection_is_lost_runs_again(question: tuple[Connection, Legs]) -> None:
    connection, legs = question

    def leg(other: Connection) -> str:
        if other is not connection:
            other.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        return "found"

    assert legs.start(connection, leg)() == "found"


def test_an_error_of_a_leg_is_the_questions(question: tuple[Connection, Legs]) -> None:
    connection, legs = question

    def leg(other: Connection) -> None:
        other.execute("SET LOCAL statement_timeout = 1")
        other.execute("SELECT pg_sleep(30)")

    with pytest.raises(psycopg.errors.QueryCanceled):
        legs.start(connection, leg)()


def test_answers_side_by_side_are_those_one_by_one(
    talk: Talk, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.many([f"the server {n % 7} is down in rack {n % 5}" for n in range(40)])
    embedded(talk.url, models_dir / NAME)
    beside: list[Any] = []
    run = Legs._run
    monkeypatch.setattr(Legs, "_run", lambda self, *rest: beside.append(rest) or run(self, *rest))
    config = Config(database=DatabaseOptions(url=talk.url), embedding=Embedding(models_dir=str(models_dir)))
    with Archive(config) as archive:
        alone = archive.search("server down in rack 3")
        assert not beside, "a command that asks once needs one connection"

        def again() -> bool:
            assert archive.search("server down in rack 3") == alone
            return bool(beside)

        until(again, 30, "a leg beside another one")
