"""Real processes that are stopped by SIGSTOP (row 15): commands and daemons, beside whom others must go on.

In tests/faults/test_frozen.py a proxy plays the stop, at every message of every part of the product.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from tests.harness.batches import batch, new
from tests.harness.cluster import on_cluster
from tests.harness.daemon import TOKEN, DaemonProcess
from tests.harness.embedding import WatchedModel
from tests.harness.locks import locked, wait_blocked
from tests.harness.oracle import BOT, Oracle
from tests.harness.proxy import Proxy
from tests.harness.scale import drawn, scaled
from tests.harness.simulator import wait_polled
from tests.harness.traffic import PEOPLE, emit_event
from tests.harness.waiting import until
from vkteams_daemon.botapi import events
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.config import Config
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store import embedding_models, vector_index
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer

Make = Callable[..., DaemonProcess]
PATIENCE = 1.0  # seconds
LIMIT = 15.0  # seconds in which whoever waits goes on
MESSAGES = 3000  # more than a page, and more than a pipe takes
COMMANDS = {
    "replay": ("replay", "--all", "--yes"),
    "cleanup": ("cleanup", "--older-than", "1h", "--yes"),
    "cursor": ("cursor", "--set", "LAST", "--yes"),
    "maintenance": ("maintenance",),
    "export": ("export", "--format", "csv"),
    "erase": ("erase", "--user-id", PEOPLE[0], "--yes"),
    "hold": ("hold", "681869378@chat.agent"),
    "gaps": ("gaps",),
}


@pytest.fixture
def last(simulator: Simulator, oracle: Oracle) -> int:
    """The id of the last event of an archive with some events."""
    for number in range(20):
        emit_event(simulator, number)
    client = BotClient(simulator.url, TOKEN)
    writer = Writer(lambda: psycopg.connect(oracle.url, autocommit=True), BOT)
    with contextlib.closing(client), contextlib.closing(writer):
        assert writer.acquire()
        writer.store(events.read(client.poll(0, 1), datetime.now(UTC)))
        assert writer.cursor
    return writer_cursor(oracle)


def age_messages(oracle: Oracle) -> None:
    """Let two messages be so old that retention erases them."""
    with psycopg.connect(oracle.url) as connection:
        rows = connection.execute(
            "SELECT sent_at - interval '2 days', chat_id, msg_id FROM messages"
            " WHERE sent_at > now() - interval '1 hour' ORDER BY msg_id LIMIT 2"
        ).fetchall()
        for row in rows:
            connection.execute("UPDATE messages SET sent_at = %s WHERE chat_id = %s AND msg_id = %s", row)


def writer_cursor(oracle: Oracle) -> int:
    """The bot's committed cursor."""
    return int(oracle.rows("SELECT last_event_id FROM bots WHERE bot_id = %s", BOT)[0][0])


def state(process: subprocess.Popen[str]) -> str:
    """T for a process that is stopped, Z for one that has ended; proc(5)."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]


@pytest.mark.timeout(3600)
@drawn("commands that are stopped", COMMANDS, quick=2)
def test_a_daemon_starts_and_archives_beside_a_command_that_was_stopped(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, last: int, open_proxy: Callable[[int], Proxy], name: str
) -> None:
    options = {"database.patience": PATIENCE}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=True)
    proxy = open_proxy(int(str(psycopg.conninfo.conninfo_to_dict(oracle.url)["port"])))
    # The proxy counts the messages of a connection that is not encrypted.
    behind = vkteamsd(database_url=f"{proxy.before(oracle.url)}?sslmode=disable&gssencmode=disable", options=options)
    command = ["database", *(str(last) if word == "LAST" else word for word in COMMANDS[name])]
    age_messages(oracle)
    before = proxy.messages
    assert behind.ctl(*command).returncode == 0
    count = proxy.messages - before
    assert count > 5
    size = scaled(f"messages after which a real {name} is stopped", full=20, quick=1)
    for number in sorted(random.sample(range(1, count + 1), min(size, count))):
        age_messages(oracle)
        with _stopped(behind, proxy, number, command) as process:
            daemon.started()
            daemon.wait_state("listening", timeout=LIMIT)
            emit_event(simulator, number)
            oracle.wait(LIMIT)
        _, said = process.communicate(timeout=60)
        assert process.returncode in (0, 69, 75), said
        assert "Traceback" not in said
        assert daemon.stop() < 5
    if name in ("cleanup", "erase"):  # both take words out of events
        assert oracle.stored() == sorted(oracle.issued())
    else:
        oracle.check()


@contextlib.contextmanager
def _stopped(behind: DaemonProcess, proxy: Proxy, number: int, command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Run vkteamsctl, stop it after so many messages, and let it go on after the block; it may end before."""
    started: list[subprocess.Popen[str]] = []
    proxy.call_after(number, lambda: started[0].send_signal(signal.SIGSTOP))
    started.append(behind.spawn_ctl(*command))
    process = started[0]
    try:
        until(lambda: state(process) in "TZ", 30, "the command's stop, or its end")
        yield process
    finally:
        process.send_signal(signal.SIGCONT)


