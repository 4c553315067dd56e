"""After any failure every committed event is stored once, and the cursor covers only committed events."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace

from tests.harness.batches import batch, deleted, edited, new, record_lookups
from tests.harness.disk import fill, small_disk
from tests.harness.postgres import PostgresServer
from tests.harness.proxy import Proxy
from tests.harness.scale import scaled
from tests.harness.waiting import until
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.errors import CannotWrite, DatabaseUnavailable, FenceLost, StoreError
from vkteams_daemon.store.derive import message_rows
from vkteams_daemon.store.ingest.writer import StoreResult, Writer

BOT = "1000000001"


class Archive:
    """A database, the writers that a test opens on it, and the stored rows."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self.server = server
        self.url = url
        self.name = url.rpartition("/")[2]
        self.writers: list[Writer] = []

    def writer(self, url: str | None = None, **options: Any) -> Writer:
        options.setdefault("write_timeout", 30.0)
        dsn = url or self.url
        settings: Any = {"autocommit": True, "connect_timeout": 5, "application_name": "vkteams"}
        writer = Writer(lambda: psycopg.connect(dsn, **settings), BOT, **options)
        self.writers.append(writer)
        return writer

    def holder(self, url: str | None = None, **options: Any) -> Writer:
        writer = self.writer(url, **options)
        acquire(writer)
        return writer

    def execute(self, statement: str) -> list[Any]:
        return self.server.execute(statement, database=self.name)

    def state(self) -> tuple[int, list[int]]:
        """The cursor, and the ids that are stored."""
        ids = [row[0] for row in self.execute("SELECT event_id FROM events ORDER BY generation, event_id")]
        return self.execute("SELECT last_event_id FROM bots")[0][0], ids


@pytest.fixture
def archive(postgres_server: PostgresServer, database_url: str) -> Iterator[Archive]:
    archive = Archive(postgres_server, database_url)
    yield archive
    for writer in archive.writers:
        writer.abort()
        writer.close()


@pytest.fixture
def proxy(postgres_server: PostgresServer, open_proxy: Callable[[int], Proxy]) -> Proxy:
    return open_proxy(postgres_server.port)


def acquire(writer: Writer, timeout: float = 60) -> None:
    until(writer.acquire, timeout, "the bot's lock")


def refused(event_id: int, where: str) -> Event:
    """An event that this program can read and the database refuses, even if the reader repairs more one day."""
    (event,) = batch(new(event_id, "bad"))
    if where == "payload":  # PostgreSQL's numeric ends at 131,072 digits before the point
        return replace(event, payload=(event.payload or "").replace('"hello"', "1e200000"))
    assert event.facts.message
    assert event.facts.message.content
    content = replace(event.facts.message.content, parts=[float("inf")])
    return replace(event, facts=replace(event.facts, message=replace(event.facts.message, content=content)))


@pytest.mark.parametrize("size", [1, 10, 500])
@pytest.mark.parametrize("where", ["payload", "parts"])
def test_refused_event_is_quarantined_alone(archive: Archive, size: int, where: str) -> None:
    culprit = refused(77777, where)
    writer = archive.holder()
    outcome = writer.store([*batch(*(new(n + 1) for n in range(size))), culprit, *batch(new(99999))])
    assert (outcome.saved, outcome.quarantined) == (size + 2, 1)
    assert archive.state() == (99999, [*range(1, size + 1), 77777, 99999])
    assert archive.execute("SELECT count(*) FROM messages") == [(size + 1,)]
    ((payload, raw, error),) = archive.execute("SELECT payload, raw, error FROM events WHERE error IS NOT NULL")
    assert (payload, bytes(raw)) == (None, culprit.json.encode())
    assert error
    assert writer.store([culprit]) == StoreResult(duplicate=1)


