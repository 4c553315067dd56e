"""Finds the process that holds a PID file, and proves that it is vkteamsd.

Both ask the kernel. They never take the lock, and never trust the number in the file. The directory belongs to the user
of the daemon, who may put any file there and lock any file. So whoever sends a signal needs the proof (`doubt`): root
would otherwise end processes that this user may not end.

The daemon holds two locks on its PID file. flock(2) alone decides which process is the daemon. A POSIX record lock is
there so that others can ask about it: F_GETLK names its holder in the PID namespace of the asking process, on every
local file system.

/proc/locks is read in addition, for file systems on which the record lock cannot be taken (on NFS both kinds are the
same lock). On overlayfs and btrfs its device numbers differ from stat(2)'s: the locks of the process's own descriptors
(/proc/PID/fdinfo) decide there. It omits processes of other namespaces.

This module is cheap to import, because `vkteamsctl daemon status` must be quick.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from vkteams_daemon.errors import PermissionRefused
from vkteams_daemon.options import READERS_GROUP
from vkteams_daemon.system.processes import name_of, user_of

PROGRAM = "vkteamsd"  # the name that daemon/main.py gives its process

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_LOCKS = Path("/proc/locks")
_IS_FLOCK = re.compile(rb"\bFLOCK +ADVISORY +WRITE ")

# (device, inode) of the PID files that this process holds. It must not open and close such a file a second time: the
# close would drop its record lock.
own_files: set[tuple[int, int]] = set()


@dataclass(frozen=True, slots=True)
class PidFileHolder:
    """The process that holds the lock; `pid` is None if the process is in another PID namespace."""

    pid: int | None


def find_holder(path: Path) -> PidFileHolder | None:
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
            f"{path}: this user may not look there", hint=f"Become root or join the group {READERS_GROUP}."
        ) from error
    if not stat.S_ISREG(file.st_mode):
        return None
    if (file.st_dev, file.st_ino) in own_files:
        return PidFileHolder(os.getpid())
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


def doubt(path: Path, pid: int) -> str | None:
    """Why this process is not proven to be the vkteamsd of this PID file, as the end of a sentence; None if it is.

    Proven is a process of this name that holds the lock of the very file at the path, and runs as the user that the
    file belongs to. The directory must belong to that user or to root; root's daemon may use any directory. A file
    with a second name may come from elsewhere, so it proves nothing.

    Raises:
        PermissionRefused: this user may not look at the process.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    file = os.fstat(descriptor)
    if pid == os.getpid() and (file.st_dev, file.st_ino) in own_files:
        os.close(descriptor)
        return None
    try:
        name, user, directory = name_of(pid), user_of(pid), path.parent.stat().st_uid
        if name is None:
            raise PermissionRefused(f"process {pid}, which holds {path}, cannot be seen by this user")
        if not stat.S_ISREG(file.st_mode) or file.st_nlink != 1:
            return f"{path} is no file of its own"
        if name != PROGRAM:
            return f"its name is {name!r}"
        if user is None or user != file.st_uid:
            return f"it does not run as the user that {path} belongs to"
        if user != 0 and directory not in (user, 0):
            return f"it does not run as the user that {path.parent} belongs to"
        if _record_lock_pid(descriptor) != pid and not _has_flock(pid, file):
            return f"it does not hold the lock of {path}"
    finally:
        os.close(descriptor)
    return None


def _record_lock_holder(path: Path) -> PidFileHolder | None:
    """The holder of the record lock, from F_GETLK; None if no process holds it, or the kernel cannot tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        pid = _record_lock_pid(descriptor)
    finally:
        os.close(descriptor)
    if pid is None:
        return None
    return PidFileHolder(pid if pid > 0 else None)


def _record_lock_pid(descriptor: int) -> int | None:
    """The process number that F_GETLK gives, not above 0 for a process that cannot be seen; None if none holds it."""
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:
        return None
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else int(pid)


def _flock_holder(path: Path, file: os.stat_result) -> PidFileHolder | None:
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
        # The same inode on another device number may be another file.
        if same_device or _has_flock(pid, file):
            return PidFileHolder(pid if pid > 0 else None)
    return None


def _has_flock(pid: int, file: os.stat_result) -> bool:
    """Whether a descriptor of the process holds the flock of this very file; false also if this user may not look."""
    descriptors = Path(f"/proc/{pid}/fd")
    try:
        for entry in descriptors.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                opened = entry.stat()
                if (opened.st_dev, opened.st_ino) == (file.st_dev, file.st_ino):
                    facts = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_bytes().splitlines()
                    if any(line.startswith(b"lock:") and _IS_FLOCK.search(line) for line in facts):
                        return True
    except OSError:
        return False
    return False
