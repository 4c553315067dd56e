"""Frozen processes (row 15): wherever one was stopped, whoever waits for what it holds goes on, and nothing is lost.

The proxy plays the process that is stopped (SIGSTOP, a suspended machine): it holds every connection still after the
n-th message to the server. Each part of the product is stopped so at every message in turn.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.harness.batches import batch, deleted, edited, new
from tests.harness.daemon import DaemonProcess
from tests.harness.embedding import WatchedModel
from tests.harness.locks import locked, wait_blocked
from tests.harness.oracle import Oracle
from tests.harness.postgres import PostgresServer
from tests.harness.proxy import Proxy
from tests.harness.scale import FULL, drawn, figure, scaled
from tests.harness.simulator import wait_polled
from tests.harness.traffic import emit_event
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.workers.worker import Worker
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store import connection_profiles, embedding_models
from vkteams_daemon.store.admin import cursors, maintenance, word_counts
from vkteams_daemon.store.bundled.cluster import READER
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import erasure, replay

BOT = "1000000001"
OTHER = "1000000002"
OLD = "old@chat.agent"
PATIENCE = 0.5  # seconds; the option's default is 10
LIMIT = 15.0  # seconds in which whoever waits goes on
AFTER = datetime(2027, 1, 1, tzinfo=UTC)

FIRST = batch(*(new(n) for n in range(1, 11)), *(new(n, chat=OLD) for n in range(11, 21)))
# What the stopped writer was storing, and the next one stores: few events in a pipeline, or many by COPY.
FEW = batch(new(21), edited(22, "m1", "mended"), deleted(23, "m2"), new(24, chat=OLD))
LATE = batch(new(400, text="said while the database was away"))
REFUSED = batch(new(21), new(22, text="refuse me"), edited(23, "m1", "mended"))
MANY = batch(*(new(n) for n in range(21, 321)), edited(321, "m1", "mended"))


def config(url: str) -> Config:
    return Config(database=DatabaseOptions(url=url, patience=PATIENCE))


def writer(database: Database, bot: str = BOT) -> Writer:
    return Writer(functools.partial(database.connect, None), bot, patience=PATIENCE)


@contextlib.contextmanager
def holding(database: Database, bot: str = BOT) -> Iterator[Writer]:
    """A writer that holds the bot's lock."""
    made = writer(database, bot)
    try:
        until(made.acquire, LIMIT, "the bot's lock")
        yield made
    finally:
        made.close()


def store(events: list[Any], database: Database, model: WatchedModel, bot: str = BOT) -> None:
    with holding(database, bot) as holder:
        holder.store(events)


def store_late(database: Database, model: WatchedModel) -> None:
    with holding(database) as holder:
        holder.store_late(LATE, 1)


def embed(database: Database, model: WatchedModel) -> None:
    """Work as long as a message waits for its vectors, whoever has claimed it."""
    worker = Worker(database, lambda _: model, WorkerStats())

    def done() -> bool:
        while worker.round() or worker.maintain(idle=True):
            pass
        return not waiting(database)

    until(done, LIMIT, "a vector for every message")


def waiting(database: Database) -> int:
    """How many messages wait for their vectors."""
    query = "SELECT count(*) FROM embedding_queue JOIN messages USING (chat_id, msg_id) WHERE deleted_at IS NULL"
    with database.connection() as connection:
        row = connection.execute(query.encode()).fetchone()
        return row[0] if row else 0


def rebuild(database: Database, model: WatchedModel) -> None:
    with database.connect() as connection:
        replay.everything(connection, erase=False)
        replay.quarantined(connection, erase=False)


def erase(database: Database, model: WatchedModel) -> None:
    with database.connect() as connection:
        assert erasure.erase(connection, AFTER, [OLD]).locked == 0


def move_cursor(database: Database, model: WatchedModel) -> None:
    cursors.set_cursor(database.connect, BOT, 20, patience=database.patience)


def count_words(database: Database, model: WatchedModel) -> None:
    """Count the words; whoever comes later finds them counted."""

    def counted() -> bool:
        with database.connection() as connection:
            word_counts.count_words(connection)
            row = connection.execute("SELECT counted_at > now() - interval '1 day' FROM words_counted").fetchone()
            return bool(row and row[0])

    until(counted, LIMIT, "a count of the words", interval=0.2)


def fence_out(database: Database, model: WatchedModel) -> None:
    """What a migration waits for: the end of every transaction that writes."""
    with database.connect(connection_profiles.MAINTENANCE) as connection, connection.transaction():
        connection.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")


def maintain(database: Database, model: WatchedModel) -> None:
    with database.connect(connection_profiles.MAINTENANCE) as connection:
        connection.execute(
            "INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('o', 'o', 3, 'retired')"
        )
        maintenance.maintain(connection)