def test_stored_messages_beside_a_refused_event_cause_no_halving(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that another bot has stored must not count as refused."""
    archive.holder().store(batch(*(new(n) for n in range(1, 801, 2))))
    archive.execute("UPDATE events SET bot_id = 'another'")
    archive.execute("UPDATE bots SET last_event_id = 0")
    archive.writers[-1].close()
    lookups = record_lookups(monkeypatch)
    outcome = archive.holder().store([refused(77777, "payload"), *batch(*(new(n) for n in range(1, 801)))])
    assert (outcome.saved, outcome.quarantined) == (801, 1)
    assert max(lookups) == 400, "the half without the culprit went in as a whole"


def test_row_inserted_without_the_lock_quarantines_nothing(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch inserts its messages as new; the chats' locks make that safe. Those that were looked for are upserted."""
    writer = archive.holder()
    writer.store(batch(new(1)))
    monkeypatch.setattr(message_rows, "load_messages", lambda connection, keys, since: {})
    again = [replace(event, event_id=event.event_id + 1000) for event in batch(*(new(n) for n in range(1, 501)))]
    outcome = writer.store(again)
    assert (outcome.saved, outcome.quarantined) == (500, 0)
    assert archive.execute("SELECT count(*) FROM messages") == [(500,)]


def test_several_culprits_are_all_found(archive: Archive) -> None:
    bad = (1, 4, 5, 200, 301)
    events = [refused(n, "payload") if n in bad else batch(new(n))[0] for n in range(1, 302)]
    outcome = archive.holder().store(events)
    assert (outcome.saved, outcome.quarantined) == (301, 5)
    quarantined = archive.execute("SELECT event_id FROM events WHERE error IS NOT NULL ORDER BY 1")
    assert tuple(row[0] for row in quarantined) == bad


def test_refusal_of_every_row_stores_nothing(archive: Archive) -> None:
    writer = archive.holder()
    archive.execute("ALTER TABLE messages ADD COLUMN odd integer NOT NULL DEFAULT 1, ADD CHECK (false) NOT VALID")
    archive.execute("ALTER TABLE events ADD CHECK (error IS NULL) NOT VALID")
    with pytest.raises(StoreError):
        writer.store(batch(new(1), new(2)))
    assert archive.state() == (0, [])


@pytest.mark.parametrize("count", [3, 300], ids=["pipeline", "COPY"])
def test_events_that_the_database_drops_without_an_error_are_not_acknowledged(archive: Archive, count: int) -> None:
    """Somebody's trigger, meant to keep the table small or free of repetitions, drops rows."""
    writer = archive.holder()
    archive.execute(
        "CREATE FUNCTION dropping() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER dropping BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.event_id = 2)"
        " EXECUTE FUNCTION dropping()"
    )
    with pytest.raises(StoreError, match=f"the database has taken {count - 1} of {count} events without an error"):
        writer.store(batch(*(new(n) for n in range(1, count + 1))))
    assert archive.state() == (0, [])


def test_fenced_holder_cannot_commit(archive: Archive) -> None:
    late = archive.holder()
    late.store(batch(new(1)))
    archive.execute("UPDATE bots SET epoch = epoch + 1")
    with pytest.raises(FenceLost):
        late.store(batch(new(2)))
    assert not late.holds_lock
    assert archive.state() == (1, [1])


@pytest.mark.parametrize("change", ["last_event_id = 9", "generation = 2"])
def test_cursor_that_somebody_moved_is_not_moved_back(archive: Archive, change: str) -> None:
    writer = archive.holder()
    archive.execute(f"UPDATE bots SET {change}")
    with pytest.raises(FenceLost):
        writer.store(batch(new(2)))
    assert archive.state()[1] == []


def test_holder_that_lost_its_session_cannot_commit_after_a_take_over(archive: Archive) -> None:
    first, second = archive.holder(), archive.writer()
    first.store(batch(new(1)))
    assert not second.acquire()
    assert not second.holds_lock
    archive.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
    acquire(second)
    assert second.cursor
    assert second.cursor.last_event_id == 1
    with pytest.raises(DatabaseUnavailable):
        first.store(batch(new(2)))
    second.store(batch(new(2)))
    assert not first.acquire()
    assert archive.state() == (2, [1, 2])


def test_store_without_the_lock_is_refused(archive: Archive) -> None:
    with pytest.raises(FenceLost):
        archive.writer().store(batch(new(1)))


def test_stopped_holder_loses_its_lock(archive: Archive, proxy: Proxy) -> None:
    """It sends nothing, and its connection stays open. The server's timeout ends the session."""
    stopped, standby = archive.holder(proxy.before(archive.url)), archive.writer()
    proxy.black_hole()
    assert not standby.acquire()
    acquire(standby)
    standby.store(batch(new(1)))
    proxy.heal()
    with pytest.raises(StoreError):
        stopped.store(batch(new(2)))
    assert archive.state() == (1, [1])


def test_holder_stopped_in_mid_copy_is_ended_by_its_standby(archive: Archive) -> None:
    """No timeout of the server applies while a statement waits for its client."""
    stopped = archive.holder()
    connection = stopped._session._connection
    assert connection is not None
    standby = archive.writer(patience=0.5)
    with pytest.raises(psycopg.Error), connection.transaction():
        with connection.cursor().copy("COPY events FROM STDIN") as copy:
            copy.write(b"half a row")
            connection.pgconn.flush()
            acquire(standby)
        connection.execute("SELECT 1")
    standby.store(batch(new(1)))
    assert archive.state() == (1, [1])


def test_working_holder_is_not_ended_by_its_standby(archive: Archive) -> None:
    holder, standby = archive.holder(), archive.writer(patience=1)
    with psycopg.connect(archive.url) as blocker:
        blocker.execute("LOCK TABLE events")
        storing = threading.Thread(target=holder.store, args=(batch(new(1)),))
        storing.start()
        old = "query_start < clock_timestamp() - interval '2 s' AND wait_event_type = 'Lock'"
        until(lambda: archive.execute(f"SELECT 1 FROM pg_stat_activity WHERE {old}"), 60, "the holder's long wait")
        assert not standby.acquire()
        assert not standby.acquire()
    storing.join(60)
    assert archive.state() == (1, [1])


def test_backend_killed_in_mid_transaction(archive: Archive) -> None:
    writer = archive.holder()
    failures: list[Exception] = []

    def store() -> None:
        try:
            writer.store(batch(new(1), new(2)))
        except StoreError as error:
            failures.append(error)

    with psycopg.connect(archive.url) as blocker:
        blocker.execute("LOCK TABLE messages")
        storing = threading.Thread(target=store)
        storing.start()
        pids = until(lambda: archive.execute("SELECT pid FROM pg_locks WHERE NOT granted"), 30, "the writer's wait")
        archive.execute(f"SELECT pg_terminate_backend({pids[0][0]})")
        storing.join(60)
    assert [type(error) for error in failures] == [DatabaseUnavailable]
    assert archive.state() == (0, [])
    acquire(writer)
    assert writer.store(batch(new(1), new(2))).saved == 2


@pytest.mark.parametrize("size", [1, 500])
@pytest.mark.parametrize("arrives", [True, False])
def test_commit_of_unknown_outcome(archive: Archive, proxy: Proxy, arrives: bool, size: int) -> None:
    writer = archive.holder(proxy.before(archive.url))
    events = batch(*(new(n) for n in range(1, size + 1)))
    proxy.cut_at(b"COMMIT", keep=arrives)
    with pytest.raises(DatabaseUnavailable):
        writer.store(events)
    assert proxy.cuts == 1
    assert writer.cursor is None, "an unknown outcome is not acknowledged"
    acquire(writer)
    assert writer.cursor
    assert writer.cursor.last_event_id == (size if arrives else 0)
    outcome = writer.store(events)
    assert (outcome.saved, outcome.duplicate) == ((0, size) if arrives else (size, 0))
    assert archive.state() == (size, list(range(1, size + 1)))


@pytest.mark.parametrize("count", [10, 300, 3000])
def test_connection_cut_in_mid_answer(archive: Archive, proxy: Proxy, count: int) -> None:
    writer = archive.holder(proxy.before(archive.url))
    for n in range(1, 7):
        writer.store(batch(new(n)))
    proxy.reset()
    with pytest.raises(DatabaseUnavailable):
        writer.store(batch(new(7)))
    acquire(writer)
    proxy.cut_after(count, upstream=True, reset=True)
    with pytest.raises(DatabaseUnavailable):
        for n in range(7, 40):
            writer.store(batch(new(n, text="x" * 100)))
    acquire(writer)
    writer.store(batch(*(new(n, text="x" * 100) for n in range(7, 40))))
    assert archive.state() == (39, list(range(1, 40)))


def test_kills_at_random_moments(archive: Archive) -> None:
    """As the poller does it: a batch is kept until it is known to be committed, and offered again."""
    chance = random.Random(7)
    writer, done = archive.holder(), threading.Event()
    kills, wanted = 0, scaled("kills of the writer's session", full=100, quick=15)

    def kill() -> None:
        nonlocal kills
        with psycopg.connect(archive.url, autocommit=True) as connection:
            while not done.wait(chance.uniform(0.001, 0.2)):
                row = connection.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND usename = current_user"
                ).fetchone()
                kills += row[0] if row else 0

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        at, deadline = 1, time.monotonic() + 90
        while (at < 600 or kills < wanted) and time.monotonic() < deadline:
            try:
                if not writer.holds_lock and not writer.acquire():
                    continue
                assert writer.cursor
                if writer.cursor.last_event_id >= at:
                    at = writer.cursor.last_event_id + 1
                size = chance.choice((1, 3, 250))
                writer.store(batch(*(new(n) for n in range(at, at + size))))
                at += size
            except StoreError:
                pass
    finally:
        done.set()
        killer.join(60)
    writer.close()  # the last kill may have hit a connection that nobody has used since
    acquire(writer)
    cursor, ids = archive.state()
    assert ids == list(range(1, cursor + 1)), "lost or doubled"
    assert kills >= wanted, f"only {kills} kills"
    assert archive.execute("SELECT count(*) FROM messages") == [(cursor,)]


