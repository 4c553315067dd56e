"""Several that want the same (row 10): starts at once, numbers used again, frozen processes, two hosts on one bot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.harness.daemon import DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.simulator import wait_acknowledged, wait_polled
from tests.harness.traffic import Traffic, emit_event
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]


def test_twenty_starts_at_once_are_one_daemon(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url)
    starters = [daemon.spawn() for _ in range(20)]
    codes, complaints = [], []
    for starter in starters:
        _, said = starter.communicate(timeout=120)
        codes.append(starter.returncode)
        complaints.append(said)
    assert sorted(codes) == [0] + [75] * 19
    assert all("already running" in said for code, said in zip(codes, complaints, strict=True) if code)
    assert len(daemon.processes()) == 1
    emit_event(simulator, 1)
    oracle.wait()
    oracle.check()


def test_pid_reused_by_another_program_is_not_the_daemon(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url)
    daemon.pid_file.parent.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        daemon.pid_file.write_text(f"{other.pid}\n")
        assert daemon.ctl("daemon", "status").returncode == 1
        assert daemon.ctl("daemon", "stop").returncode == 0
        assert other.poll() is None
        daemon.pid_file.write_text(f"{other.pid}\n")
        daemon.started()
        assert daemon.pid != other.pid
        assert other.poll() is None


def _two_hosts(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, *, quick: bool = False
) -> tuple[DaemonProcess, DaemonProcess]:
    # A standby terminates a holder that has been silent for this long.
    options = {"database.patience": 5.0}
    first = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=quick).started()
    wait_polled(simulator)
    second = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options, quick=quick)
    done = second.start()
    assert done.returncode == 0
    assert done.stdout.startswith("vkteamsd: standby: another process listens to this bot")
    second.wait_state("standby")
    assert second.ctl("daemon", "status").returncode == 0
    return first, second


def test_a_second_host_waits_and_takes_over(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    first, second = _two_hosts(vkteamsd, simulator, oracle)
    with Traffic(simulator, rate=30):
        wait_acknowledged(simulator, 20)
        assert (status := second.status()) and status.events.received == 0
        first.kill9()
        second.wait_state("listening", timeout=30)
        seen = simulator.state()["acknowledged"]
        until(lambda: simulator.state()["acknowledged"] > seen, 30, "acknowledgements by the second")
        assert "took over as the listener" in second.log_text()
        first.started()
        first.wait_state("standby")
    oracle.wait()
    oracle.check()


def test_frozen_holder_that_wakes_up_late_commits_nothing(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    """SIGSTOP until its session has ended and another has taken over, then SIGCONT in the middle of the traffic."""
    first, second = _two_hosts(vkteamsd, simulator, oracle, quick=True)
    with Traffic(simulator, rate=30):
        wait_acknowledged(simulator, 20)
        pid = first.signal(signal.SIGSTOP)
        try:
            second.wait_state("listening", timeout=60)
            seen = simulator.state()["acknowledged"]
            until(lambda: simulator.state()["acknowledged"] > seen + 20, 30, "acknowledgements by the second")
        finally:
            os.kill(pid, signal.SIGCONT)
        first.wait_state("standby", timeout=30)
        seen = simulator.state()["acknowledged"]
        until(lambda: simulator.state()["acknowledged"] > seen + 20, 30, "the second goes on")
    oracle.wait()
    oracle.check()


def test_removed_pid_file_is_created_again(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url).started()
    pid = daemon.pid
    daemon.pid_file.unlink()
    until(lambda: daemon.pid_file.exists() and daemon.pid == pid, 30, "the PID file")
    assert Path(f"/proc/{pid}").exists()
    assert daemon.start().returncode == 75
