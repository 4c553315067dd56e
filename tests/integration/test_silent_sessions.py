"""Which sessions that hold a lock are ended, and which are not."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.harness.postgres import PostgresServer
from tests.harness.waiting import until
from vkteams_daemon.store.blockers import Blocker, SilentSessions
from vkteams_daemon.store.ingest import session

PATIENCE = 0.2  # seconds
LONGER = 1.0  # seconds; a busy machine may hold the test up for a moment
LOCK, OTHER = "5::bigint", "6::bigint"
Session = psycopg.Connection[Any]


@pytest.fixture
def connect(database_url: str) -> Iterator[Callable[..., Session]]:
    """Opens a session as a part of the product has it; it is closed after the test."""
    with contextlib.ExitStack() as stack:

        def made(application: str = "vkteamsd") -> Session:
            return stack.enter_context(
                contextlib.closing(psycopg.connect(database_url, autocommit=True, application_name=application))
            )

        yield made


@contextlib.contextmanager
def working(part: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=part)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(30)


def test_a_session_of_another_role_is_not_ours_whatever_it_calls_itself(
    postgres_server: PostgresServer, database_url: str, connect: Callable[..., Session]
) -> None:
    """It may be another archive's daemon, and a superuser could end it."""
    postgres_server.execute("CREATE ROLE somebody LOGIN PASSWORD 'x'")
    try:
        theirs = psycopg.conninfo.make_conninfo(
            database_url, user="somebody", password="x", application_name="vkteamsd"
        )
        with psycopg.connect(theirs, autocommit=True) as somebody:
            somebody.execute(f"SELECT pg_advisory_lock({LOCK})")
            ours, sessions = connect(), SilentSessions(PATIENCE)
            assert not sessions.end_holders(ours, LOCK, {}) and not sessions.foreign, "its time is not over"
            until(lambda: sessions.end_holders(ours, LOCK, {}) or sessions.foreign, 30, "its name or its end")
            assert sessions.foreign.startswith("vkteamsd of role somebody")
            somebody.execute("SELECT 1")
    finally:
        postgres_server.execute("DROP ROLE somebody")


def test_a_session_is_ours_though_the_administrator_makes_it_another_role(
    postgres_server: PostgresServer, database_url: str
) -> None:
    """That role may neither see what the sessions do nor end them."""
    postgres_server.execute("CREATE ROLE somebody LOGIN PASSWORD 'x'")
    try:
        postgres_server.execute("CREATE ROLE owner")
        postgres_server.execute("GRANT owner TO somebody")
        postgres_server.execute("ALTER ROLE somebody SET role = owner")
        url = psycopg.conninfo.make_conninfo(database_url, user="somebody", password="x", application_name="vkteamsd")
        with psycopg.connect(url, autocommit=True) as holder, psycopg.connect(url, autocommit=True) as ours:
            assert ours.execute("SELECT current_user").fetchone() == ("owner",)
            holder.execute(f"SELECT pg_advisory_lock({LOCK})")
            assert session._server_process(ours)[1] is not None
            sessions = SilentSessions(PATIENCE)
            until(lambda: sessions.end_holders(ours, LOCK, {}) or sessions.foreign, 30, "its end, or its name")
            assert not sessions.foreign
            assert ours.execute("SELECT current_user").fetchone() == ("owner",)
    finally:
        postgres_server.execute("DROP ROLE IF EXISTS somebody, owner")


def test_a_session_that_speaks_again_at_the_last_moment_is_not_ended(
    connect: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is another one that has got the number of its process."""
    holder, ours, sessions = connect(), connect(), SilentSessions(PATIENCE)
    holder.execute(f"SELECT pg_advisory_lock({LOCK})")
    end, outcomes = sessions._terminate, []

    def late(connection: Session, blocker: Blocker) -> bool | None:
        assert blocker.started
        outcomes.append(end(connection, replace(blocker, started=blocker.started - timedelta(seconds=1))))
        holder.execute("SELECT 1")
        outcomes.append(end(connection, blocker))
        return outcomes[-1]

    monkeypatch.setattr(sessions, "_terminate", late)
    until(lambda: sessions.end_holders(ours, LOCK, {}) or outcomes, 30, "an attempt to end it")
    assert outcomes == [None, None]
    assert holder.execute("SELECT 1").fetchone() == (1,)


def test_a_session_that_works_on_a_statement_is_not_ended(connect: Callable[..., Session]) -> None:
    holder, ours, sessions = connect(), connect(), SilentSessions(LONGER)
    holder.execute(f"SELECT pg_advisory_lock({LOCK})")
    pid = holder.info.backend_pid
    active = "SELECT FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    with working(lambda: holder.execute("SELECT pg_sleep(1.6)")) as thread:
        until(lambda: ours.execute(active, (pid,)).fetchall(), 30, "the statement")
        until(lambda: sessions.end_holders(ours, LOCK, {}) or not thread.is_alive(), 30, "the statement's end")
    assert holder.execute("SELECT 1").fetchone() == (1,)
    until(lambda: sessions.end_holders(ours, LOCK, {}), 30, "its end, once it is silent")


def test_a_session_whose_copy_goes_on_is_not_ended(connect: Callable[..., Session]) -> None:
    """Between two pieces the server waits for its client, for less than the patience."""
    holder, ours, sessions = connect(), connect(), SilentSessions(LONGER)
    holder.execute("CREATE TABLE taken (word text)")
    holder.execute(f"SELECT pg_advisory_lock({LOCK})")

    def copy() -> None:
        with holder.cursor().copy("COPY taken FROM STDIN") as pieces:
            for _ in range(32):
                pieces.write("x" * 200_000 + "\n")
                time.sleep(0.05)

    with working(copy) as thread:
        until(lambda: sessions.end_holders(ours, LOCK, {}) or not thread.is_alive(), 30, "the end of the copy")
    assert holder.execute("SELECT count(*) FROM taken").fetchone() == (32,)


def test_the_first_of_a_chain_is_ended(connect: Callable[..., Session]) -> None:
    """Who blocks us waits itself, for a session that is silent."""
    silent, between, waiting, ours = (connect() for _ in range(4))
    silent.execute(f"SELECT pg_advisory_lock({LOCK})")
    between.execute(f"SELECT pg_advisory_lock({OTHER})")
    sessions = SilentSessions(PATIENCE)
    with working(lambda: between.execute(f"SELECT pg_advisory_lock({LOCK}), pg_advisory_unlock({OTHER})")):
        until(lambda: _waits(ours, between), 30, "the one between to wait")
        with working(lambda: waiting.execute(f"SELECT pg_advisory_lock({OTHER})")):
            until(lambda: _waits(ours, waiting), 30, "the other to wait")
            try:
                until(lambda: sessions.end_blockers(ours, [waiting.info.backend_pid]), 5, "the end of the silent one")
            finally:
                silent.close()
    assert between.execute("SELECT 1").fetchone() == (1,)


def _waits(connection: Session, other: Session) -> bool:
    query = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
    row = connection.execute(query, (other.info.backend_pid,)).fetchone()
    return bool(row and row[0])