@pytest.mark.parametrize(("state", "error"), [("53100", CannotWrite), ("58030", CannotWrite), ("40001", StoreError)])
def test_server_that_cannot_write_leaves_the_cursor_where_it_was(
    archive: Archive, state: str, error: type[StoreError]
) -> None:
    writer = archive.holder()
    writer.store(batch(new(1)))
    archive.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no room'"
        f" USING ERRCODE = '{state}'; END $$"
    )
    archive.execute("CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION refuse()")
    with pytest.raises(error):
        writer.store(batch(new(2)))
    assert archive.state() == (1, [1])
    archive.execute("DROP TRIGGER refuse ON messages")
    acquire(writer)
    writer.store(batch(new(2)))
    assert archive.state() == (2, [1, 2])


def test_read_only_server_cannot_write(archive: Archive) -> None:
    archive.execute(f"ALTER DATABASE {archive.name} SET default_transaction_read_only = on")
    with pytest.raises(CannotWrite, match="read-only"):
        archive.writer().acquire()
    archive.execute(
        f"BEGIN; SET TRANSACTION READ WRITE; ALTER DATABASE {archive.name} RESET default_transaction_read_only; COMMIT"
    )
    acquire(archive.writer())


def test_exhausted_connections_are_a_database_that_cannot_be_reached(archive: Archive) -> None:
    role = f"one_{archive.name}"
    archive.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 0")
    try:
        url = archive.url.replace("vkteams:", f"{role}:", 1).replace(archive.server.password, "x")
        with pytest.raises(DatabaseUnavailable, match="too many connections"):
            archive.writer(url).acquire()
    finally:
        archive.execute(f"DROP ROLE {role}")


