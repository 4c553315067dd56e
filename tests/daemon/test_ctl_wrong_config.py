"""`vkteamsctl daemon` with a configuration that is wrong: the daemon that runs is left alone, and can be dealt with."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.waiting import until

Make = Callable[..., DaemonProcess]


@pytest.fixture
def running(vkteamsd: Make) -> DaemonProcess:
    """A daemon whose service only pretends."""
    daemon = vkteamsd(fake="ready").started()
    daemon.wait_state("listening")
    return daemon


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("search.limit", 0), ("daemon.colour", "red"), ("api.url", "myteam.mail.ru"), ("api.ca_file", "/nope"),
        ("embedding.models", ["nope"]), ("daemon.user", "nosuch"), ("storage.save", False), ("api.token", ""),
    ],
)  # fmt: skip
def test_restart_keeps_a_daemon_that_could_not_start_again(
    vkteamsd: Make, running: DaemonProcess, option: str, value: object
) -> None:
    pid = running.pid
    other = vkteamsd(options={option: value})
    refused = other.start()
    running.configure(**{option: value})
    done = running.ctl("daemon", "restart")
    assert (done.returncode, refused.returncode) == (78, 78), done.stderr
    sentence = done.stderr.removeprefix("vkteamsctl: ").replace(str(running.directory), "")
    assert sentence == refused.stderr.removeprefix("vkteamsd: ").replace(str(other.directory), ""), (
        "vkteamsd's own words"
    )
    assert running.pid == pid


def test_restart_checks_its_options_too(running: DaemonProcess) -> None:
    pid = running.pid
    done = running.ctl("daemon", "restart", "--no-save")
    assert (done.returncode, "needs --foreground" in done.stderr) == (78, True)
    assert running.pid == pid


# Looking and stopping

TYPO = "daemon.colour: no such option"


@pytest.mark.parametrize("verb", ["status", "stats"])
def test_status_is_unknown_with_a_wrong_configuration(running: DaemonProcess, verb: str) -> None:
    running.configure(**{"daemon.colour": "red"})
    done = running.ctl("--output", "json", "daemon", verb)
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["data"]["status"]) == (4, "unknown"), done.stderr
    assert answer["error"].startswith(f"vkteamsd: unknown: {TYPO}")
    assert "--pid-file" in answer["error"]
    done = running.ctl("daemon", verb)
    assert (done.returncode, done.stdout.splitlines()[0]) == (4, "vkteamsd is unknown")
    assert TYPO in done.stdout


def test_status_by_the_pid_file_needs_no_configuration(running: DaemonProcess) -> None:
    named = ("--pid-file", str(running.pid_file))
    running.configure(**{"daemon.colour": "red"})
    done = running.ctl("daemon", "status", *named)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"vkteamsd is running\n{TYPO}")
    assert str(running.pid) in done.stdout
    # Each `stats` sends a USR1, which this service counts; a file that was written just before it may be shown first.
    until(lambda: running.answer("daemon", "stats", *named)["file"]["events"]["saved"] >= 1, 20, "the signal's count")
    running.kill9()
    assert running.ctl("daemon", "status", *named).returncode == 1
    running.pid_file.unlink()
    assert running.ctl("daemon", "status", *named).returncode == 3


def test_status_is_unknown_if_only_the_configuration_names_the_status_file(vkteamsd: Make) -> None:
    daemon = vkteamsd(fake="ready")
    daemon.configure(**{"daemon.status_file": str(daemon.directory / "run" / "elsewhere.json")})
    daemon.started().configure(**{"daemon.colour": "red"})
    done = daemon.ctl("daemon", "status", "--pid-file", str(daemon.pid_file))
    assert (done.returncode, TYPO in done.stdout) == (4, True), "neither starting nor stale"


def test_stop_by_the_pid_file_needs_no_configuration(running: DaemonProcess) -> None:
    pid = running.pid
    running.configure(**{"search.limit": 0})
    running.environ["VKTEAMS_SEARCH_TIMEOUT"] = "soon"
    done = running.ctl("daemon", "stop")
    assert (done.returncode, running.pid) == (78, pid)
    assert "With --pid-file FILE you can still see and stop the daemon" in done.stderr
    done = running.ctl("daemon", "stop", "--pid-file", str(running.pid_file))
    assert (done.returncode, done.stdout) == (0, f"vkteamsd has stopped, process {pid}\n")
    assert running.pid is None


# Its log


def test_reload_names_the_log_only_if_there_is_one(vkteamsd: Make) -> None:
    daemon = vkteamsd(fake="ready")
    with daemon.spawn("--foreground") as process:
        daemon.wait_state("listening")
        done = daemon.ctl("daemon", "reload")
        assert done.returncode == 0
        assert "see the result on its standard error or in syslog" in done.stdout
        assert str(daemon.log_file) not in done.stdout
        assert daemon.answer("daemon", "reload")["log"] is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    daemon.started()
    daemon.wait_state("listening")
    assert f"see the result in its log: {daemon.log_file}\n" in daemon.ctl("daemon", "reload").stdout
