"""`vkteamsctl daemon` with a configuration that is wrong: the daemon that runs is left alone, and can be dealt with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.harness.daemon import DaemonProcess

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
        ("embedding.model", "nope"), ("daemon.user", "nosuch"), ("storage.save", False), ("api.token", ""),
    ],
)  # fmt: skip
def test_what_could_not_start_again_is_not_stopped(
    vkteamsd: Make, running: DaemonProcess, option: str, value: object
) -> None:
    pid = running.pid
    other = vkteamsd(options={option: value})
    said = other.start()
    running.configure(**{option: value})
    done = running.ctl("daemon", "restart")
    assert (done.returncode, said.returncode) == (78, 78), done.stderr
    told = done.stderr.removeprefix("vkteamsctl: ").replace(str(running.directory), "")
    assert told == said.stderr.removeprefix("vkteamsd: ").replace(str(other.directory), ""), "vkteamsd's own words"
    assert running.pid == pid


def test_what_the_command_line_asks_for_is_looked_at_too(running: DaemonProcess) -> None:
    pid = running.pid
    done = running.ctl("daemon", "restart", "--no-save")
    assert (done.returncode, "needs --foreground" in done.stderr) == (78, True)
    assert running.pid == pid
