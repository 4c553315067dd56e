"""Killed processes, stale files, damage and a full disk: the next user gets a server or one sentence."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.harness.bundled import CLOSED, ServerUser
from tests.harness.temporary import SERVER_USER, servers
from tests.harness.waiting import until
from vkteams_daemon.errors import CannotCreate, ConfigError, DatabaseUnavailable, SchemaError
from vkteams_daemon.store.bundled import cluster, programs
from vkteams_daemon.store.bundled.server import BundledServer


def _server(base: Path) -> BundledServer:
    return BundledServer(base / "state", base / "run", SERVER_USER)


def _home(base: Path) -> Path:
    return base / "state" / "postgresql"


def _write_as_owner(file: Path, text: str) -> None:
    """Write the file for the owner of its directory, as a server would have left it."""
    file.write_text(text)
    found = file.parent.stat()
    os.chown(file, found.st_uid, found.st_gid)
    file.chmod(0o600)


@pytest.fixture
def share(bundled_base: Path) -> Iterator[BundledServer]:
    share = _server(bundled_base)
    yield share
    share.release()


def test_dead_postmaster_is_noticed_while_its_sessions_still_run(share: BundledServer, bundled_base: Path) -> None:
    conninfo = share.acquire()
    before = share.running()
    assert before
    with psycopg.connect(conninfo, autocommit=True) as session:
        session.execute("DROP TABLE IF EXISTS committed; CREATE TABLE committed AS SELECT 1 AS n")
        orphans = [pid for pid in servers(bundled_base) if pid != before]
        os.kill(before, signal.SIGKILL)
        until(lambda: share.running() is None, what="the notice that it is dead")
        with psycopg.connect(share.acquire()) as again:
            assert again.execute("SELECT n FROM committed").fetchone() == (1,)
    assert share.running() not in (None, before)
    assert not set(orphans) & set(servers(bundled_base))


def test_start_waits_for_the_orphans_of_a_killed_postmaster(share: BundledServer, bundled_base: Path) -> None:
    share.acquire()
    pid = share.running()
    assert pid
    orphan = next(p for p in servers(bundled_base) if p != pid)
    os.kill(orphan, signal.SIGSTOP)  # it cannot notice that its postmaster is gone
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DatabaseUnavailable, match="in time"):
        share.acquire(timeout=0.3)
    assert servers(bundled_base) == [orphan], "no second server beside what is left of the first"
    os.kill(orphan, signal.SIGCONT)
    share.acquire()
    assert share.running()


def test_killed_session_does_not_end_the_server(share: BundledServer) -> None:
    conninfo = share.acquire()
    pid = share.running()
    with psycopg.connect(conninfo) as session:
        os.kill(session.info.backend_pid, signal.SIGKILL)
    psycopg.connect(share.acquire()).close()
    assert share.running() == pid


def test_everything_killed_at_once_recovers(share: BundledServer, bundled_base: Path) -> None:
    with psycopg.connect(share.acquire(), autocommit=True) as session:
        session.execute("DROP TABLE IF EXISTS survives; CREATE TABLE survives AS SELECT generate_series(1, 1000) AS n")
        for pid in servers(bundled_base):
            with contextlib.suppress(ProcessLookupError):  # some end by themselves when the first is dead
                os.kill(pid, signal.SIGKILL)
    with psycopg.connect(share.acquire()) as session:
        assert session.execute("SELECT count(*) FROM survives").fetchone() == (1000,)


@pytest.mark.parametrize("left", ["another program's number", "empty", "nonsense"])
def test_stale_lock_files_are_ignored(share: BundledServer, bundled_base: Path, left: str) -> None:
    share.acquire()
    share.release()
    # A process of the server's own user, so that a signal would reach it: PostgreSQL takes it for a server.
    owner = _home(bundled_base).stat().st_uid if os.geteuid() == 0 else None
    with subprocess.Popen(["/bin/sleep", "60"], user=owner) as stranger:
        text = {"empty": "", "nonsense": "?\n"}.get(left, f"{stranger.pid}\n{_home(bundled_base) / '18'}\n0\n")
        for file in (_home(bundled_base) / "18/postmaster.pid", bundled_base / "run/postgresql/.s.PGSQL.5432.lock"):
            _write_as_owner(file, text)
        try:
            assert share.running() is None
            share.acquire()
            assert share.running() != stranger.pid
            share.release()
            assert stranger.poll() is None, "the stranger was not signalled"
        finally:
            stranger.kill()


def test_dead_and_uncollected_postmaster_is_dead(bundled_base: Path) -> None:
    """As process 1 of a container that collects nobody, the starter keeps a zombie of that number."""
    script = """
import ctypes, os, signal, sys
from pathlib import Path
from vkteams_daemon.store.bundled.server import BundledServer
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
share = BundledServer(Path(sys.argv[1]) / "state", Path(sys.argv[1]) / "run")
share.acquire()
first = share.running()
os.kill(first, signal.SIGKILL)
os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
assert share.running() is None
share.acquire()
assert os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT), "it is a zombie still"
assert share.running() not in (None, first)
share.release()
print("done")
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(bundled_base)], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.stdout == "done\n", run.stderr


def test_server_whose_socket_was_taken_away_is_started_again(share: BundledServer, bundled_base: Path) -> None:
    """systemd removes the runtime directory of a unit that was killed."""
    share.acquire()
    before = share.running()
    subprocess.run(["rm", "-rf", bundled_base / "run"], check=True)
    psycopg.connect(share.acquire()).close()
    assert share.running() not in (None, before)


