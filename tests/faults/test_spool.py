"""The spool (row 18): the database away for long, kill -9 and a full disk while events go in and while they go out."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.locks import locked, wait_blocked
from tests.harness.oracle import Oracle, spooled_ids
from tests.harness.postgres import PostgresServer
from tests.harness.proxy import Proxy
from tests.harness.scale import figure, scaled
from tests.harness.simulator import wait_acknowledged, wait_polled
from tests.harness.traffic import Traffic, emit_event
from tests.harness.waiting import until
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]
OPTIONS = {
    "daemon.single_host": True,
    "storage.spool_after": 0.5,
    "api.backoff_max": 2.0,
    "daemon.status_interval": 0.2,
}


@pytest.fixture
def daemon(vkteamsd: Make, simulator: Simulator, durable_oracle: Oracle) -> DaemonProcess:
    """One that spools, and whose spool the oracle watches; not started yet."""
    daemon = vkteamsd(api_url=simulator.url, database_url=durable_oracle.url, options=OPTIONS)
    durable_oracle.spool_dir = _state(daemon)
    return daemon


def _state(daemon: DaemonProcess) -> Path:
    return daemon.directory / "state"


def _spooled(daemon: DaemonProcess, least: int) -> None:
    until(lambda: len(spooled_ids(_state(daemon))) >= least, 60, f"{least} events in the spool")


def _empty(daemon: DaemonProcess) -> None:
    until(lambda: not list(_state(daemon).glob("*.spool*")), 60, "no file of the spool")


def test_database_away_for_long(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    """Acknowledgements go on, memory does not grow, the status says what waits, and all of it goes in."""
    seconds = scaled("seconds without a database, spooling", full=3600, quick=5)
    daemon.started()
    pid = daemon.pid
    with Traffic(simulator, rate=50):
        wait_acknowledged(simulator, 20)
        durable_server.stop("immediate")
        _spooled(daemon, 1)
        before = daemon.wait_state("degraded").rss_bytes
        seen = simulator.state()["acknowledged"]
        needed = 45 * seconds
        deadline = 60 + 3 * seconds
        until(lambda: simulator.state()["acknowledged"] > seen + needed, deadline, f"{needed} events acknowledged")
        until(lambda: _status(daemon).spool.events > needed, 20, f"{needed} spooled events in the status")
        status = daemon.wait_state("degraded")
        assert (status.database.state, status.api.state) == ("down", "ok")
        assert status.spool.bytes > 100 * status.spool.events
        assert status.spool.since is not None
        figure("memory grew by, MB", (status.rss_bytes - before) / 1e6)
        figure("events in the spool", status.spool.events)
        assert status.rss_bytes - before < 20 << 20
        durable_server.start()
        daemon.wait_state("listening", timeout=60)
    durable_oracle.wait(300)
    durable_oracle.check()
    _empty(daemon)
    until(lambda: _status(daemon).spool.since is None, 20, "a status without a spool")
    assert daemon.pid == pid
    text = daemon.log_text()
    assert text.count("the events go to the spool") == 1
    assert text.count("the spool is empty") == 1
    assert "Traceback" not in text


def _status(daemon: DaemonProcess) -> Status:
    status = daemon.status()
    assert status is not None
    return status


@pytest.mark.timeout(1800)
def test_kills_while_spooling(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    """Each start finds the spool, is ready without the database, and goes on."""
    chance = random.Random(18)
    daemon.started()
    with Traffic(simulator, rate=50):
        wait_acknowledged(simulator, 10)
        durable_server.stop("immediate")
        _spooled(daemon, 5)
        for _ in range(scaled("kill -9 while spooling", full=100, quick=3)):
            daemon.kill9()
            done = daemon.start()
            assert done.returncode == 0, done.stderr
            assert "degraded: the database does not answer" in done.stdout
            threading.Event().wait(chance.uniform(0, 0.5))
        daemon.kill9()
        durable_server.start()
        daemon.started()
    durable_oracle.wait(120)
    durable_oracle.check()
    _empty(daemon)


@pytest.mark.timeout(1800)
def test_kills_while_the_spool_goes_in(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    chance = random.Random(19)
    daemon.started()
    with Traffic(simulator, rate=50):
        for _ in range(scaled("kill -9 while the spool goes in", full=50, quick=2)):
            durable_server.stop("immediate")
            _spooled(daemon, 30)
            durable_server.start()
            threading.Event().wait(chance.uniform(0, 0.6))
            daemon.kill9()
            daemon.started()
    durable_oracle.wait(120)
    durable_oracle.check()
    _empty(daemon)


@pytest.mark.parametrize("answered", [False, True], ids=["inserted, not committed", "committed, not removed"])
def test_kill_around_the_commit_of_the_spool(
    vkteamsd: Make, simulator: Simulator, durable_oracle: Oracle, open_proxy: Callable[[int], Proxy], answered: bool
) -> None:
    """The proxy before the database stops everything at the COMMIT, before or after it was passed on."""
    proxy = open_proxy(int(psycopg.conninfo.conninfo_to_dict(durable_oracle.url)["port"]))
    daemon = vkteamsd(api_url=simulator.url, database_url=proxy.before(durable_oracle.url), options=OPTIONS).started()
    durable_oracle.spool_dir = _state(daemon)
    wait_polled(simulator)
    proxy.stop()
    proxy.reset()
    for number in range(10):
        emit_event(simulator, number)
    wait_acknowledged(simulator, 10)
    _spooled(daemon, 10)
    proxy.start()
    # While it waits with its insert, its next COMMIT is the one that is meant.
    with locked(durable_oracle.url, "events", "EXCLUSIVE"):
        wait_blocked(durable_oracle.url, "events")
        proxy.cut_at(b"COMMIT", keep=answered)
    until(lambda: proxy.cuts == 1, 20, "the cut")
    daemon.kill9()
    proxy.heal()
    daemon.started()
    emit_event(simulator, 10)
    durable_oracle.wait()
    durable_oracle.check()
    _empty(daemon)


def test_a_full_disk_under_the_spool(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    """The kernel takes no more bytes: nothing more is acknowledged, and it goes on when there is room again."""
    daemon.started()
    wait_polled(simulator)
    durable_server.stop("immediate")
    for number in range(40):
        emit_event(simulator, number)
    _spooled(daemon, simulator.state()["issued"])
    pid = daemon.pid
    assert pid is not None
    size = next(_state(daemon).glob("*.spool")).stat().st_size
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 100, hard))
    spooled = simulator.state()["issued"]
    for number in range(40, 50):
        emit_event(simulator, number)
    until(lambda: _status(daemon).spool.last_error, 30, "an error of the spool")
    assert "cannot be written" in str(_status(daemon).spool.last_error)
    assert daemon.wait_state("degraded").spool.events == spooled
    assert simulator.state()["acknowledged"] <= spooled
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    _spooled(daemon, simulator.state()["issued"])
    until(lambda: _status(daemon).spool.last_error is None, 30, "a spool that works")
    durable_server.start()
    durable_oracle.wait()
    durable_oracle.check()
    _empty(daemon)


def test_the_bundled_database_that_does_not_start(vkteamsd: Make, simulator: Simulator, bundled_copy: Path) -> None:
    """Nobody else can be the listener here, so it spools unasked; PostgreSQL refuses to start."""
    state = bundled_copy / "state"
    options = {"daemon.state_dir": str(state), "storage.spool_after": 0.5, "api.backoff_max": 2.0}
    daemon = vkteamsd(api_url=simulator.url, database_url="", options=options)
    daemon.log_file = state / "vkteamsd.log"
    daemon.started()
    emit_event(simulator, 0)
    wait_acknowledged(simulator, 1)
    [settings] = state.rglob("postgresql.conf")
    right = settings.read_bytes()
    settings.write_bytes(right + b"no_such_setting = 1\n")
    os.kill(int(settings.with_name("postmaster.pid").read_text().split()[0]), signal.SIGKILL)
    for number in range(1, 10):
        emit_event(simulator, number)
    last = simulator.state()["issued"]
    wait_acknowledged(simulator, last, timeout=60)
    assert spooled_ids(state)[-1] == last
    until(lambda: _status(daemon).spool.events >= 1, 20, "a status that counts them")
    assert _status(daemon).state == "degraded"
    settings.write_bytes(right)
    until(lambda: not list(state.glob("*.spool*")), 60, "no file of the spool")
    stored = daemon.answer("database", "stats")
    assert stored["events"] == last


def test_told_to_stop_while_spooling(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    daemon.started()
    wait_polled(simulator)
    durable_server.stop("immediate")
    emit_event(simulator, 0)
    _spooled(daemon, 1)
    until(lambda: _status(daemon).spool.events == 1, 20, "a status that counts it")
    assert "1 events, " in daemon.ctl("daemon", "status").stdout
    assert daemon.stop() < 5
    assert spooled_ids(_state(daemon)) == [1]
    durable_server.start()
    (_state(daemon) / "2.spool.aside-20260101T000000").touch()
    health = daemon.answer("diagnostic", "health")
    assert (health["spool"]["events"], len(health["spool"]["aside"])) == (1, 1)
    assert [problem for problem in health["problems"] if problem.startswith("spool: 1 event waits")]
    assert [problem for problem in health["problems"] if "2.spool.aside-20260101T000000 was put aside" in problem]
    (_state(daemon) / "2.spool.aside-20260101T000000").unlink()
    daemon.started()
    durable_oracle.wait()
    durable_oracle.check()
    _empty(daemon)
