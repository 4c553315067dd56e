"""The watchdog of the service manager (sd_notify WATCHDOG) is fed by the loops: one that hangs starves it."""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.scale import scaled
from tests.harness.simulator import wait_acknowledged, wait_polled
from tests.harness.traffic import emit_event
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

SILENCE = 1.0  # seconds; ten times as long as between two checks
VITAL = ("longpoll", "keeper", "main")
OTHERS = (
    "status", "reload", "worker 0", "rhythm", "roster", "measures", "words", "search-terms", "retention",
)  # fmt: skip


class Manager:
    """The service manager's end of the socket that NOTIFY_SOCKET names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o777)

    def fed(self, seconds: float) -> bool:
        """Whether a report that every loop goes on comes within so many seconds."""
        self._socket.settimeout(seconds)
        try:
            while self._socket.recv(4096) != b"WATCHDOG=1":
                pass
        except TimeoutError:
            return False
        return True

    def drain(self) -> None:
        """Forget what has come so far."""
        while self.fed(0.01):
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(open_tmp: Path) -> Iterator[Manager]:
    made = Manager(open_tmp / "notify")
    yield made
    made.close()


@pytest.fixture
def daemon(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, database_url: str, models_dir: Path, manager: Manager
) -> DaemonProcess:
    """One that reports to the manager and is fed by all its loops."""
    options = {
        "api.poll_time": 1, "api.connect_timeout": 0.5, "api.read_margin": 0.5, "embedding.workers": 1,
        "embedding.poll_interval": 0.5, "embedding.models_dir": str(models_dir),
    }  # fmt: skip
    made = vkteamsd(api_url=simulator.url, database_url=database_url, hanging=True, options=options)
    made.environ["NOTIFY_SOCKET"] = str(manager.path)
    made.started()
    wait_polled(simulator)
    assert manager.fed(10)
    return made


def test_a_loop_that_hangs_starves_the_watchdog_until_it_goes_on(daemon: DaemonProcess, manager: Manager) -> None:
    for loop in random.sample(VITAL, scaled("vital loops that hang", full=len(VITAL), quick=2)):
        daemon.hang(loop)
        if loop == "main":
            daemon.signal(signal.SIGUSR1)  # it does nothing by itself
        until(lambda loop=loop: f"the loop {loop} has not gone on" in daemon.log_text(), 30, f"a warning of {loop}")
        manager.drain()
        assert not manager.fed(SILENCE), f"{loop} hangs"
        daemon.release(loop)
        assert manager.fed(30), f"{loop} goes on"
    assert daemon.stop() < 5


def test_loops_without_which_archiving_goes_on_are_told_and_do_not_starve_the_watchdog(
    daemon: DaemonProcess, simulator: Simulator, manager: Manager
) -> None:
    """A restart would not help them: a database that stands still for minutes, a disk that hangs."""
    daemon.stop()
    for loop in OTHERS:
        daemon.hang(loop)
    daemon.started()
    daemon.signal(signal.SIGHUP)
    emit_event(simulator, 1)
    for loop in OTHERS:
        until(lambda loop=loop: f"the loop {loop} has not gone on" in daemon.log_text(), 30, f"a warning of {loop}")
    manager.drain()
    assert manager.fed(5)
    assert manager.fed(5)
    wait_acknowledged(simulator, simulator.state()["issued"])
    daemon.release("status")
    until(lambda: (status := daemon.status()) and len(status.warnings) == len(OTHERS) - 1, 30, "the warnings")
    problems = daemon.ask("diagnostic", "health")["problems"]
    for loop in OTHERS[1:]:
        assert any(problem.startswith(f"daemon: the loop {loop} has not gone on") for problem in problems), loop
        daemon.release(loop)
    until(lambda: (status := daemon.status()) and not status.warnings, 30, "no warning any more")
    assert daemon.stop() < 5
