"""Who holds a PID file: asked of the kernel, never by taking the lock, and never by believing a number in a file.

The daemon holds two locks on its PID file: flock(2), which alone decides who runs, and a POSIX record lock, which is
there to be asked about. F_GETLK names the holder of the latter in the asker's own PID namespace, on every local file
system. /proc/locks is read beside it, for a file system where the record lock could not be had (NFS, where both kinds
are the same); it shows device numbers that differ from stat(2)'s on overlayfs and btrfs, and leaves out processes of
other namespaces. Cheap to import: `vkteamsctl daemon status` lives on it.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from vkteams_daemon.errors import PermissionRefused

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_LOCKS = Path("/proc/locks")

# The PID files that this very process holds: opening one of them again, and closing it, would drop the record lock.
held_here: set[tuple[int, int]] = set()


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the lock; `pid` is None where it lives in a PID namespace that is not ours."""

    pid: int | None


def find_holder(path: Path) -> Holder | None:
    """The process that holds the PID file, or None where nobody does.

    Raises:
        PermissionRefused: this user may not look into the directory.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise PermissionRefused(
            f"{path}: this user may not look there", hint="Become root or join the group _vkteams."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        return None
    if (found.st_dev, found.st_ino) in held_here:
        return Holder(os.getpid())
    return _asked(path) or _listed(path, found)


def read_pid(path: Path) -> int | None:
    """The number that stands in a PID file, or None. Whether that process is ours is another question."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        first = os.read(descriptor, 64).partition(b"\n")[0].strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return int(first) if first.isdigit() and 0 < int(first) < 2**31 else None


def asked(descriptor: int) -> Holder | None:
    """Who holds the record lock of this open file, as F_GETLK says; None where nobody does, or nobody can say."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
    except OSError:
        return None
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return None
    return Holder(pid if pid > 0 else None)


def _asked(path: Path) -> Holder | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return asked(descriptor)
    finally:
        os.close(descriptor)


def _listed(path: Path, found: os.stat_result) -> Holder | None:
    """The holder of the flock by /proc/locks: `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`."""
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or fields[1] != "FLOCK" or fields[3] != "WRITE":
            continue  # a waiter has "->" in the second field
        major, minor, inode = fields[5].split(":")
        if int(inode) != found.st_ino:
            continue
        pid = int(fields[4])
        same_device = os.makedev(int(major, 16), int(minor, 16)) == found.st_dev
        # Another device number with the same inode may be another file: there the number in the file must agree.
        if same_device or pid == read_pid(path):
            return Holder(pid if pid > 0 else None)
    return None
