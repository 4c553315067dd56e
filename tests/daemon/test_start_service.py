"""Starts that meet the world: the API and the database refuse, are absent, or come late; and the bundled database."""

from __future__ import annotations

import fcntl
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tests.harness.cluster import on_cluster
from tests.harness.daemon import TOKEN, DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.simulator import wait_polled
from tests.harness.temporary import servers
from tests.harness.traffic import emit_event
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.service import STOP_LIMIT, Service
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.errors import ConfigError, DatabaseUnavailable
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]
SOON = {"daemon.start_timeout": 3.0, "api.connect_timeout": 1.0, "api.read_margin": 1.0, "database.connect_timeout": 1}
NOBODY_LISTENS = "http://127.0.0.1:9"


def _refused(daemon: DaemonProcess, code: int, *said: str) -> None:
    done = daemon.start()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    for part in said:
        assert part in done.stderr
    assert TOKEN not in done.stderr + daemon.log_text()
    assert daemon.processes() == []
    assert not daemon.pid_file.exists()
    assert "Traceback" not in daemon.log_text()


@pytest.fixture
def website() -> Iterator[str]:
    """A server that answers everything with a page."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

        def log_message(self, format: str, *args: object) -> None:
            """Not on the tests' terminal."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_wrong_token_is_refused_at_once(vkteamsd: Make, simulator: Simulator, database_url: str) -> None:
    simulator.token = "001.1.1:1000000001"
    _refused(vkteamsd(api_url=simulator.url, database_url=database_url), 78, "the Bot API refused the token")


def test_a_start_does_not_wait_long_for_a_page_in_the_apis_place(
    vkteamsd: Make, website: str, database_url: str
) -> None:
    """A proxy may say anything for a while. So it is no mistake of the configuration (78)."""
    _refused(
        vkteamsd(api_url=website, database_url=database_url, options=SOON), 69, "is not the Bot API", "Check api.url"
    )


def test_a_page_in_the_apis_place_never_ends_a_daemon_that_may_start_degraded(
    vkteamsd: Make, simulator: Simulator, database_url: str
) -> None:
    def page(status: int) -> None:
        simulator.clear_faults()
        for method in ("self/get", "events/get"):
            simulator.faults("answer", None, method, status=status, type="text/html", body="<html>maintenance</html>")

    options = SOON | {
        "daemon.start_degraded": True,
        "daemon.start_timeout": 0.2,
        "api.backoff_max": 0.5,
        "api.poll_time": 1,
    }
    page(200)
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url, options=options).started()
    for status in (302, 401, 403, 404, 407, 503):
        page(status)
        until(lambda code=status: (s := daemon.status()) and str(code) in (s.api.last_error or ""), 20, f"{status}")  # type: ignore[misc]
        assert daemon.status().api.state == "backoff"  # type: ignore[union-attr]
    simulator.clear_faults()
    daemon.wait_state("listening")
    page(200)
    until(lambda: (s := daemon.status()) and "it is HTML" in (s.api.last_error or ""), 20, "the page")
    simulator.clear_faults()
    daemon.wait_state("listening")


def test_removed_runtime_directory_comes_back(vkteamsd: Make, simulator: Simulator, database_url: str) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url).started()
    pid = daemon.pid
    shutil.rmtree(daemon.pid_file.parent)
    daemon.wait_log("had been removed or replaced; it is there again")
    assert daemon.wait_state("listening").pid == pid
    daemon.stop()
    assert not daemon.pid_file.exists()


def test_removed_runtime_directory_that_cannot_come_back_is_told(
    vkteamsd: Make, simulator: Simulator, database_url: str
) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url).started()
    pid, runtime = daemon.pid, daemon.pid_file.parent
    assert pid is not None
    runtime.rename(runtime.with_name("away"))
    runtime.write_text("in the way")
    daemon.wait_log("run: it was removed and cannot be made again: File exists")
    runtime.unlink()
    daemon.wait_state("listening")
    assert daemon.log_text().count("cannot be made again") == 1


@pytest.mark.parametrize("signals", [1, 2])
def test_log_that_hangs_holds_up_no_stop(vkteamsd: Make, simulator: Simulator, database_url: str, signals: int) -> None:
    """Nobody reads the log's pipe: the thread that writes holds the log's lock for ever."""
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url)
    process = daemon.spawn("--foreground")
    try:
        daemon.wait_state("listening")
        assert process.stderr is not None
        fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)

        def full() -> bool:
            process.send_signal(signal.SIGUSR1)
            stopped = daemon.status()
            return stopped is not None and (datetime.now(UTC) - stopped.updated_at).total_seconds() > 2

        def ended() -> bool:
            process.send_signal(signal.SIGTERM)
            return process.poll() is not None

        until(full, 30, "a status file that is not written, because the log hangs", 0.1)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if signals == 2:  # two that come before the first is handled are one, so the second is sent until the end
            until(ended, 10, "the end of the process", 0.05)
        process.wait(30)  # the first TERM waits STOP_LIMIT for the threads, the second for nothing
        assert signals == 1 or time.monotonic() - began < STOP_LIMIT
        assert process.returncode == 0
        assert not daemon.pid_file.exists()
    finally:
        process.kill()
        process.communicate()


