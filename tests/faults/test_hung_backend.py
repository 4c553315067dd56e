"""A process of the PostgreSQL server that hangs, with the bot's lock: the daemon says so, and goes on when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.batches import CHAT
from tests.harness.daemon import DaemonProcess
from tests.harness.locks import locked, wait_blocked
from tests.harness.oracle import Oracle
from tests.harness.simulator import wait_polled
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store import blockers
from vkteams_daemon.store.database import Database

Make = Callable[..., DaemonProcess]
_HOLDER = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND database ="
_HOLDER += " (SELECT oid FROM pg_database WHERE datname = current_database())"


def holder(url: str) -> int:
    """The server's process that holds the bot's lock."""
    with psycopg.connect(url) as connection:
        row = connection.execute(_HOLDER.encode()).fetchone()
    assert row
    return int(row[0])


def say(simulator: Simulator, text: str) -> None:
    simulator.say(CHAT, "a.ivanova@corp.example", text)


@contextlib.contextmanager
def hung(simulator: Simulator, url: str, moment: str) -> Iterator[Callable[[], None]]:
    """Stop the server's process that holds the bot's lock, as a disk does that never answers.

    Args:
        simulator: where somebody speaks meanwhile.
        url: the database.
        moment: `idle`, `between statements` or `in a statement`.

    Yields what lets the process go on.
    """
    pid = holder(url)
    with going_on(pid) as go_on:
        if moment == "in a statement":
            with locked(url, "messages"):
                say(simulator, "while it hangs")
                assert wait_blocked(url, "messages") == pid
                os.kill(pid, signal.SIGSTOP)
        else:
            os.kill(pid, signal.SIGSTOP)
            if moment == "between statements":
                say(simulator, "while it hangs")
        yield go_on


@contextlib.contextmanager
def going_on(pid: int) -> Iterator[Callable[[], None]]:
    """Let a process that is stopped within go on in the end, or when what this yields is called."""

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    try:
        yield go_on
    finally:
        go_on()


def wait_named(daemon: DaemonProcess) -> Status:
    """Wait until the status names the process that hangs."""

    def named() -> Status | None:
        status = daemon.wait_state("degraded")
        return status if "told to end" in str(status.database.last_error) else None

    found = until(named, 60, "the name of the process that hangs")
    assert found
    return found


@pytest.fixture
def daemon(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> DaemonProcess:
    """A daemon that listens and has stored an event."""
    options: dict[str, Any] = {
        "database.write_timeout": 2, "database.patience": 1, "api.backoff_max": 1, "daemon.start_degraded": True,
    }  # fmt: skip
    made = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options).started()
    say(simulator, "before")
    oracle.wait()
    wait_polled(simulator)
    return made


@pytest.mark.parametrize("moment", ["idle", "between statements", "in a statement"])
def test_own_backend_that_hangs_is_no_other_listener(
    daemon: DaemonProcess, simulator: Simulator, oracle: Oracle, moment: str
) -> None:
    with hung(simulator, oracle.url, moment) as go_on:
        assert wait_named(daemon).database.state == "down"
        health = daemon.answer("diagnostic", "health")
        assert health["daemon"]["status"] == "degraded"
        assert any("told to end" in problem for problem in health["problems"])
        assert "waiting as its standby" not in daemon.log_text()
        go_on()
        say(simulator, "after")
        daemon.wait_state("listening")
        oracle.wait()
    oracle.check()


@pytest.mark.parametrize("moment", ["between statements", "in a statement"])
def test_backend_of_a_process_that_is_gone_is_no_other_listener(
    daemon: DaemonProcess, simulator: Simulator, oracle: Oracle, moment: str
) -> None:
    """The daemon was restarted meanwhile: it does not know that session, which never says anything again."""
    with hung(simulator, oracle.url, moment) as go_on:
        daemon.wait_log("the database fails", timeout=60)
        daemon.kill9()
        daemon.started()
        wait_named(daemon)
        go_on()
        daemon.wait_state("listening")
        oracle.wait()
    oracle.check()


def test_backend_of_a_worker_that_hangs_is_left_and_the_work_goes_on(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, models_dir: Path
) -> None:
    """The worker's round is overdue, so its connection is ended; it works with another one."""
    daemon = vkteamsd(
        api_url=simulator.url, database_url=oracle.url, hanging=True,  # for its short limits
        options={"embedding.models_dir": str(models_dir), "embedding.workers": 1, "embedding.poll_interval": 0.5},
    ).started()  # fmt: skip
    say(simulator, "before")
    until(lambda: (status := daemon.status()) and status.embedding.embedded == 1, 60, "a worker at work")
    # The build of the index waits for every snapshot, and the measurement keeps one while it waits for the lock.
    indexed = "SELECT FROM pg_index WHERE indexrelid = to_regclass('embeddings_hnsw_1_message') AND indisvalid"
    until(lambda: oracle.rows(indexed), 60, "the index, after which the worker only claims")
    claiming = (
        b"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        b" AND query LIKE '%embedding_queue%SKIP LOCKED%'"
    )
    with contextlib.ExitStack() as stack:
        with locked(oracle.url, "embedding_queue"), psycopg.connect(oracle.url, autocommit=True) as watcher:
            row = until(lambda: watcher.execute(claiming).fetchone(), 30, "a claim that waits")
            assert row
            stack.enter_context(going_on(row[0]))
            os.kill(row[0], signal.SIGSTOP)
        say(simulator, "while it hangs")
        until(lambda: (status := daemon.status()) and status.embedding.embedded == 2, 60, "the work of another session")
        assert "the loop worker 0 has not gone on" in daemon.log_text()
    oracle.wait()
    oracle.check()


def test_watch_of_locks_whose_own_backend_hangs_looks_over_another_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockers, "LOOK_LIMIT", 1.0)
    looking = (
        b"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'WITH RECURSIVE%%'"
        b" AND pid <> %s"
    )

    def wait(database: Database) -> None:
        with database.connection() as connection:
            connection.execute("SELECT FROM chats")

    with (
        Database(Config(database=DatabaseOptions(url=database_url, patience=1))) as database,
        psycopg.connect(database_url, autocommit=True) as watcher,
        contextlib.ExitStack() as stack,
    ):
        thread = threading.Thread(target=wait, args=(database,))
        with locked(database_url, "chats"):
            thread.start()
            row = until(lambda: watcher.execute(looking, (0,)).fetchone(), 30, "a look at who holds the lock")
            assert row
            stack.enter_context(going_on(row[0]))
            os.kill(row[0], signal.SIGSTOP)
            until(lambda: watcher.execute(looking, row).fetchone(), 30, "a look over another connection")
        thread.join(30)
        assert not thread.is_alive()