def test_a_standby_takes_over_from_a_daemon_that_was_stopped_in_its_retention(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, last: int
) -> None:
    options = {"database.patience": PATIENCE, "storage.retention": "1d"}
    first = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=True)
    second = vkteamsd(
        api_url=simulator.url, database_url=oracle.url, options={"database.patience": PATIENCE}, quick=True
    )
    age_messages(oracle)
    with locked(oracle.url, "message_versions") as blocker:
        first.started()
        second.started().wait_state("standby")
        wait_blocked(oracle.url, "message_versions")  # the retention, which has locked chats
        pid = first.signal(signal.SIGSTOP)
        blocker.rollback()
    try:
        second.wait_state("listening", timeout=LIMIT)
        for number in range(2):  # in both chats
            emit_event(simulator, number)
        oracle.wait(LIMIT)
    finally:
        os.kill(pid, signal.SIGCONT)
    first.wait_state("standby", timeout=30)
    assert "Traceback" not in first.log_text() + second.log_text()


def test_a_command_waits_for_the_patience_beside_a_daemon_that_was_just_stopped(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, last: int
) -> None:
    options = {"database.patience": PATIENCE}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=True).started()
    wait_polled(simulator)
    pid = daemon.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = daemon.ctl("database", "cursor", "--set", str(last), "--yes")
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - began < LIMIT
    finally:
        os.kill(pid, signal.SIGCONT)
    emit_event(simulator, 1)
    oracle.wait()
    oracle.check()


def test_a_command_is_refused_beside_a_daemon_that_lives(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, last: int
) -> None:
    """As soon as the daemon shows that it lives, and not only after the patience."""
    options = {"database.patience": 120.0}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=True).started()
    done = daemon.ctl("database", "cursor", "--set", "1", "--yes", timeout=60)
    assert done.returncode == 75
    assert f"a daemon listens with bot {BOT}" in done.stderr
    assert writer_cursor(oracle) == last


def test_an_index_is_built_beside_an_export_whose_reader_has_stopped(
    vkteamsd: Make, database_url: str, model: WatchedModel
) -> None:
    session = "SELECT state FROM pg_stat_activity WHERE application_name = 'vkteams-search' AND datname = %s"
    with _archive(database_url) as database, database.connection() as connection:
        name = connection.info.dbname
        with _export(vkteamsd, database_url) as exporting:
            assert exporting.stdout
            exporting.stdout.readline()
            until(lambda: connection.execute(session, (name,)).fetchall() == [("idle",)], 30, "its wait for the reader")
            assert _build(connection, model) < LIMIT
            assert connection.execute(session, (name,)).fetchall() == [("idle",)], "it was not ended: it holds nothing"
            assert len(exporting.stdout.read().splitlines()) == MESSAGES - 1
            assert exporting.wait(60) == 0


def test_an_index_is_built_beside_an_export_that_was_stopped(
    vkteamsd: Make, database_url: str, model: WatchedModel
) -> None:
    """It was stopped in its transaction, whose snapshot the build waits for."""
    with _archive(database_url) as database, database.connection() as connection:
        with locked(database_url, "users") as blocker:
            exporting = _export(vkteamsd, database_url, "--file", "exported")
            wait_blocked(database_url, "users")
            exporting.send_signal(signal.SIGSTOP)
            blocker.rollback()
        assert _build(connection, model) < LIMIT
        exporting.send_signal(signal.SIGCONT)
        _, said = exporting.communicate(timeout=60)
        assert exporting.returncode == 69, said
        assert "Traceback" not in said


def test_an_index_is_built_beside_a_backup_that_was_stopped(
    vkteamsd: Make, database_url: str, model: WatchedModel, tmp_path: Path
) -> None:
    """Its pg_dump was stopped with it, as by Ctrl-Z; the build waits for the snapshot of pg_dump."""
    if on_cluster(database_url):
        pytest.skip("`database backup` is refused on a cluster")
    with _archive(database_url) as database, database.connection() as connection:
        with locked(database_url, "users") as blocker:
            backup = vkteamsd(database_url=database_url).spawn_ctl("database", "backup", str(tmp_path / "a.backup"))
            wait_blocked(database_url, "users")
            [dump] = Path(f"/proc/{backup.pid}/task/{backup.pid}/children").read_text().split()
            for process in (backup.pid, int(dump)):
                os.kill(process, signal.SIGSTOP)
            blocker.rollback()
        assert _build(connection, model) < LIMIT
        for process in (backup.pid, int(dump)):
            os.kill(process, signal.SIGCONT)
        _, said = backup.communicate(timeout=60)
        assert backup.returncode == 69, said
        assert "Traceback" not in said
        assert not (tmp_path / "a.backup").exists()


@contextlib.contextmanager
def _archive(url: str) -> Iterator[Database]:
    """An archive with many messages, as a process with workers sees it."""
    writer = Writer(lambda: psycopg.connect(url, autocommit=True), BOT)
    with contextlib.closing(writer):
        assert writer.acquire()
        writer.store(batch(*(new(n, text=f"message {n}") for n in range(1, MESSAGES + 1))))
    with Database(Config(database=DatabaseOptions(url=url, patience=0.5))) as database:
        yield database


def _export(vkteamsd: Make, url: str, *arguments: str) -> subprocess.Popen[str]:
    return vkteamsd(database_url=url).spawn_ctl("database", "export", "--format", "jsonl", *arguments)


def _build(connection: Connection, model: WatchedModel) -> float:
    """Build the index of a model as a worker does; returns the seconds."""
    stored = embedding_models.register(connection, model.name, model.fingerprint, model.dims)
    began = time.monotonic()
    assert vector_index.ensure_index(connection, stored.model_id, stored.dims)
    return time.monotonic() - began
