"""A start that cannot succeed: one sentence on the terminal, the right exit code, no process and no PID file left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.daemon import ROOT, TOKEN, DaemonProcess
from tests.harness.disk import fill, small_disk
from tests.harness.waiting import until

Make = Callable[..., DaemonProcess]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about root")


def _refused(daemon: DaemonProcess, code: int, *said: str, arguments: tuple[str, ...] = ()) -> str:
    done = daemon.start(*arguments)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("vkteamsd: ")
    assert done.stderr.count("\n") == 1
    for part in said:
        assert part in done.stderr
    assert TOKEN not in done.stderr
    assert daemon.processes() == []
    assert not daemon.pid_file.exists()
    if not arguments:
        _found_beforehand(daemon, code, *said)
    return done.stderr


def _found_beforehand(daemon: DaemonProcess, code: int, *said: str) -> None:
    """`config check` finds what a start would; what another user or the command line could mend is a note."""
    before = sorted(daemon.directory.rglob("*"))
    done = daemon.ctl("config", "check")
    assert sorted(daemon.directory.rglob("*")) == before, "it makes nothing"
    if done.returncode == 0:
        assert "note: " in done.stdout
    else:
        assert done.returncode == code, done.stderr
        for part in said:
            assert part in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--nonsense",), "unrecognized arguments: --nonsense"),
        (("--role", "king"), "--role: invalid choice"),
        (("--auto-save", "--no-save"), "not allowed with argument"),
        (("--no-save",), "--no-save needs --foreground"),
        (("--instance", "../etc"), "--instance"),
    ],
)
def test_a_wrong_command_line(vkteamsd: Make, arguments: tuple[str, ...], said: str) -> None:
    code = 78 if "../etc" in arguments else 64
    _refused(vkteamsd(), code, said, arguments=arguments)


def test_help_and_version_are_no_errors(vkteamsd: Make) -> None:
    assert vkteamsd().start("--version").stdout.startswith("vkteamsd 0.")
    text = vkteamsd().start("--help").stdout
    for option in ("--config", "--foreground", "--pid-file", "--auto-save", "--no-save", "--chat-id", "--role"):
        assert option in text
    assert "example" in text


def test_broken_toml(vkteamsd: Make) -> None:
    daemon = vkteamsd()
    daemon.config_file.write_text("[api\n")
    _refused(daemon, 78, "not valid TOML", "line 1")


def test_an_unknown_key(vkteamsd: Make) -> None:
    _refused(vkteamsd(options={"daemon.colour": "red"}), 78, "daemon.colour: no such option", "vkteamsd.toml, line ")


def test_a_wrong_value(vkteamsd: Make) -> None:
    _refused(vkteamsd(options={"api.poll_time": 0}), 78, "api.poll_time: ")


def test_a_configuration_file_that_is_not_there(vkteamsd: Make) -> None:
    daemon = vkteamsd()
    daemon.config_file.unlink()
    _refused(daemon, 78, "vkteamsd.toml: cannot be read: No such file or directory")


def test_no_token(vkteamsd: Make) -> None:
    _refused(vkteamsd(token=""), 78, "api.token: it is not set", "VKTEAMS_BOT_API_TOKEN")


def test_no_save_in_the_file_needs_the_foreground(vkteamsd: Make) -> None:
    _refused(vkteamsd(options={"storage.save": False}), 78, "storage.save: false needs --foreground")


def test_a_named_model_that_is_absent(vkteamsd: Make) -> None:
    _refused(vkteamsd(options={"embedding.models": ["all-MiniLM-L6-v2"]}), 78, "all-MiniLM-L6-v2", "model install")


@pytest.mark.parametrize("option", ["daemon.runtime_dir", "daemon.state_dir"])
def test_a_directory_that_cannot_be_made(vkteamsd: Make, option: str) -> None:
    daemon = vkteamsd()
    (daemon.directory / "file").touch()
    daemon.configure(**{option: str(daemon.directory / "file" / "below")})
    _refused(daemon, 73, "cannot be made")


def test_a_file_where_a_directory_belongs(vkteamsd: Make) -> None:
    daemon = vkteamsd(fake="ready")
    (daemon.directory / "state").mkdir()
    daemon.configure(**{"daemon.log_file": str(daemon.directory / "state")})
    _refused(daemon, 73, "the log cannot be written: Is a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_directory(vkteamsd: Make) -> None:
    daemon = vkteamsd(fake="ready")
    (daemon.directory / "run").mkdir(mode=0o500)
    _refused(daemon, 73, "vkteamsd.pid: the PID file cannot be made: Permission denied. Run vkteamsd as a user who ")


def test_an_unwritable_file_system(vkteamsd: Make) -> None:
    _refused(vkteamsd(options={"daemon.runtime_dir": "/proc/vkteams"}), 73, "/proc/vkteams: cannot be made")


def test_a_full_disk_under_the_pid_file(vkteamsd: Make, open_tmp: Path) -> None:
    with small_disk(open_tmp / "disk", "4k") as disk:
        fill(disk)
        daemon = vkteamsd(fake="ready", options={"daemon.pid_file": str(disk / "vkteamsd.pid")})
        daemon.pid_file = disk / "vkteamsd.pid"
        done = daemon.start()
        assert (done.returncode, done.stderr.count("\n")) == (73, 1), done.stderr
        assert "the PID file cannot be made: No space left on device" in done.stderr
        assert daemon.processes() == [] and not daemon.pid_file.exists()


def test_a_working_directory_that_is_gone(vkteamsd: Make) -> None:
    daemon = vkteamsd(fake="ready")
    away = daemon.directory / "away"
    away.mkdir()
    command = ["/bin/sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh", *daemon.command()]
    done = subprocess.run(command, env=daemon.environ, cwd=away, text=True, capture_output=True, check=False)
    assert done.returncode == 64
    assert done.stderr == "vkteamsd: the working directory no longer exists. Change to another one.\n"
    assert daemon.processes() == []


def test_exit_code_holds_when_stderr_is_closed(vkteamsd: Make) -> None:
    daemon = vkteamsd()
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(daemon.command("--nonsense"), env=daemon.environ, stderr=full, check=False)
    assert done.returncode == 64


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_fails_when_stdout_cannot_be_written(vkteamsd: Make, unbuffered: str) -> None:
    daemon = vkteamsd()
    environ = daemon.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            daemon.command("--help"), env=environ, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    said = "vkteamsd: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (73, said)


def test_a_pid_file_that_is_a_link(vkteamsd: Make) -> None:
    daemon = vkteamsd(fake="ready")
    daemon.pid_file.parent.mkdir()
    daemon.pid_file.symlink_to(daemon.directory / "elsewhere")
    done = daemon.start()
    assert (done.returncode, done.stderr.count("\n")) == (73, 1)
    assert "the PID file cannot be made: it is a symbolic link" in done.stderr
    _found_beforehand(daemon, 73, "the PID file cannot be made: it is a symbolic link")
    assert daemon.processes() == []
    assert not (daemon.directory / "elsewhere").exists()


@as_root
def test_root_is_refused_without_allow_root(vkteamsd: Make) -> None:
    daemon = vkteamsd(fake="ready", options={"daemon.user": None, "daemon.allow_root": None})
    daemon.environ["VKTEAMS_DAEMON_USER"] = "root"
    _refused(daemon, 77, "vkteamsd does not run as root", "VKTEAMS_DAEMON_ALLOW_ROOT=1")
    daemon.environ["VKTEAMS_DAEMON_ALLOW_ROOT"] = "1"
    daemon.started()


def test_a_user_that_does_not_exist(vkteamsd: Make) -> None:
    _refused(vkteamsd(options={"daemon.user": "no-such-user"}), 78, "there is no user 'no-such-user'")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may become another user")
def test_another_user_without_being_root(vkteamsd: Make) -> None:
    _refused(vkteamsd(options={"daemon.user": "root"}), 77, "only root can start vkteamsd as root")


@as_root
def test_a_user_who_cannot_read_the_program(vkteamsd: Make, open_tmp: Path) -> None:
    """The package lies in a directory that only root may enter."""
    closed = open_tmp / "closed"
    closed.mkdir(mode=0o700)
    (closed / "vkteams_daemon").symlink_to(ROOT / "vkteams_daemon")
    (closed / "tests").symlink_to(ROOT / "tests")
    daemon = vkteamsd(fake="ready", options={"daemon.user": "nobody"})
    daemon.directory.chmod(0o755)
    daemon.environ["PYTHONPATH"] = str(closed)
    _refused(daemon, 77, "user nobody cannot read this program: ", " is closed to it")


def test_vkteams_debug_shows_the_traceback(vkteamsd: Make) -> None:
    daemon = vkteamsd(fake="crash")
    said = _refused(daemon, 70, "internal error: ZeroDivisionError: division of *** by zero", "VKTEAMS_DEBUG=1")
    assert "Traceback" not in said
    assert "in start" in daemon.log_text()
    assert TOKEN not in daemon.log_text()
    daemon.environ["VKTEAMS_DEBUG"] = "1"
    done = daemon.start()
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert "in start" in done.stderr
    assert TOKEN not in done.stderr


def test_it_runs_as_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vkteams_daemon.daemon.main", "--version"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("vkteamsd ")


@pytest.mark.parametrize("mode", ["slow", "deaf", "untold"])
def test_a_daemon_that_is_stopped_while_it_starts(vkteamsd: Make, mode: str) -> None:
    """Nobody waits without bound for a process that shows no life."""
    daemon = vkteamsd(fake=mode)
    daemon.environ |= {"SILENCE": "3", "END_TIMEOUT": "2"}
    starter = daemon.spawn()
    if mode == "slow":
        until(lambda: daemon.pid, 30, "the daemon's lock")
        daemon.signal(signal.SIGSTOP)
    _, said = starter.communicate(timeout=60)
    assert starter.returncode == 69
    assert said.startswith("vkteamsd: the daemon has shown no sign of life for 3 s while it started, and was ended.")
    assert said.count("\n") == 1
    assert daemon.processes() == []
    assert not daemon.pid_file.exists()


def test_a_start_that_takes_long_and_shows_life_is_waited_for(vkteamsd: Make) -> None:
    daemon = vkteamsd(hanging=True, options={"daemon.start_timeout": 6})  # nothing listens at its address of the API
    daemon.environ["SILENCE"] = "3"
    _refused(daemon, 69, "http://127.0.0.1:9", arguments=("--role", "listen"))


def test_a_child_that_is_stopped_before_it_has_forked_the_daemon() -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom vkteams_daemon.daemon.process import detach\n"
        "detach.SILENCE = detach.END_TIMEOUT = detach._CHILD_TIMEOUT = 1.0\n"
        "verdict = detach.start(lambda pipe: time.sleep(600) or 0, log_file=Path('the.log'), clean_up=lambda: None)\n"
        "print(verdict.error)\nsys.exit(verdict.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 69, done.stderr
    assert "has shown no sign of life for 1 s" in done.stdout


def test_a_failed_daemon_has_ended_when_its_starter_ends(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\nfrom pathlib import Path\nfrom vkteams_daemon.daemon.process import detach\n"
        "def daemon(pipe):\n"
        "    if os.fork():\n"
        "        return 0\n"
        "    Path('pid').write_text(str(os.getpid()))\n"
        "    pipe.failed('it fails', '', 69)\n"
        "    time.sleep(0.5)\n"
        "    return 69\n"
        "verdict = detach.start(daemon, log_file=Path('the.log'), clean_up=lambda: None)\n"
        "command = Path(f\"/proc/{Path('pid').read_text()}/cmdline\")\n"
        "print(verdict.error, command.exists() and command.read_bytes())"
    )
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.stdout in ("it fails False\n", "it fails b''\n"), done.stdout + done.stderr
