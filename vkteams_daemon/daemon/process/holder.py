"""Finds the process that holds a PID file: asks the kernel, never takes the lock, never trusts the number in the file.

The daemon holds two locks on its PID file. flock(2) alone decides which process is the daemon. A POSIX record lock is
there so that others can ask about it: F_GETLK names its holder in the PID namespace of the asking process, on every
local file system.

/proc/locks is read in addition, for file systems on which the record lock cannot be taken (on NFS both kinds are the
same lock). On overlayfs and btrfs its device numbers differ from stat(2)'s, and it omits processes of other namespaces.

This module is cheap to import, because `vkteamsctl daemon status` must be quick.
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

# (device, inode) of the PID files that this process holds. It must not open and close such a file a second time: the
# close would drop its record lock.
own_files: set[tuple[int, int]] = set()


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the lock; `pid` is None if the process is in another PID namespace."""

    pid: int | None


def find_holder(path: Path) -> Holder | None:
    """The process that holds the PID file, or None if no process holds it.

    Raises:
        PermissionRefused: this user may not search the directory.
    """
    try:
        file = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise PermissionRefused(
            f"{path}: this user may not look there", hint="Become root or join the group _vkteams."
        ) from error
    if not stat.S_ISREG(file.st_mode):
        return None
    if (file.st_dev, file.st_ino) in own_files:
        return Holder(os.getpid())
    return _record_lock_holder(path) or _flock_holder(path, file)


def read_pid(path: Path) -> int | None:
    """The number in a PID file, or None. It does not say that this process is a daemon."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        number = os.read(descriptor, 64).partition(b"\n")[0].strip()
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return int(number) if number.isdigit() and 0 < int(number) < 2**31 else None


def _record_lock_holder(path: Path) -> Holder | None:
    """The holder of the record lock, from F_GETLK; None if no process holds it, or the kernel cannot tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return None
    return Holder(pid if pid > 0 else None)


def _flock_holder(path: Path, file: os.stat_result) -> Holder | None:
    """The holder of the flock, from /proc/locks: `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`."""
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) < 6 or fields[1] != "FLOCK" or fields[3] != "WRITE":
            continue  # a process that waits for the lock has "->" in the second field
        major, minor, inode = fields[5].split(":")
        if int(inode) != file.st_ino:
            continue
        pid = int(fields[4])
        same_device = os.makedev(int(major, 16), int(minor, 16)) == file.st_dev
        # The same inode on another device number may be another file, so the number in the file must agree.
        if same_device or pid == read_pid(path):
            return Holder(pid if pid > 0 else None)
    return None
