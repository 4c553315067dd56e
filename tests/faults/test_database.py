"""The database under the daemon: killed, restarted, frozen, without connections, full (rows 3, 4 and 6)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.disk import fill, small_disk
from tests.harness.oracle import Oracle
from tests.harness.postgres import PostgresServer
from tests.harness.scale import figure, scaled
from tests.harness.simulator import wait_acknowledged, wait_polled
from tests.harness.temporary import SERVER_USER
from tests.harness.traffic import Traffic, emit_event
from tests.harness.waiting import until
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.system.user import choose_owner

Make = Callable[..., DaemonProcess]


@pytest.fixture
def daemon(vkteamsd: Make, simulator: Simulator, durable_oracle: Oracle, models_dir: Path) -> Iterator[DaemonProcess]:
    """One that archives `simulator` into `durable_oracle`'s database, and is the same process at the end."""
    options = {"embedding.models_dir": str(models_dir), "api.backoff_max": 2.0}
    daemon = vkteamsd(api_url=simulator.url, database_url=durable_oracle.url, options=options).started()
    pid = daemon.pid
    yield daemon
    assert daemon.pid == pid, "it has to live through all of this"


def _went(daemon: DaemonProcess, times: int) -> None:
    """The log has one line for each time the database went and one for each time it came back; no traceback."""
    text = daemon.log_text()
    assert text.count("the database fails") <= times
    assert text.count("the database answers again") <= times
    assert "Traceback" not in text


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", ["immediate", "kill"])
def test_server_killed_and_restarted_under_load(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer, mode: str
) -> None:
    count = scaled(f"restarts of the database ({mode})", full=50, quick=2)
    with Traffic(simulator, rate=50):
        for _ in range(count):
            seen = simulator.state()["acknowledged"]
            if mode == "kill":
                durable_server.kill()
            else:
                durable_server.stop("immediate")
            durable_server.start()
            began = time.monotonic()
            until(lambda seen=seen: simulator.state()["acknowledged"] > seen, 60, "acknowledgements after the restart")
            figure("slowest acknowledgement after the database is back, s", time.monotonic() - began)
    durable_oracle.wait()
    durable_oracle.check()
    daemon.wait_state("listening")
    assert "Traceback" not in daemon.log_text()


