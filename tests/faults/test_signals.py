"""Signals in every number (row 9); TERM in every state of the daemon is in tests/faults/test_stop.py."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.harness.daemon import TOKEN, DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.scale import scaled
from tests.harness.simulator import wait_polled
from tests.harness.traffic import emit_event
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]


@pytest.fixture
def daemon(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> DaemonProcess:
    """One that archives `simulator` into `oracle`'s database, not started yet."""
    return vkteamsd(api_url=simulator.url, database_url=oracle.url)


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_term_while_it_starts(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    simulator.faults("deaf", None, "self/get")
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url)
    starter = daemon.spawn()
    until(lambda: daemon.pid, 20, "the lock")
    daemon.signal(signal.SIGTERM)
    _, said = starter.communicate(timeout=20)
    assert starter.returncode == 75
    assert said == "vkteamsd: stopped by a signal before it was ready\n"
    assert daemon.processes() == []
    assert not daemon.pid_file.exists()


def test_reload_ignores_a_broken_file_and_applies_a_valid_one(
    daemon: DaemonProcess, simulator: Simulator, oracle: Oracle
) -> None:
    daemon.started()
    good = daemon.config_file.read_text()
    daemon.config_file.write_text("[api\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("the configuration stays as it was")
    emit_event(simulator, 1)
    oracle.wait()
    daemon.config_file.write_text(good)
    daemon.configure(**{"log.format": "json", "daemon.state_dir": str(daemon.directory / "elsewhere")})
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("configuration read again; these wait for a restart: daemon.state_dir")
    assert '"message"' in daemon.log_text().splitlines()[-1]
    oracle.check()


def test_reload_takes_a_new_token_of_the_same_bot_only(
    daemon: DaemonProcess, simulator: Simulator, oracle: Oracle
) -> None:
    daemon.configure(**{"api.poll_time": 1})
    daemon.started()
    wait_polled(simulator)
    new = "001.9999999999.8888888888:1000000001"
    daemon.configure(**{"api.token": "001.1.1:1000000002"})
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("the configuration stays as it was: the Bot API refused the token")
    simulator.token = new
    daemon.configure(**{"api.token": new})
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("configuration read again")
    emit_event(simulator, 1)
    oracle.wait()
    daemon.wait_state("listening")
    oracle.check()
    for secret in (TOKEN, new, "001.1.1:1000000002"):
        assert secret not in daemon.log_text()


def test_many_reloads_leak_no_file_descriptor(daemon: DaemonProcess, simulator: Simulator, oracle: Oracle) -> None:
    daemon.started()
    wait_polled(simulator)
    pid = daemon.signal(signal.SIGHUP)
    daemon.wait_log("configuration read again")
    before = _descriptors(pid)
    for number in range(scaled("HUPs", full=1000, quick=200)):
        daemon.signal(signal.SIGHUP)
        if number % 50 == 0:
            emit_event(simulator, number)
    seen = daemon.log_text().count("configuration read again")
    until(lambda: daemon.log_text().count("configuration read again") >= max(2, seen), 20, "the last reload")
    oracle.wait()
    until(lambda: _descriptors(pid) <= before + 1, 20, "no more open files than before")
    oracle.check()


def test_reload_reopens_a_rotated_log(daemon: DaemonProcess, simulator: Simulator) -> None:
    daemon.started()
    moved = daemon.log_file.with_suffix(".1")
    daemon.log_file.rename(moved)
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("configuration read again")
    length = moved.stat().st_size
    daemon.signal(signal.SIGUSR2)
    daemon.wait_log("the log level is now debug")
    assert moved.stat().st_size == length
    daemon.log_file.unlink()  # and without a HUP the next line opens it anew
    daemon.signal(signal.SIGUSR2)
    daemon.wait_log("the log level is now info")


def test_a_storm_of_usr1_gives_the_full_statistics(daemon: DaemonProcess, simulator: Simulator, oracle: Oracle) -> None:
    daemon.configure(**{"daemon.status_interval": 300.0})
    daemon.started()
    emit_event(simulator, 1)
    oracle.wait()
    # The daemon counts an event after its commit, so the row alone does not say that it is counted.
    until(lambda: daemon.signal(signal.SIGUSR1) and (s := daemon.status()) and s.events.saved == 1, 10, "it is counted")
    for _ in range(100):
        sent = datetime.now(UTC)
        daemon.signal(signal.SIGUSR1)
    until(lambda: (s := daemon.status()) and s.updated_at > sent, 10, "a file for the last signal")
    daemon.wait_log("statistics {")
    assert re.search(r'statistics \{.*"poll_to_row": \{"p50": [\d.]+', daemon.log_text())
    shown = daemon.answer("daemon", "stats")
    assert shown["file"]["events"]["saved"] == 1
    assert shown["events_processed"] == 1


def test_daemon_ignores_terminal_signals(daemon: DaemonProcess, simulator: Simulator) -> None:
    daemon.started()
    for signum in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP):
        daemon.signal(signum)
    emit_event(simulator, 1)
    until(lambda: (s := daemon.status()) and s.events.saved == 1, 20, "an event saved")