def export(database: Database, model: WatchedModel) -> None:
    with Archive(config(database.conninfo)) as archive:
        assert list(archive.export())


Part = Callable[[Database, WatchedModel], None]
PARTS: dict[str, Part] = {
    "writer": functools.partial(store, FEW),
    "writer, COPY": functools.partial(store, MANY),
    "writer, a refused event": functools.partial(store, REFUSED),
    "writer, late events": store_late,
    "another bot's writer": functools.partial(store, MANY, bot=OTHER),
    "worker": embed,
    "words": count_words,
    "replay": rebuild,
    "erasure": erase,
    "cursor": move_cursor,
    "maintenance": maintain,
    "export": export,
}


@contextlib.contextmanager
def stopped(proxy: Proxy, messages: int, part: Callable[[], None]) -> Iterator[None]:
    """Run a part in a thread, which is stopped after so many messages or ends before; afterwards it wakes up."""
    proxy.freeze_after(messages)

    def run() -> None:
        with contextlib.suppress(VkTeamsError, psycopg.Error, AssertionError):  # it finds its session ended
            part()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        until(lambda: proxy.frozen.is_set() or not thread.is_alive(), 60, "the part's end, or its stop")
        yield
    finally:
        proxy.heal()
        thread.join(30)
        assert not thread.is_alive(), "it does not end after it has woken up"


@pytest.fixture
def proxy(postgres_server: PostgresServer, open_proxy: Callable[[int], Proxy]) -> Proxy:
    return open_proxy(postgres_server.port)


def _behind(proxy: Proxy, url: str) -> str:
    return f"{proxy.before(url)}?sslmode=disable&gssencmode=disable"


def _points(what: str, count: int) -> list[int]:
    """The messages after which to stop, out of so many."""
    size = scaled(f"messages after which the {what} is stopped", full=count, quick=1)
    return sorted(random.sample(range(1, count + 1), min(size, count)))


