"""vkteamsd as a real process, with files of its own, and everything that can be done to one.

`vkteamsd`   a factory: `vkteamsd(**settings)` gives a `DaemonProcess` in a directory of its own; the test's end ends it
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cluster import on_cluster
from tests.harness.ctl import answer_of
from tests.harness.fork_server import python
from tests.harness.scale import FULL
from tests.harness.waiting import until
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.daemon.process.pidfile_holder import find_holder
from vkteams_daemon.daemon.status import Status

ROOT = Path(__file__).parents[2]
TOKEN = "001.0123456789.9876543210:1000000001"
_OURS = ("VKTEAMS_", "XDG_", "PG", "DATABASE_URL", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "PYTHON")


class DaemonProcess:
    """One vkteamsd: its configuration, its files and its process.

    Args:
        directory: an existing, empty directory; short enough for sockets.
        api_url: base URL of the Bot API, a simulator's.
        database_url: empty for the bundled PostgreSQL.
        token: the bot's.
        fake: run harness/fake_vkteamsd.py in that mode instead of the real service.
        quick: run harness/quick_vkteamsd.py, whose waiting times are shorter, unless FAULTS=full.
        hanging: run harness/hung_vkteamsd.py, in which what `hang` names hangs.
        options: `{"section.key": value}` for the configuration file.

    Attributes:
        config_file: written by `configure`.
        environ: what the process is started with; may be changed.
    """

    def __init__(
        self,
        directory: Path,
        *,
        api_url: str = "http://127.0.0.1:9",
        database_url: str = "postgresql://nobody@127.0.0.1:9/nothing",
        token: str = TOKEN,
        fake: str | None = None,
        quick: bool = False,
        hanging: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.config_file = directory / "vkteamsd.toml"
        self.pid_file = directory / "run" / "vkteamsd.pid"
        self.status_path = directory / "run" / "vkteamsd.status.json"
        self.log_file = directory / "state" / "vkteamsd.log"
        self.module = "fake_vkteamsd" if fake is not None else "quick_vkteamsd" if quick and not FULL else None
        self.module = "hung_vkteamsd" if hanging else self.module
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        self.environ |= {"HOME": str(directory), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
        if fake is not None:
            self.environ["FAKE_SERVICE"] = fake
        if hanging:
            self.environ["HANG"] = str(directory)
        self.options: dict[str, Any] = {
            "api.url": api_url,
            "api.token": token,
            "database.url": database_url,
            "daemon.runtime_dir": str(directory / "run"),
            "daemon.state_dir": str(directory / "state"),
            "daemon.status_interval": 0.2,
        }
        if os.geteuid() == 0:
            self.options |= {"daemon.user": "root", "daemon.allow_root": True}
        self.configure(**(options or {}))

    def configure(self, **options: Any) -> None:
        """Change options (`None` removes one) and write the configuration file; a running daemon is not told."""
        self.options |= options
        if on_cluster(self.options["database.url"] or ""):
            self.options.setdefault("database.distributed", True)
        sections: dict[str, list[str]] = {}
        for name, value in self.options.items():
            section, key = name.split(".")
            if value is not None:
                sections.setdefault(section, []).append(f"{key} = {_toml(value)}")
        text = "\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items())
        self.config_file.write_text(text + "\n", encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        """The command line that starts it as a new process."""
        return [sys.executable, *self._program(*arguments)]

    def start(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run the starter to its end; its exit code and what it said."""
        return subprocess.run(
            python(*self._program(*arguments)), env=self.environ, cwd=self.directory, text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip

    def started(self, *arguments: str) -> DaemonProcess:
        """Start it, and see that it did."""
        done = self.start(*arguments)
        assert done.returncode == 0, f"{done.stderr}\n{self.log_text()}"
        return self

    def spawn(self, *arguments: str, **settings: Any) -> subprocess.Popen[str]:
        """The starter, or with --foreground the daemon, as a child of the test."""
        pipe = subprocess.PIPE
        streams = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe} | settings
        return subprocess.Popen(self.command(*arguments), env=self.environ, cwd=self.directory, text=True, **streams)

    def ctl(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run vkteamsctl on this daemon."""
        return subprocess.run(
            python(*self._ctl(*arguments)), env=self.environ, cwd=self.directory, text=True, capture_output=True,
            timeout=timeout, check=False,
        )  # fmt: skip

    def spawn_ctl(self, *arguments: str) -> subprocess.Popen[str]:
        """vkteamsctl on this daemon, as a child of the test, with pipes for what it says."""
        return subprocess.Popen(
            [sys.executable, *self._ctl(*arguments)], env=self.environ, cwd=self.directory, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def answer(self, *arguments: str) -> dict[str, Any]:
        """`data` of what vkteamsctl answers as JSON."""
        done = self.ctl("--output", "json", *arguments)
        try:
            data: dict[str, Any] = json.loads(done.stdout)["data"]
        except ValueError:
            raise AssertionError(f"{arguments}: {done.stdout}\n{done.stderr}") from None
        return data

    def ask(self, *arguments: str) -> dict[str, Any]:
        """The same by vkteamsctl in this process."""
        data: dict[str, Any] = answer_of(self.config_file, self.environ, *arguments)
        return data

    def _program(self, *arguments: str) -> list[str]:
        program = [_script("vkteamsd")] if self.module is None else ["-m", f"tests.harness.{self.module}"]
        return [*program, "--config", str(self.config_file), *arguments]

    def _ctl(self, *arguments: str) -> list[str]:
        return [_script("vkteamsctl"), "--config", str(self.config_file), *arguments]

    def hang(self, name: str) -> None:
        """Let something hang from now on, or from the start on; see harness/hung_vkteamsd.py for the names."""
        (self.directory / name).touch()

    def wait_hung(self, name: str) -> None:
        """Wait until the daemon has come to what hangs."""
        until((self.directory / f"{name}.reached").exists, 30, f"the {name} that hangs")

    def release(self, name: str) -> None:
        """Let it go on."""
        for file in (name, f"{name}.reached"):
            (self.directory / file).unlink(missing_ok=True)

    @property
    def pid(self) -> int | None:
        """The process that holds the lock, or None."""
        found = find_holder(self.pid_file)
        return found.pid if found else None

    def status(self) -> Status | None:
        """The status file."""
        return status_file.read(self.status_path)

    def log_text(self) -> str:
        """The whole log."""
        return self.log_file.read_text(encoding="utf-8") if self.log_file.exists() else ""

    def wait_log(self, text: str, timeout: float = 30.0) -> None:
        """Wait until the log has this text."""
        until(lambda: text in self.log_text(), timeout, f"{text!r} in the log")

    def wait_state(self, *states: str, timeout: float = 60.0) -> Status:
        """Wait until the running daemon's status file says one of these states."""

        def there() -> Status | None:
            status = self.status()
            return status if status and status.pid == self.pid and status.state in states else None

        found = until(there, timeout, f"state {' or '.join(states)}")
        assert found is not None
        return found

    def signal(self, signum: int) -> int:
        """Send the running daemon a signal; its pid."""
        pid = self.pid
        assert pid is not None, f"the daemon does not run:\n{self.log_text()}"
        os.kill(pid, signum)
        return pid

    def wait_gone(self, timeout: float = 30.0) -> None:
        """Wait until nobody holds the lock."""
        until(lambda: find_holder(self.pid_file) is None, timeout, "the daemon's end")

    def stop(self, timeout: float = 30.0) -> float:
        """TERM, and wait for the end; the seconds it took."""
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        self.wait_gone(timeout)
        return time.monotonic() - began

    def kill9(self) -> int:
        """kill -9, and wait for the kernel to let the lock go; the dead process's pid."""
        pid = self.signal(signal.SIGKILL)
        self.wait_gone()
        return pid

    def processes(self) -> list[int]:
        """Every process, starter or daemon, that runs with this configuration file."""
        found = []
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if process.name.isdigit() and str(self.config_file).encode() in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        return found

    def close(self) -> None:
        """End everything of it that still runs: first gently, for a bundled server's sake."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signum)
                    os.kill(process, signal.SIGCONT)
            with contextlib.suppress(AssertionError):
                until(lambda: not self.processes(), 6.0, "the end of every process")
                return


def _script(name: str) -> str:
    """The script of the working tree, or the installed one where there is no working tree."""
    script = ROOT / "bin" / name
    found = str(script) if script.exists() else shutil.which(name)
    assert found, f"{name} is not installed"
    return found


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


@pytest.fixture
def vkteamsd(open_tmp: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Makes daemons, each in a directory of its own; see DaemonProcess for the arguments."""
    made: list[DaemonProcess] = []

    def make(**settings: Any) -> DaemonProcess:
        directory = open_tmp / f"d{len(made)}"
        directory.mkdir()
        made.append(DaemonProcess(directory, **settings))
        return made[-1]

    yield make
    for process in made:
        process.close()
