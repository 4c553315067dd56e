"""Temporary directories that another user can reach, and the servers that a killed test run left in them.

pytest's own `tmp_path` is 0700: a server that root lends to another user cannot work there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.harness.scale import FULL
from tests.harness.waiting import until

_PREFIX = "vkteams-test-"
SERVER_USER = "nobody" if os.geteuid() == 0 else ""
"""Whom root gives the tests' servers to. The product takes no user by itself but _vkteams, which need not exist."""
DISK, _MEMORY = Path("/tmp"), Path("/dev/shm")
_MEMORY_NEEDED = 4 << 30  # bytes that must be free there: several runs share it


def run_place() -> Path:
    """Where a run has its files: in memory where there is room, which saves a tenth of the time; whole runs on disk.

    What a killed process has written is there afterwards either way.
    """
    return _MEMORY if not FULL and _free(_MEMORY) >= _MEMORY_NEEDED else DISK


def pytest_configure() -> None:
    """Put pytest's own temporary directories there, too; workers take this process's place."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(run_place()))


@pytest.fixture(scope="session")
def session_tmp() -> Iterator[Path]:
    """A directory of this run, 0711, with a path that is short enough for sockets."""
    with _directory(run_place()) as directory:
        yield directory


def _free(place: Path) -> int:
    """The bytes that are free there; 0 where a server cannot have its directory: it may run a copy of its programs."""
    if not os.access(place, os.W_OK):
        return 0
    system = os.statvfs(place)
    return 0 if system.f_flag & os.ST_NOEXEC else system.f_bavail * system.f_frsize


@contextlib.contextmanager
def _directory(place: Path) -> Iterator[Path]:
    """A new directory in this place, with its lock, removed at the end with the servers that run in it."""
    for each in (DISK, _MEMORY):
        _sweep(each)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    directory.chmod(0o711)
    # Held as long as this run lives; the kernel lets go of it for a killed one, and the next run clears up. It gets its
    # name once it is locked: to a run that begins at this moment, it is never there and free.
    descriptor = os.open(directory / "new", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (directory / "new").rename(directory / "alive")
    try:
        yield directory
    finally:
        clear(directory)
        os.close(descriptor)


@pytest.fixture
def open_tmp(session_tmp: Path) -> Iterator[Path]:
    """An empty directory of this test, 0711; afterwards it is removed with the servers that still run in it."""
    directory = Path(tempfile.mkdtemp(prefix="", dir=session_tmp))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        clear(directory)


def servers(directory: Path) -> list[int]:
    """The PostgreSQL processes that work beneath this directory."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            # A removed directory reads as "PATH (deleted)": still beneath.
            if (process / "comm").read_text() == "postgres\n" and (process / "cwd").readlink().is_relative_to(
                directory
            ):
                found.append(int(process.name))
    return found


def clear(directory: Path) -> None:
    """Kill what runs in the directory and remove it."""
    signal_all(servers(directory), signal.SIGKILL)
    until(lambda: not servers(directory), what=f"the end of the servers in {directory}")

    def removed() -> bool:
        # A daemon that has just ended may be removing the database that it did not finish: names vanish meanwhile.
        shutil.rmtree(directory, ignore_errors=True)
        return not directory.exists()

    until(removed, what=f"the removal of {directory}")


def _sweep(place: Path) -> None:
    """Clear what killed runs left behind; runs that live hold their lock."""
    for directory in place.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if directory.stat().st_uid != os.geteuid():
                continue
            descriptor = os.open(directory / "alive", os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                clear(directory)
            finally:
                os.close(descriptor)


def signal_all(pids: Iterable[int], signum: int) -> None:
    """Send the processes a signal; those that have ended meanwhile are left out."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
