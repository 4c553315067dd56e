"""A process of the PostgreSQL server that hangs, with the bot's lock: the daemon says so, and goes on when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.harness.batches import CHAT
from tests.harness.daemon import DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.simulator import wait_polled
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]
_HOLDER = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND database ="
_HOLDER += " (SELECT oid FROM pg_database WHERE datname = current_database())"


def holder(url: str) -> int:
    """The server's process that holds the bot's lock."""
    with psycopg.connect(url) as connection:
        row = connection.execute(_HOLDER.encode()).fetchone()
    assert row
    return int(row[0])


@contextlib.contextmanager
def hanging(pid: int) -> Iterator[Callable[[], None]]:
    """Stop a process of the server, as a disk does that never answers; gives what lets it go on."""

    def go_on() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    os.kill(pid, signal.SIGSTOP)
    try:
        yield go_on
    finally:
        go_on()


def stop_in_a_statement(simulator: Simulator, url: str) -> None:
    """Stop the holder of the bot's lock while it stores an event."""
    with psycopg.connect(url) as blocker:
        blocker.execute("LOCK TABLE messages")
        say(simulator, "while it hangs")
        waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        with psycopg.connect(url, autocommit=True) as watcher:
            until(lambda: watcher.execute(waiting, (holder(url),)).fetchone(), 30, "its wait for the table")
        os.kill(holder(url), signal.SIGSTOP)


def say(simulator: Simulator, text: str) -> None:
    simulator.say(CHAT, "a.ivanova@corp.example", text)


@pytest.mark.parametrize("moment", ["idle", "between statements", "in a statement"])
def test_own_backend_that_hangs_is_no_other_listener(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, moment: str
) -> None:
    daemon = vkteamsd(
        api_url=simulator.url, database_url=oracle.url,
        options={"database.write_timeout": 2, "database.patience": 1, "api.backoff_max": 1},
    ).started()  # fmt: skip
    say(simulator, "before")
    oracle.wait()
    wait_polled(simulator)
    with contextlib.ExitStack() as stack:
        if moment == "in a statement":
            stop_in_a_statement(simulator, oracle.url)
        go_on = stack.enter_context(hanging(holder(oracle.url)))
        if moment == "between statements":
            say(simulator, "while it hangs")
        degraded = daemon.wait_state("degraded", timeout=60)
        until(lambda: "told to end" in str(daemon.wait_state("degraded").database.last_error), 60, "its name")
        assert degraded.database.state == "down"
        health = daemon.answer("diagnostic", "health")
        assert health["daemon"]["status"] == "degraded"
        assert any("told to end" in problem for problem in health["problems"])
        assert "waiting as its standby" not in daemon.log_text()
        go_on()
        say(simulator, "after")
        daemon.wait_state("listening", timeout=60)
        oracle.wait()
    oracle.check()


@pytest.mark.parametrize("moment", ["between statements", "in a statement"])
def test_backend_of_a_process_that_is_gone_is_no_other_listener(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, moment: str
) -> None:
    """The daemon was restarted meanwhile: it does not know that session, which never says anything again."""
    options: dict[str, Any] = {
        "database.write_timeout": 2, "database.patience": 1, "api.backoff_max": 1, "daemon.start_degraded": True,
    }  # fmt: skip
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options).started()
    say(simulator, "before")
    oracle.wait()
    wait_polled(simulator)
    with contextlib.ExitStack() as stack:
        if moment == "in a statement":
            stop_in_a_statement(simulator, oracle.url)
        go_on = stack.enter_context(hanging(holder(oracle.url)))
        if moment == "between statements":
            say(simulator, "while it hangs")
        until(lambda: "the database fails" in daemon.log_text(), 60, "a failure")
        daemon.kill9()
        daemon.started()
        until(
            lambda: "told to end" in str(daemon.wait_state("degraded", timeout=60).database.last_error), 60, "its name"
        )
        go_on()
        daemon.wait_state("listening", timeout=60)
        oracle.wait()
    oracle.check()