def test_stuck_statement_is_abandoned_and_its_session_gives_the_lock_back(archive: Archive) -> None:
    writer = archive.holder(write_timeout=0.5)
    with psycopg.connect(archive.url) as blocker:
        blocker.execute("LOCK TABLE events")
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            writer.store(batch(new(1)))
        assert time.monotonic() - started < 20
        # The abandoned session still waits for the table: the server must notice that its client is gone.
        again = archive.writer()
        until(lambda: archive.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")[0][0] == 0, 60)
        blocker.rollback()
    acquire(again)
    again.store(batch(new(1)))
    assert archive.state() == (1, [1])


def test_black_hole_right_after_the_connection_stands_is_noticed(archive: Archive, proxy: Proxy) -> None:
    def connect() -> Any:
        connection = psycopg.connect(proxy.before(archive.url), autocommit=True, connect_timeout=5)
        proxy.black_hole()
        return connection

    writer = Writer(connect, BOT, write_timeout=0.5)
    archive.writers.append(writer)
    with pytest.raises(DatabaseUnavailable):
        writer.acquire()


def test_abort_ends_a_store_in_another_thread(archive: Archive, proxy: Proxy) -> None:
    writer = archive.holder(proxy.before(archive.url), write_timeout=600)
    proxy.black_hole()
    failures: list[Exception] = []

    def store() -> None:
        try:
            writer.store(batch(new(1)))
        except StoreError as error:
            failures.append(error)

    storing = threading.Thread(target=store)
    storing.start()
    until(lambda: writer.abort() or not storing.is_alive(), 60, "the end of the store", interval=0.2)
    assert [type(error) for error in failures] == [DatabaseUnavailable]


def test_ping_raises_when_the_session_is_gone(archive: Archive) -> None:
    writer = archive.holder()
    writer.ping()
    archive.server.terminate_backends(archive.name)
    with pytest.raises(DatabaseUnavailable):
        writer.ping()
    assert not writer.holds_lock


def test_two_bots_in_one_chat_fold_into_the_same_messages(archive: Archive) -> None:
    """Both see every message, edit and deletion, at the same time and in batches of their own."""
    story = []
    for n in range(60):
        story += [
            new(3 * n + 1, f"m{n}", "one"),
            edited(3 * n + 2, f"m{n}", "two"),
            edited(3 * n + 3, f"m{n}", "3", 60),
        ]
    story += [deleted(1000 + n, f"m{n}") for n in range(0, 60, 2)]
    failures: list[BaseException] = []

    def listen(bot: str, seed: int) -> None:
        chance = random.Random(seed)
        writer = Writer(lambda: psycopg.connect(archive.url, autocommit=True), bot)
        archive.writers.append(writer)
        at = 0
        while at < len(story):
            size = chance.randint(1, 40)
            part = story[at : at + size]
            chance.shuffle(part)
            try:
                if writer.holds_lock or writer.acquire():
                    writer.store(batch(*part))
                    at += size
            except StoreError as error:
                if "deadlock" not in str(error):
                    failures.append(error)
                    return

    threads = [threading.Thread(target=listen, args=(f"bot{n}", n)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert not failures
    assert archive.execute("SELECT count(*) FROM events") == [(3 * len(story),)]
    assert archive.execute("SELECT DISTINCT version, text FROM messages") == [(3, "3")]
    assert archive.execute("SELECT count(*), count(deleted_at) FROM messages") == [(60, 30)]
    versions = archive.execute("SELECT version, text, count(*) FROM message_versions GROUP BY 1, 2 ORDER BY 1")
    assert versions == [(1, "one", 60), (2, "two", 60)]


@pytest.fixture
def small_disk_url(postgres_server: PostgresServer, open_tmp: Path) -> Iterator[str]:
    """The URL of a migrated database on a file system of its own, with a few megabytes left; for root alone."""
    with (
        small_disk(open_tmp / "disk", "32m", uid=postgres_server.uid) as disk,
        postgres_server.placed(f"small_{open_tmp.name}", disk) as url,
    ):
        yield url


def test_full_disk_leaves_the_cursor_where_it_was_until_there_is_room(
    postgres_server: PostgresServer, small_disk_url: str, open_tmp: Path
) -> None:
    archive = Archive(postgres_server, small_disk_url)
    writer = archive.holder()
    writer.store(batch(new(1)))
    # One session: a new one may have to write pg_internal.init, which autovacuum removes, and a full disk refuses that.
    with psycopg.connect(small_disk_url, autocommit=True) as session:
        ballast = fill(open_tmp / "disk")
        events = batch(*(new(n, text="x" * 3000) for n in range(2, 600)))
        with pytest.raises(CannotWrite, match="No space left"):
            writer.store(events)
        assert session.execute("SELECT last_event_id FROM bots").fetchall() == [(1,)]
        assert session.execute("SELECT event_id FROM events").fetchall() == [(1,)]
        ballast.unlink()
    acquire(writer)
    writer.store(events)
    assert archive.state() == (599, list(range(1, 600)))
    writer.close()