_START_DELAYED = """
import os, signal, sys, time
from pathlib import Path
from vkteams_daemon.store.bundled import programs
from vkteams_daemon.store.bundled.server import BundledServer

def delayed(*arguments, find=programs.find_programs):
    print("starting", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP) if sys.argv[2] == "stopped" else time.sleep(3)
    return find(*arguments)

programs.find_programs = delayed
share = BundledServer(Path(sys.argv[1]) / "state", Path(sys.argv[1]) / "run")
share.acquire()
print(share.running(), flush=True)
sys.stdin.readline()
share.release()
"""


@pytest.mark.parametrize("state", ["stopped", "slow"])
def test_start_waits_for_a_slow_starter_and_not_for_a_stopped_one(
    bundled_base: Path, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    command = [sys.executable, "-c", _START_DELAYED, str(bundled_base), state]
    share = BundledServer(bundled_base / "state", bundled_base / "run", patience=1.0)
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout
        assert starter.stdout.readline() == "starting\n"
        began = time.monotonic()
        share.acquire()
        assert time.monotonic() - began < 15
        assert ("shows no life" in caplog.text) == (state == "stopped")
        starter.send_signal(signal.SIGCONT)
        assert starter.stdout.readline() == f"{share.running()}\n", "both use one server"
        starter.communicate("\n", timeout=60)
        psycopg.connect(share.acquire()).close()
    share.release()


def test_servers_last_fatal_line_is_in_the_error(bundled_copy: Path) -> None:
    share = _server(bundled_copy)
    with (_home(bundled_copy) / "18/postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(DatabaseUnavailable, match=r"cannot start: configuration file .* contains errors") as caught:
        share.acquire()
    assert str(_home(bundled_copy) / "log") in caught.value.hint
    assert share.running() is None
    assert servers(bundled_copy) == []


def test_damage_found_in_recovery_is_in_the_error(bundled_copy: Path) -> None:
    subprocess.run(["find", _home(bundled_copy) / "18/pg_wal", "-type", "f", "-delete"], check=True)
    with pytest.raises(DatabaseUnavailable, match="could not locate a valid checkpoint record"):
        _server(bundled_copy).acquire()


@pytest.mark.parametrize("place", ["in the directory", "beside it"])
def test_another_major_version_is_refused_and_left_alone(bundled_copy: Path, place: str) -> None:
    home = _home(bundled_copy)
    if place == "in the directory":
        (home / "18/PG_VERSION").write_text("17\n")
    else:
        (home / "18").rename(home / "17")
        (home / "17/PG_VERSION").write_text("17\n")
    before = sorted(home.iterdir())
    with pytest.raises(SchemaError, match="PostgreSQL 17, and the bundled one is 18"):
        _server(bundled_copy).acquire()
    assert set(home.iterdir()) - set(before) <= {home / "log"}


def test_directory_with_something_else_is_refused_and_left_alone(bundled_copy: Path) -> None:
    data = _home(bundled_copy) / "18"
    (data / "PG_VERSION").unlink()
    with pytest.raises(SchemaError, match="holds no PostgreSQL database"):
        _server(bundled_copy).acquire()
    assert (data / "global").is_dir()


def test_full_disk_leaves_no_half_made_database(open_tmp: Path) -> None:
    # A limit on the size of files fails the same writes as a full disk does, for this process and its children only.
    with ServerUser(open_tmp, shell="ulimit -f 2000;") as starter:
        assert starter.line.startswith("CannotCreate"), starter.line
        assert (
            "the bundled PostgreSQL cannot be copied" if CLOSED else "the database cannot be made: "
        ) in starter.line
    assert [p.name for p in _home(open_tmp).glob("*18*")] + [p.name for p in _home(open_tmp).glob(".18*")] == []
    share = _server(open_tmp)
    share.acquire()
    share.release()


def test_full_disk_is_reported_before_the_errors_it_causes() -> None:
    printed = (
        'FATAL:  could not extend file "base/1/1255": No space left on device\n'
        "PANIC:  cannot abort transaction 1, it was already committed\n"
    )
    assert cluster.failure_reason(printed, 1) == "No space left on device"
    assert cluster.failure_reason("FATAL:  one\nPANIC:  two\nchild process was terminated\n", 1) == "two"
    assert cluster.failure_reason("", 3) == "exit status 3"


def test_half_made_database_of_a_killed_starter_is_removed(open_tmp: Path) -> None:
    with ServerUser(open_tmp, wait=False) as starter:
        half = until(lambda: next(iter(_home(open_tmp).glob(".18.*/PG_VERSION")), None), what="the beginning of it")
        starter.kill()
    assert half and not (_home(open_tmp) / "18").exists()
    # Its initdb lives on for a moment, and would write into what is being removed.
    until(lambda: not _processes_with(half.parent.name), 30, "the end of the orphaned initdb")
    share = _server(open_tmp)
    psycopg.connect(share.acquire()).close()
    assert not half.parent.exists()
    share.release()


def test_without_the_wheel_the_sentence_says_what_to_install(open_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_PACKAGE", "no_such_package")
    assert not programs.available()
    with pytest.raises(ConfigError, match="not installed") as caught:
        _server(open_tmp).acquire()
    assert "database.url" in caught.value.hint


def test_unwritable_state_directory_is_one_sentence(open_tmp: Path) -> None:
    (open_tmp / "file").write_text("")
    with pytest.raises(CannotCreate, match="cannot be made"):
        BundledServer(open_tmp / "file" / "state", open_tmp / "run", SERVER_USER).acquire()


def _processes_with(word: str) -> list[str]:
    """The processes that have this word on their command line."""
    pids = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and word.encode() in (process / "cmdline").read_bytes():
                pids.append(process.name)
    return pids