def test_an_api_that_cannot_be_reached(vkteamsd: Make, database_url: str) -> None:
    _refused(vkteamsd(api_url=NOBODY_LISTENS, database_url=database_url, options=SOON), 69, "the connection is refused")


def test_an_api_that_does_not_answer(vkteamsd: Make, simulator: Simulator, database_url: str) -> None:
    simulator.faults("deaf", None)
    _refused(vkteamsd(api_url=simulator.url, database_url=database_url, options=SOON), 69, "no answer")


def test_a_database_that_cannot_be_reached(vkteamsd: Make, simulator: Simulator) -> None:
    url = "postgresql://vkteams:hidden@127.0.0.1:9/vkteams"
    daemon = vkteamsd(api_url=simulator.url, database_url=url, options=SOON)
    _refused(daemon, 69, "the database cannot be reached")
    assert "hidden" not in daemon.log_text()


@pytest.mark.parametrize("wrong", ["password", "database"])
def test_start_does_not_wait_for_a_database_that_refuses(
    vkteamsd: Make, simulator: Simulator, database_url: str, wrong: str
) -> None:
    if wrong == "password" and on_cluster(database_url):
        pytest.skip("the cluster asks for no password")
    host, _, name = database_url.rpartition("@")
    url = f"postgresql://vkteams:wrongpass@{name}" if wrong == "password" else f"{host}@{name}_absent"
    _refused(
        vkteamsd(api_url=simulator.url, database_url=url), 78, "the database refuses the connection", "database.url"
    )


def test_a_second_start(vkteamsd: Make, simulator: Simulator, database_url: str) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url).started()
    done = daemon.start()
    assert done.returncode == 75
    assert done.stderr.startswith(f"vkteamsd: vkteamsd is already running: process {daemon.pid} holds ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="root may write everywhere, and drops to a user who may not")
def test_a_log_that_only_root_may_write(vkteamsd: Make, simulator: Simulator, database_url: str) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url)
    daemon.directory.chmod(0o755)
    (daemon.directory / "state").mkdir(mode=0o755)
    (daemon.directory / "state" / "vkteamsd.log").touch(mode=0o600)
    daemon.configure(**{"daemon.user": "nobody"})
    done = daemon.start()
    assert done.returncode in (73, 77), done.stderr
    assert done.stderr.count("\n") == 1
    assert daemon.processes() == []


def test_start_degraded_recovers_by_itself(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    simulator.stop()
    options = SOON | {"daemon.start_degraded": True, "daemon.start_timeout": 1.0, "api.backoff_max": 1.0}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options)
    done = daemon.start()
    assert done.returncode == 0
    assert done.stdout.startswith("vkteamsd: degraded: ")
    assert daemon.wait_state("degraded").api.state == "backoff"
    assert daemon.answer("daemon", "status")["status"] == "degraded"
    simulator.start()
    emit_event(simulator, 1)
    oracle.wait()
    daemon.wait_state("listening")
    oracle.check()


def test_bundled_database_starts_and_stops_with_the_daemon(
    vkteamsd: Make, simulator: Simulator, bundled_copy: Path
) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url="", options={"daemon.state_dir": str(bundled_copy / "state")})
    daemon.log_file = bundled_copy / "state" / "vkteamsd.log"
    daemon.started()
    for number in range(3):
        emit_event(simulator, number)
    until(lambda: (s := daemon.status()) and s.events.saved == 3, 20, "three events saved")
    found = daemon.answer("database", "stats")
    assert (found["events"], found["messages"]) == (3, 3)
    assert daemon.stop() < 5
    until(lambda: servers(bundled_copy) == [], 30, "the end of the server")
    assert daemon.answer("database", "stats")["events"] == 3, "vkteamsctl starts it by itself"
    until(lambda: servers(bundled_copy) == [], 30, "the end of the server")


def test_start_timeout_excludes_initialising_the_bundled_database() -> None:
    service = Service(msgspec.convert({"daemon": {"start_timeout": 0.0}}, Config))
    ready: Future[str] = Future()
    with pytest.raises(DatabaseUnavailable, match="was not ready within 0 s"):
        service._await_ready(ready, lambda: None)
    service._database.initialising = True
    timer = threading.Timer(0.5, ready.set_result, ("",))
    timer.start()
    assert service._await_ready(ready, lambda: None) == ""
    timer.join()


