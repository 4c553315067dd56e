"""`vkteamsctl daemon`: start, stop, restart, reload, status, stats, on real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import ROOT, DaemonProcess
from tests.harness.fork_server import python
from tests.harness.waiting import until
from vkteams_daemon.ctl.commands.daemon import signals, starter
from vkteams_daemon.daemon.process.pidfile_holder import PidFileHolder, find_holder
from vkteams_daemon.options import Config, Daemon

Make = Callable[..., DaemonProcess]


@pytest.fixture
def daemon(vkteamsd: Make) -> DaemonProcess:
    """A daemon whose service only pretends; `ctl` starts it through a vkteamsd beside vkteamsctl."""
    made = vkteamsd(fake="ready")
    return _with_fake_program(made)


def _with_fake_program(made: DaemonProcess) -> DaemonProcess:
    programs = made.directory / "bin"
    programs.mkdir()
    shutil.copy(ROOT / "bin" / "vkteamsctl", programs)
    (programs / "vkteamsd").write_text(
        "import sys\nfrom tests.harness.fake_vkteamsd import FakeService, main\nsys.exit(main(service=FakeService))\n"
    )
    return made


def _shorten_grace(daemon: DaemonProcess, seconds: float) -> None:
    """Let vkteamsctl of `_ctl` call a status file stale so many seconds after the third missed write, instead of 15."""
    program = daemon.directory / "bin" / "vkteamsctl"
    change = f"from vkteams_daemon.daemon import health\n\nassert health.GRACE == 15\nhealth.GRACE = {seconds}\n"
    program.write_text(program.read_text().replace("import sys\n", f"import sys\n\n{change}"))


def _ctl(daemon: DaemonProcess, *words: str, config: bool = True) -> subprocess.CompletedProcess[str]:
    program = [str(daemon.directory / "bin" / "vkteamsctl"), *(["--config", str(daemon.config_file)] if config else [])]
    return subprocess.run(
        python(*program, *words), env=daemon.environ, cwd=daemon.directory, text=True, stdin=subprocess.DEVNULL,
        capture_output=True, timeout=90, check=False,
    )  # fmt: skip


def _data(daemon: DaemonProcess, *words: str, code: int = 0) -> dict[str, Any]:
    done = _ctl(daemon, "--output", "json", "daemon", *words)
    assert done.returncode == code, done.stderr
    answer = json.loads(done.stdout)
    assert answer["success"] is (code == 0)
    assert answer["command"] == f"daemon {words[0]}"
    data: dict[str, Any] = answer["data"]
    return data


def test_start_and_stop(daemon: DaemonProcess) -> None:
    data = _data(daemon, "start")
    assert data["pid"] == daemon.pid
    assert data["status"] in ("running", "starting")
    daemon.wait_state("listening")
    first = daemon.pid
    done = _ctl(daemon, "daemon", "start")
    assert (done.returncode, done.stdout) == (75, "")
    assert f"process {first}" in done.stderr
    assert daemon.pid == first
    assert _data(daemon, "stop") == {"status": "not running", "stopped": first}
    assert daemon.pid is None
    assert not daemon.pid_file.exists()
    assert _data(daemon, "stop") == {"status": "not running", "stopped": None}
    assert "vkteamsd is not running" in _ctl(daemon, "daemon", "stop").stdout


def test_failed_start_has_the_sentence_and_code_of_vkteamsd(daemon: DaemonProcess) -> None:
    daemon.environ["FAKE_SERVICE"] = "refuse"
    done = _ctl(daemon, "--output", "json", "daemon", "start")
    assert done.returncode == 69
    assert done.stderr.startswith("vkteamsctl: no database at ")
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stdout)["error"] in done.stderr
    assert daemon.processes() == []


def test_start_passes_its_options_on(daemon: DaemonProcess) -> None:
    (daemon.directory / "run").mkdir()
    pid_file = daemon.directory / "run" / "other.pid"
    _data(daemon, "start", "--pid-file", str(pid_file), "--chat-id", "a@chat.agent", "--role", "listen", "--auto-save")
    process = find_holder(pid_file)
    assert process is not None
    assert process.pid is not None
    arguments = (Path("/proc") / str(process.pid) / "cmdline").read_bytes().decode().split("\0")
    for option, value in (("--chat-id", "a@chat.agent"), ("--role", "listen"), ("--pid-file", str(pid_file))):
        assert arguments[arguments.index(option) + 1] == value
    assert "--auto-save" in arguments
    assert _data(daemon, "status", code=3)["status"] == "not running", "another PID file is another daemon"
    assert _data(daemon, "status", "--pid-file", str(pid_file))["pid"] == process.pid
    assert _data(daemon, "stop", "--pid-file", str(pid_file))["stopped"] == process.pid


def test_start_of_a_standby_has_a_note(daemon: DaemonProcess) -> None:
    daemon.environ["FAKE_SERVICE"] = "standby"
    assert _data(daemon, "start")["note"] == "standby: another process listens to this bot"
    daemon.wait_state("standby")
    assert _data(daemon, "status")["status"] == "standby"


def test_restart(daemon: DaemonProcess) -> None:
    daemon.environ["FAKE_SERVICE"] = "unreachable"
    first = _data(daemon, "restart")["pid"]
    second = _data(daemon, "restart")["pid"]
    assert first != second == daemon.pid
    assert daemon.processes() == [second]


def test_start_in_the_foreground_becomes_vkteamsd(daemon: DaemonProcess) -> None:
    command = [sys.executable, str(daemon.directory / "bin" / "vkteamsctl"), "--config", str(daemon.config_file)]
    with subprocess.Popen(
        [*command, "daemon", "start", "--foreground"], env=daemon.environ, cwd=daemon.directory, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        until(lambda: daemon.pid == process.pid, 30, "the daemon in the foreground")
        daemon.wait_state("listening")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


# How it is


def test_status_not_running_running_and_dead(daemon: DaemonProcess) -> None:
    assert _data(daemon, "status", code=3)["status"] == "not running"
    daemon.started()
    daemon.wait_state("listening")
    data = _data(daemon, "status")
    assert (data["status"], data["pid"]) == ("running", daemon.pid)
    assert data.keys() >= {"status", "uptime", "events_processed", "last_activity", "pid", "file"}
    assert data["file"]["state"] == "listening"
    done = _ctl(daemon, "daemon", "status")
    assert done.stdout.startswith("vkteamsd is running\n")
    assert f"{daemon.pid}" in done.stdout
    daemon.kill9()
    data = _data(daemon, "status", code=1)
    assert (data["status"], data["pid"]) == ("dead", None)
    done = _ctl(daemon, "daemon", "status")
    assert (done.returncode, done.stdout) == (1, "vkteamsd is dead\n")


def test_suspended_daemon_is_stale(daemon: DaemonProcess) -> None:
    _shorten_grace(daemon, 0.5)
    daemon.started()
    daemon.wait_state("listening")
    daemon.signal(signal.SIGSTOP)
    until(lambda: _ctl(daemon, "daemon", "status").returncode == 4, 60, "the file to grow old")
    assert _data(daemon, "status", code=4)["status"] == "stale"
    daemon.signal(signal.SIGCONT)
    until(lambda: _ctl(daemon, "daemon", "status").returncode == 0, 30, "a fresh file")


def test_status_is_unknown_if_the_status_file_cannot_be_read(daemon: DaemonProcess) -> None:
    daemon.configure(**{"daemon.status_interval": 300})
    daemon.started()
    daemon.wait_state("listening")
    daemon.status_path.write_text("{")
    done = _ctl(daemon, "--output", "json", "daemon", "status")
    assert done.returncode == 4
    assert "not a readable status file" in json.loads(done.stdout)["error"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_status_is_unknown_if_the_configuration_cannot_be_read(daemon: DaemonProcess) -> None:
    daemon.config_file.chmod(0)
    done = _ctl(daemon, "daemon", "status")
    assert done.returncode == 4
    assert "this user may not read it" in done.stdout + done.stderr


def test_stats_wait_for_a_new_status_file(daemon: DaemonProcess) -> None:
    assert _data(daemon, "stats", code=3)["status"] == "not running"
    daemon.configure(**{"daemon.status_interval": 300})
    daemon.started()
    daemon.wait_state("listening")
    for number in (1, 2, 3):
        assert _data(daemon, "stats")["file"]["events"]["saved"] == number, "the file of before"
    output = _ctl(daemon, "daemon", "stats").stdout
    for line in ("events.saved", "latency_ms.poll_to_row.p50", "embedding.state", "rss_bytes"):
        assert line in output
    assert "fake service got SIGUSR1" in daemon.log_text()


# Who gets the signals


def test_reload(daemon: DaemonProcess) -> None:
    done = _ctl(daemon, "daemon", "reload")
    assert (done.returncode, "vkteamsd is not running" in done.stderr) == (69, True)
    daemon.started()
    daemon.wait_state("listening")
    data = _data(daemon, "reload")
    assert data == {"pid": daemon.pid, "log": str(daemon.log_file), "will_erase": None}
    daemon.wait_log("read again")
    daemon.configure(**{"api.poll_time": 0})
    done = _ctl(daemon, "daemon", "reload")
    assert done.returncode == 78
    assert "api.poll_time: 0 is out of range" in done.stderr
    assert daemon.log_text().count("fake service got SIGHUP") == 1, "a broken file is not even tried"


def test_pid_of_another_program_gets_no_signal(daemon: DaemonProcess) -> None:
    """The file names a live process that is no daemon of ours: it must not be signalled, or taken for one."""
    daemon.started()
    daemon.kill9()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        daemon.pid_file.write_text(f"{other.pid}\n")
        assert _data(daemon, "status", code=1)["pid"] is None
        assert _ctl(daemon, "daemon", "reload").returncode == 69
        daemon.pid_file.write_text(f"{other.pid}\n")
        assert _data(daemon, "stop")["stopped"] is None
        assert not daemon.pid_file.exists(), "a file without a holder only misleads"
        daemon.pid_file.write_text(f"{other.pid}\n")
        assert _data(daemon, "start")["pid"] == daemon.pid != other.pid
        assert other.poll() is None
        assert other.stdin is not None
        other.stdin.close()


@pytest.mark.parametrize(
    "words", [["stop", "--force", "--timeout", "0.1"], ["restart", "--force"], ["reload"], ["stats"], ["status"]]
)
def test_holder_that_is_not_vkteamsd_gets_no_signal(daemon: DaemonProcess, words: list[str]) -> None:
    """The user of the daemon can let any program lock the PID file, and root would end that program."""
    daemon.pid_file.parent.mkdir()
    lock = f"import fcntl; file = open({str(daemon.pid_file)!r}, 'w'); fcntl.flock(file, 2); fcntl.lockf(file, 2)"
    command = [sys.executable, "-c", f"{lock}; print(flush=True); input()", "vkteamsd"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdin is not None
        assert victim.stdout is not None
        victim.stdout.readline()
        daemon.pid_file.write_text(f"{victim.pid}\n")
        done = _ctl(daemon, "daemon", *words)
        assert done.returncode == 4
        assert (
            f"process {victim.pid} holds {daemon.pid_file} and is not proven to be vkteamsd"
            in done.stdout + done.stderr
        )
        assert victim.poll() is None
        assert daemon.pid_file.exists()
        victim.stdin.close()
        assert victim.wait(10) == 1, "it ends by the end of its input and by no signal"


def test_stop_times_out_and_force_kills(daemon: DaemonProcess) -> None:
    daemon.environ["FAKE_STOP"] = "never"
    daemon.started()
    daemon.wait_state("listening")
    pid = daemon.pid
    done = _ctl(daemon, "daemon", "stop", "--timeout", "0.5")
    assert done.returncode == 75
    assert done.stderr == f"vkteamsctl: process {pid} has not stopped within 0.5 s. --force kills it.\n"
    assert daemon.pid == pid
    began = time.monotonic()
    assert _data(daemon, "stop", "--timeout", "0.5", "--force")["stopped"] == pid
    assert time.monotonic() - began < 30
    assert _data(daemon, "status", code=3)["status"] == "not running", "a killed daemon's file is cleared away"


# Instances and workers


def test_instances_have_their_own_daemons(daemon: DaemonProcess) -> None:
    home = daemon.directory / "config" / "vkteams"
    home.mkdir(parents=True)
    daemon.environ |= {"XDG_CONFIG_HOME": str(home.parent), "XDG_RUNTIME_DIR": str(daemon.directory / "r")}
    daemon.environ |= {"XDG_STATE_HOME": str(daemon.directory / "s")}
    (daemon.directory / "r").mkdir(mode=0o700)
    text = daemon.config_file.read_text()
    for name in ("north", "south"):
        own = text.replace(f"{daemon.directory}/run", f"{daemon.directory}/r/{name}")
        (home / f"{name}.toml").write_text(own.replace(f"{daemon.directory}/state", f"{daemon.directory}/s/{name}"))
    pids = []
    try:
        for name in ("north", "south"):
            done = _ctl(daemon, "--instance", name, "--output", "json", "daemon", "start", config=False)
            assert done.returncode == 0, done.stderr
            pids.append(json.loads(done.stdout)["data"]["pid"])
        assert len(set(pids)) == 2
        assert (daemon.directory / "r" / "north" / "vkteamsd.pid").exists()
        assert _ctl(daemon, "--instance", "north", "daemon", "stop", config=False).returncode == 0
        assert _ctl(daemon, "--instance", "north", "daemon", "status", config=False).returncode == 3
        assert _ctl(daemon, "--instance", "south", "daemon", "status", config=False).returncode == 0
    finally:
        for name in ("north", "south"):
            _ctl(daemon, "--instance", name, "daemon", "stop", "--force", config=False)


def test_embedding_daemon_has_its_own_files(daemon: DaemonProcess) -> None:
    listening = _data(daemon, "start")["pid"]
    done = _ctl(daemon, "--output", "json", "daemon", "start", "--role", "embed")
    assert done.returncode == 0, done.stderr
    worker = json.loads(done.stdout)["data"]["pid"]
    assert worker != listening
    assert _data(daemon, "status", "--role", "embed")["pid"] == worker
    assert _data(daemon, "stop", "--role", "embed")["stopped"] == worker
    assert daemon.pid == listening


def test_path_of_the_vkteamsd_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vkteamsd").touch()
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "vkteamsctl")])
    assert starter.program() == [sys.executable, str(tmp_path / "vkteamsd")]
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "elsewhere" / "x")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert starter.program() == [str(tmp_path / "python"), str(tmp_path / "vkteamsd")]
    (tmp_path / "vkteamsd").unlink()
    assert starter.program() == [str(tmp_path / "python"), "-m", "vkteams_daemon.daemon.main"]


def test_holder_that_changes_while_it_is_opened_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two steps the number may have become another program's."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        answers = iter([PidFileHolder(pid) for pid in (os.getpid(), other.pid, other.pid, other.pid)])
        monkeypatch.setattr(signals, "find_holder", lambda _: next(answers))
        monkeypatch.setattr(signals, "doubt", lambda *_: None)
        with signals.running_daemon(Config(daemon=Daemon(pid_file=str(tmp_path / "x.pid")))) as running:
            assert running.pid == other.pid
        assert other.stdin is not None
        other.stdin.close()
