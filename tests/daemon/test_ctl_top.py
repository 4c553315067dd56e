"""`vkteamsctl daemon top` on a terminal: live, quits when told, and leaves the terminal as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.harness.daemon import ROOT, DaemonProcess
from tests.harness.waiting import until
from vkteams_daemon.ctl.commands.daemon.top import Rates
from vkteams_daemon.daemon.status import Status

Make = Callable[..., DaemonProcess]


class Terminal:
    """A terminal of 100 columns with vkteamsctl daemon top on it."""

    def __init__(self, daemon: DaemonProcess, *words: str, **environ: str) -> None:
        self._leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (30, 100))
        self.before = termios.tcgetattr(follower)
        self._follower = follower
        self._seen = b""
        command = [sys.executable, str(ROOT / "bin" / "vkteamsctl"), "--config", str(daemon.config_file)]
        self.process = subprocess.Popen(
            [*command, "daemon", "top", *words], stdin=follower, stdout=follower, stderr=subprocess.PIPE,
            env=daemon.environ | {"TERM": "xterm", **environ}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip

    def shows(self, text: str) -> bool:
        """Whether what was drawn since the last clear has this text."""
        while select.select([self._leader], [], [], 0)[0]:
            self._seen += os.read(self._leader, 65536)
        plain = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", self._seen).decode(errors="replace")
        return text in plain

    def press(self, keys: bytes) -> None:
        os.write(self._leader, keys)

    def ended(self) -> int:
        """The exit code, once it has ended; whoever draws waits for somebody to read."""
        until(lambda: not self.shows("\0") and self.process.poll() is not None, 30, "its end")
        assert self.process.returncode is not None
        return self.process.returncode

    @property
    def as_it_was(self) -> bool:
        return termios.tcgetattr(self._follower) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(60)
        assert self.process.stderr
        self.process.stderr.close()
        os.close(self._leader)
        os.close(self._follower)


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def make(daemon: DaemonProcess, *words: str, **environ: str) -> Terminal:
        made.append(Terminal(daemon, *words, **environ))
        return made[-1]

    yield make
    for terminal in made:
        terminal.close()


def test_top_follows_the_daemon_until_q(vkteamsd: Make, on_terminal: Callable[..., Terminal]) -> None:
    daemon = vkteamsd(fake="ready").started()
    terminal = on_terminal(daemon, "--interval", "0.1")
    until(lambda: terminal.shows("vkteamsd is running"), 30, "a running daemon on the screen")
    assert terminal.shows(f"{daemon.pid}, all, version")
    assert terminal.shows("q quits")
    daemon.stop()
    until(lambda: terminal.shows("vkteamsd is not running"), 30, "a daemon that has gone on the screen")
    terminal.press(b"x")
    terminal.press(b"q")
    assert terminal.ended() == 0
    assert terminal.as_it_was


@pytest.mark.parametrize("end", ["signal", "Q", "\x03"])
def test_top_restores_the_terminal_at_every_end(vkteamsd: Make, on_terminal: Callable[..., Terminal], end: str) -> None:
    terminal = on_terminal(vkteamsd(), NO_COLOR="1")
    until(lambda: terminal.shows("vkteamsd is not running"), 30, "the page")
    if end == "signal":
        os.kill(terminal.process.pid, signal.SIGINT)
    else:
        terminal.press(end.encode())
    assert terminal.ended() == 0
    assert terminal.as_it_was


def test_top_needs_a_terminal(vkteamsd: Make, on_terminal: Callable[..., Terminal]) -> None:
    daemon = vkteamsd()
    done = daemon.ctl("daemon", "top")
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr == (
        "vkteamsctl: daemon top needs a terminal. `vkteamsctl daemon status` shows the state once.\n"
    )
    assert on_terminal(daemon, TERM="dumb").ended() == 64
    assert on_terminal(daemon, "--output", "json").ended() == 64
    assert on_terminal(daemon, "--interval", "0").ended() == 64


def _status(pid: int, seconds: float, received: int) -> Status:
    start = datetime(2026, 11, 24, tzinfo=UTC)
    status = Status(version="1", pid=pid, role="all", started_at=start, updated_at=start + timedelta(seconds=seconds))
    status.events.received = received
    return status


def test_rates_between_status_files() -> None:
    rates = Rates()
    for pid, seconds, received in ((1, 0, 10), (1, 5, 20), (1, 5, 20), (1, 10, 60), (2, 11, 3), (2, 12, 3)):
        rates.add(_status(pid, seconds, received))
    assert list(rates.samples) == [2.0, 8.0, 0.0]
    assert rates.bars() == "▂█▁"
    assert Rates().bars() == ""