def test_every_session_terminated_again_and_again(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    with Traffic(simulator, rate=50):
        for _ in range(scaled("terminations of every session", full=50, quick=3)):
            seen = simulator.state()["acknowledged"]
            durable_server.terminate_backends()
            until(lambda seen=seen: simulator.state()["acknowledged"] > seen, 60, "acknowledgements afterwards")
    durable_oracle.wait()
    durable_oracle.check()
    assert "Traceback" not in daemon.log_text()


def test_no_connection_to_be_had(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    wait_polled(simulator)
    name = durable_oracle.url.rpartition("/")[2]
    durable_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")  # a limit does not bind a superuser
    durable_server.terminate_backends(name)
    daemon.wait_state("degraded")
    emit_event(simulator, 1)
    durable_server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    durable_oracle.wait()
    durable_oracle.check()
    _went(daemon, 1)


def test_database_gone_for_long(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    """Degraded, quiet, and no larger than before, however much is said meanwhile."""
    seconds = scaled("seconds without a database", full=1800, quick=4)
    with Traffic(simulator, rate=20):
        until(lambda: simulator.state()["acknowledged"] > 20, 30, "some traffic")
        durable_server.stop("immediate")
        status = daemon.wait_state("degraded")
        assert status.database.state == "down"
        before = status.rss_bytes
        lines = len(_complaints(daemon))
        threading.Event().wait(seconds)
        status = daemon.wait_state("degraded")
        figure("memory grew by, MB", (status.rss_bytes - before) / 1e6)
        assert status.rss_bytes - before < 20 << 20
        assert len(_complaints(daemon)) - lines <= 2, daemon.log_text()
        durable_server.start()
        daemon.wait_state("listening", timeout=30)
    durable_oracle.wait()
    durable_oracle.check()
    _went(daemon, 1)


def _complaints(daemon: DaemonProcess) -> list[str]:
    """The lines of its log; the statistics come every ten minutes, whatever happens."""
    return [line for line in daemon.log_text().splitlines() if "daemon.reporter: statistics" not in line]


def test_a_frozen_server_is_noticed_and_left(
    vkteamsd: Make, simulator: Simulator, durable_oracle: Oracle, durable_server: PostgresServer
) -> None:
    """Nothing answers and no connection breaks: TERM still ends the daemon in time, and nothing is lost."""
    daemon = vkteamsd(api_url=simulator.url, database_url=durable_oracle.url).started()
    wait_polled(simulator)
    durable_server.pause()
    emit_event(simulator, 1)
    assert daemon.stop() < 5
    durable_server.resume()
    daemon.started()
    durable_oracle.wait()
    durable_oracle.check()


def test_a_full_disk_stops_the_cursor_and_nothing_else(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle
) -> None:
    """PostgreSQL's own error of a full disk (53100), raised by a trigger: nobody fills a machine's disk for a test."""
    wait_polled(simulator)
    with psycopg.connect(durable_oracle.url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$"
        )
        connection.execute("CREATE TRIGGER full_disk BEFORE INSERT ON events EXECUTE FUNCTION full_disk()")
        emit_event(simulator, 1)
        status = daemon.wait_state("degraded")
        assert status.database.last_error is not None
        assert "No space left on device" in status.database.last_error
        assert simulator.state()["acknowledged"] == 0
        connection.execute("DROP TRIGGER full_disk ON events")
    durable_oracle.wait()
    durable_oracle.check()
    daemon.wait_state("listening")


def test_a_full_disk_under_the_whole_server(vkteamsd: Make, simulator: Simulator, open_tmp: Path) -> None:
    """Data and log of the server lie on one small disk. PostgreSQL gives up where its log finds no room."""
    with small_disk(open_tmp / "disk", "144m", uid=choose_owner(SERVER_USER).uid) as disk:
        server = PostgresServer(disk, durable=True, max_wal_size="32MB", min_wal_size="32MB")
        server.start()
        oracle = Oracle(simulator, server.url(server.create_database()))
        try:
            daemon = vkteamsd(
                api_url=simulator.url, database_url=oracle.url, options={"api.backoff_max": 2.0}
            ).started()
            with Traffic(simulator, rate=50):
                wait_acknowledged(simulator, 20)
                ballast = fill(disk)
                daemon.wait_state("degraded")
                seen = simulator.state()["acknowledged"]
                until(lambda: simulator.state()["issued"] > seen + 50, 30, "events meanwhile")
                assert daemon.wait_state("degraded").database.last_error
                ballast.unlink()
                server.recover()
                wait_acknowledged(simulator, seen + 50, timeout=60)
            oracle.wait()
            oracle.check()
            daemon.wait_state("listening")
            assert "Traceback" not in daemon.log_text()
            daemon.stop()
        finally:
            oracle.close()
            server.stop("immediate")


def test_a_full_disk_under_the_log_stops_nothing(
    vkteamsd: Make, simulator: Simulator, durable_oracle: Oracle, open_tmp: Path
) -> None:
    with small_disk(open_tmp / "disk", "64k") as disk:
        daemon = vkteamsd(
            api_url=simulator.url, database_url=durable_oracle.url, options={"daemon.log_file": str(disk / "x.log")}
        ).started()
        daemon.log_file = disk / "x.log"
        ballast = fill(disk)
        for number in range(20):
            emit_event(simulator, number)
        # The statistics go to the log, and fill its last page of memory.
        until(lambda: daemon.signal(signal.SIGUSR1) and not (disk / "x.log").stat().st_size % 4096, 30, "a full log")
        durable_oracle.wait()
        durable_oracle.check()
        ballast.unlink()
        daemon.signal(signal.SIGUSR1)
        daemon.wait_log("could not be written")
        assert "Traceback" not in daemon.log_text()
        assert daemon.stop() < 5


def test_a_status_file_that_cannot_be_written_leaves_the_old_one(
    daemon: DaemonProcess, simulator: Simulator, durable_oracle: Oracle
) -> None:
    """Its directory takes nothing new (here: a directory stands where the new file would)."""
    daemon.wait_state("listening")
    obstacle = daemon.status_path.with_name(f".{daemon.status_path.name}.new")
    made = False
    while not made:
        try:
            obstacle.mkdir()
            made = True
        except FileExistsError:  # the daemon is just writing
            continue
    daemon.wait_log("the status file cannot be written")
    old = status_file.read(daemon.status_path)
    assert old is not None
    assert old.state == "listening"
    emit_event(simulator, 1)
    durable_oracle.wait()
    obstacle.rmdir()
    daemon.wait_log("the status file is written again")
    assert daemon.log_text().count("the status file cannot be written") == 1
    durable_oracle.check()