@pytest.mark.timeout(3600)
@drawn("parts of the product that are stopped", PARTS, quick=7)
def test_everybody_goes_on_wherever_it_was_stopped(
    postgres_server: PostgresServer, proxy: Proxy, model: WatchedModel, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "words" and not FULL:  # nobody waits for it: the server's own limit ends it
        monkeypatch.setitem(connection_profiles.WORKER.settings, "idle_in_transaction_session_timeout", "2s")
    part = PARTS[name]
    events = {"writer, COPY": MANY, "writer, a refused event": REFUSED}.get(name, FEW)
    with _archive(postgres_server, model) as (url, _), Database(config(_behind(proxy, url))) as counted:
        before = proxy.messages
        part(counted, model)
        count = proxy.messages - before
    for number in _points(name, count):
        with _archive(postgres_server, model) as (url, others):
            patient = Config(database=DatabaseOptions(url=_behind(proxy, url)))
            with Database(patient) as database, stopped(proxy, number, functools.partial(part, database, model)):
                _go_on(others, model, events, f"{name}, stopped after message {number} of {count}")
            _check(others, model, events)


@contextlib.contextmanager
def _archive(server: PostgresServer, model: WatchedModel) -> Iterator[tuple[str, Database]]:
    """An archive with messages that wait for their vectors: its URL, and the database as the others see it."""
    with server.fresh() as url, Database(config(url)) as database:
        with database.connection() as connection:
            embedding_models.register(connection, model.name, model.fingerprint, model.dims)
            connection.execute("ALTER TABLE messages ADD CHECK (text <> 'refuse me')")
            connection.execute("INSERT INTO words_counted (messages, counted_at) VALUES (0, now() - interval '2 days')")
        store(FIRST, database, model)
        yield url, database


def _go_on(database: Database, model: WatchedModel, events: list[Any], what: str) -> None:
    """Everybody else does what they do; each has to be through in time."""
    for part in (functools.partial(store, events), embed, count_words, rebuild, erase, move_cursor, fence_out):
        began = time.monotonic()
        part(database, model)
        name, took = getattr(part, "__name__", "store"), time.monotonic() - began
        figure("longest wait for what a stopped process held, s", took)
        assert took < LIMIT, f"{what}: {name} took {took:.1f} s"


def _check(database: Database, model: WatchedModel, events: list[Any]) -> None:
    embed(database, model)  # what the stopped part has stored after it had woken up
    with database.connection() as connection:
        rows = connection.execute("SELECT event_id FROM events WHERE bot_id = %s ORDER BY 1", (BOT,)).fetchall()
        stored = [row[0] for row in rows if row[0] != LATE[0].event_id]
        assert stored == [event.event_id for event in (*FIRST, *events)]
        rows = connection.execute("SELECT count(*), count(DISTINCT (chat_id, msg_id)) FROM embeddings").fetchall()
        assert rows[0][0] == rows[0][1] > 0


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_the_reader_role_cannot_stop_the_archive_by_advisory_locks(
    postgres_server: PostgresServer, model: WatchedModel, busy: bool
) -> None:
    with _archive(postgres_server, model) as (url, database):
        postgres_server.execute(f"CREATE ROLE {READER} LOGIN PASSWORD 'x'")
        try:
            as_reader = psycopg.conninfo.make_conninfo(url, user=READER, password="x", application_name="psql")
            with psycopg.connect(as_reader, autocommit=True) as reader:
                reader.execute("SELECT pg_advisory_lock(7691, n) FROM generate_series(0, 1023) AS n")
                thread = threading.Thread(target=_sleep_on_the_server, args=(reader,))
                if busy:
                    thread.start()
                began = time.monotonic()
                store(FEW, database, model)
                assert time.monotonic() - began < LIMIT
                if busy:
                    thread.join(LIMIT)
                with pytest.raises(psycopg.OperationalError):
                    reader.execute("SELECT 1")
        finally:
            postgres_server.execute(f"DROP ROLE {READER}")


def _sleep_on_the_server(connection: psycopg.Connection[Any]) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.execute("SELECT pg_sleep(60)")


def test_what_a_worker_had_claimed_that_was_stopped_in_a_copy_is_embedded_by_others(
    postgres_server: PostgresServer, model: WatchedModel
) -> None:
    """The server's timers are not armed in a COPY, and nobody waits for claimed rows."""
    with _archive(postgres_server, model) as (url, database):
        embed(database, model)  # and build the index, whose build would wait
        store(FEW, database, model)
        with psycopg.connect(url, application_name="vkteamsd") as stopped, contextlib.suppress(psycopg.Error):
            stopped.execute("SELECT FROM embedding_queue FOR UPDATE")
            with stopped.cursor().copy("COPY embeddings FROM STDIN"):
                embed(database, model)


def test_a_migration_goes_on_wherever_another_was_stopped(postgres_server: PostgresServer, proxy: Proxy) -> None:
    def migrate(url: str) -> None:
        with Database(config(url)):
            pass

    with postgres_server.fresh(migrated=False) as url:
        before = proxy.messages
        migrate(_behind(proxy, url))
        count = proxy.messages - before
    for number in _points("migration", count):
        with (
            postgres_server.fresh(migrated=False) as url,
            stopped(proxy, number, functools.partial(migrate, _behind(proxy, url))),
        ):
            began = time.monotonic()
            migrate(url)
            assert time.monotonic() - began < LIMIT, f"stopped after message {number} of {count}"


def test_a_standby_takes_over_from_a_holder_that_was_stopped_while_it_waited_for_a_lock(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, oracle: Oracle
) -> None:
    """Its server session gets the lock later, works the pipeline off, and waits without an idle timer."""
    options = {} if FULL else {"database.patience": 3.0}
    first = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=True).started()
    wait_polled(simulator)
    second = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=True).started()
    second.wait_state("standby")
    with locked(oracle.url, "embedding_queue") as blocker:
        emit_event(simulator, 1)
        wait_blocked(oracle.url, "embedding_queue")
        pid = first.signal(signal.SIGSTOP)
        blocker.rollback()
    try:
        second.wait_state("listening", timeout=LIMIT)
        oracle.wait()
    finally:
        os.kill(pid, signal.SIGCONT)
    first.wait_state("standby", timeout=30)
    oracle.check()
    assert "ended the session of vkteamsd" in second.log_text()


def test_a_foreign_holder_is_named_and_not_ended(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, oracle: Oracle
) -> None:
    daemon = vkteamsd(
        api_url=simulator.url,
        database_url=oracle.url,
        options={"database.patience": 2.0, "database.write_timeout": 600},
    ).started()
    wait_polled(simulator)
    with psycopg.connect(oracle.url, application_name="psql") as somebody:
        somebody.execute("LOCK TABLE events")
        emit_event(simulator, 1)
        daemon.wait_log("a lock is held by psql of role vkteams")
        status = until(lambda: (found := daemon.status()) and found.database.blocked_by, 30, "its name in the status")
        assert status and status.startswith("psql of role vkteams")
        assert "psql of role" in daemon.ctl("daemon", "status").stdout
        somebody.rollback()
    oracle.wait()
    until(lambda: (found := daemon.status()) and not found.database.blocked_by, 30, "its name gone")
    assert daemon.log_text().count("a lock is held by") == 1
    oracle.check()
