"""A file system of its own that can be filled; for root alone."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(directory: Path, size: str, *, uid: int = 0) -> Iterator[Path]:
    """Mount an empty file system of this size (`24m`) on a new directory, for this user, or skip the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},uid={uid},mode=0711", "tmpfs", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory: Path, *, leave: int = 0) -> Path:
    """Write a file until the disk is full, or has about so many bytes left; the file."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            system = os.statvfs(directory)
            room = system.f_bavail * system.f_frsize - leave
            if room <= 0:
                break
            file.write(b"\0" * min(room, 1 << 20))
    return ballast