def test_foreground_leaves_the_scripts_file_open(vkteamsd: Make) -> None:
    daemon = vkteamsd(api_url=NOBODY_LISTENS, options=SOON | {"daemon.start_timeout": 0.5})
    # As pip's script of an editable installation runs it.
    script = "import sys; del sys.argv[0]; file = sys.argv[0]\nwith open(file) as f: exec(f.read())"
    program, *arguments = daemon.command("--foreground")[1:]
    done = subprocess.run(
        [sys.executable, "-c", script, program, *arguments],
        env=daemon.environ, cwd=daemon.directory, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 69, done.stderr
    assert "Traceback" not in done.stderr


def test_killed_bundled_database_is_restarted(vkteamsd: Make, simulator: Simulator, bundled_copy: Path) -> None:
    options = {"daemon.state_dir": str(bundled_copy / "state"), "api.backoff_max": 1.0}
    daemon = vkteamsd(api_url=simulator.url, database_url="", options=options)
    daemon.log_file = bundled_copy / "state" / "vkteamsd.log"
    daemon.started()
    wait_polled(simulator)
    emit_event(simulator, 1)
    until(lambda: (s := daemon.status()) and s.events.saved == 1, 20, "an event saved")
    postmaster = int((bundled_copy / "state" / "postgresql" / "18" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    emit_event(simulator, 2)
    until(lambda: (s := daemon.status()) and s.events.saved == 2 and s.database.state == "ok", 60, "the next one too")
    assert daemon.answer("database", "stats")["events"] == 2
    assert daemon.stop() < 5


def test_degraded_workers_retry_after_every_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = {"role": "embed", "start_degraded": True, "start_timeout": 0.1}
    service = Service(msgspec.convert({"daemon": daemon}, Config), status := new_status("1", "embed"))
    down, refused = DatabaseUnavailable("nobody listens"), ConfigError("the database refuses the connection")
    outcome: list[Exception | None] = [down]
    asked = []

    def open_database() -> None:
        asked.append(outcome[0])
        if outcome[0]:
            raise outcome[0]

    monkeypatch.setattr(service._database, "open", open_database)
    monkeypatch.setattr(service._workers, "start", lambda pool: None)
    monkeypatch.setattr(service._stopping, "wait", lambda seconds: time.sleep(0.01))
    caplog.set_level("INFO")
    assert service.start() == "degraded: nobody listens; it goes on trying"
    try:
        for error in (refused, down, None):
            outcome[0] = error
            until(lambda error=error: asked[-1] is error, 20, "another attempt")
        until(lambda: (status.database.state, status.database.last_error) == ("ok", None), 20, "an open database")
    finally:
        service.stop()
    said = [record.getMessage() for record in caplog.records if record.name == "vkteams_daemon.daemon.database_opener"]
    assert said[:4] == [str(down), str(refused), str(down), "the database answers"]


def test_start_of_workers_fails_on_a_permanent_error(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(msgspec.convert({"daemon": {"role": "embed", "start_degraded": True}}, Config))

    def refuse() -> None:
        raise ConfigError("the database refuses the connection")

    monkeypatch.setattr(service._database, "open", refuse)
    with pytest.raises(ConfigError, match="refuses"):
        service.start()


def test_a_poll_that_is_overdue_is_given_up_for_another(simulator: Simulator, tmp_path: Path) -> None:
    api = {"url": simulator.url, "token": simulator.token, "poll_time": 300}
    directories = {"runtime_dir": str(tmp_path), "state_dir": str(tmp_path)}
    options = {"api": api, "daemon": directories | {"role": "listen"}, "storage": {"save": False}}
    service = Service(msgspec.convert(options, Config))
    service.start()
    try:
        wait_polled(simulator)
        polls = simulator.state()["polls"]
        assert service._listener
        service._listener._longpoll.busy(-1.0)
        service._watch.check()
        until(lambda: simulator.state()["polls"] > polls, 30, "another poll")
    finally:
        service.stop()


def test_hanging_disk_does_not_delay_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, hangs, free = threading.Event(), threading.Event(), threading.Event()

    def report() -> None:
        if wanted.is_set():
            hangs.set()
            free.wait(60)

    service = Service(msgspec.convert({"daemon": {"role": "embed"}}, Config), report=report)
    monkeypatch.setattr(service._database, "open", lambda: None)
    monkeypatch.setattr(service._workers, "start", lambda pool: None)
    service.start()
    wanted.set()
    service._reporter.write_soon()
    assert hangs.wait(20)
    begin = time.monotonic()
    service.stop()
    assert time.monotonic() - begin < 30 and service.stuck
    free.set()
