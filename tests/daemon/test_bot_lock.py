"""Two archives with one bot on one host: each daemon says so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from tests.harness.daemon import DaemonProcess
from tests.harness.postgres import PostgresServer
from tests.harness.simulator import Simulator
from tests.harness.waiting import until
from vkteams_daemon.daemon.process.bot_lock import BotLock

_HOLD = """
import sys
from vkteams_daemon.daemon.process.bot_lock import BotLock
lock = BotLock("http://x", "1")
assert lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_lock_is_free_again_after_kill_9() -> None:
    lock, other = BotLock("http://x", "1"), BotLock("http://other", "1")
    process = subprocess.Popen([sys.executable, "-c", _HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert not lock.acquire()
        assert lock.holder() == process.pid
        assert other.acquire(), "another installation has other bots"
    finally:
        process.kill()
        process.communicate()
    until(lock.acquire, 10, "the lock")
    assert lock.acquire()
    assert BotLock("http://x", "1").holder() == os.getpid()
    lock.release()
    other.release()
    assert lock.holder() is None


def test_second_archive_of_one_bot_is_told(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, postgres_server: PostgresServer
) -> None:
    with postgres_server.fresh() as first_url, postgres_server.fresh() as second_url:
        first = vkteamsd(api_url=simulator.url, database_url=first_url, quick=True).started()
        standby = vkteamsd(api_url=simulator.url, database_url=first_url, quick=True).started()
        until(lambda: (status := standby.status()) and status.state == "standby", 30, "the standby")
        second = vkteamsd(api_url=simulator.url, database_url=second_url, quick=True).started()
        second.wait_log(f"process {first.pid} on this host listens to this bot too", 30)
        status = second.status()
        assert status is not None
        assert any("with another archive" in warning for warning in status.warnings)
        health = second.answer("diagnostic", "health")
        assert any("with another archive" in problem for problem in health["problems"])
        for daemon in (first, standby):
            assert "with another archive" not in daemon.log_text(), "a standby is no rival"
        first.kill9()
        standby.wait_state("listening")
        for daemon in (standby, second):
            daemon.close()
