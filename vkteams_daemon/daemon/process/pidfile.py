"""The PID file: a kernel lock that dies with its holder, with lockfile's interface, so that DaemonContext takes it.

It is locked with flock(2), so it cannot go stale: what a killed daemon leaves behind locks nobody out. The number is
written before anybody is told that the daemon is there, and the file goes away on a clean exit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import threading
import time
from pathlib import Path

import lockfile

from vkteams_daemon.daemon.process import holder as holders
from vkteams_daemon.daemon.process.holder import Holder, find_holder, read_pid
from vkteams_daemon.errors import AlreadyRunning, CannotCreate, PermissionRefused

log = logging.getLogger(__name__)

_RACES = 100  # rounds against others that replace the file between our open and our lock
_RETRY = 0.05  # seconds between two tries for a lock that may be waited for


class PidFileLocked(AlreadyRunning, lockfile.AlreadyLocked):  # type: ignore[misc]
    """Another process holds the PID file; an AlreadyRunning to us, an AlreadyLocked to those who know lockfile."""


class PidFile(lockfile.LockBase):  # type: ignore[misc]
    """The lock of one daemon.

    Args:
        path: absolute; its directory exists.
        timeout: seconds that `acquire` waits for another holder; 0, the default, refuses at once.
    """

    def __init__(self, path: Path, timeout: float = 0.0) -> None:
        super().__init__(str(path), threaded=False, timeout=timeout)
        self.file = path
        self.lock_file = self.unique_name = str(path)
        self._descriptor: int | None = None
        self._inode = (0, 0)
        self._lost = False
        # Reentrant: a second TERM releases from the signal handler, whatever the main thread is in.
        self._guard = threading.RLock()

    def acquire(self, timeout: float | None = None) -> None:
        """Take the lock and write this process's number into the file.

        Raises:
            PidFileLocked: another process has it (AlreadyRunning, with its pid), also after `timeout` seconds.
            CannotCreate: the file cannot be made or written.
            PermissionRefused: the file there belongs to somebody else.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not self._take():
            if time.monotonic() >= deadline:
                found = find_holder(self.file)
                raise self._held(found)
            time.sleep(_RETRY)

    def release(self) -> None:
        """Remove the file and let the lock go.

        Raises:
            lockfile.NotLocked, lockfile.NotMyLock: this process does not hold it.
        """
        with self._guard:
            if not self.i_am_locking():
                error = lockfile.NotMyLock if self.is_locked() else lockfile.NotLocked
                raise error(f"{self.file} is not locked by this process")
            with contextlib.suppress(OSError):
                if self._stands():
                    self.file.unlink()
            self._let_go()

    def __exit__(self, *_exc: object) -> None:
        if self.i_am_locking():
            self.release()

    def i_am_locking(self) -> bool:
        """Whether this process holds the lock; false in a child that it forked."""
        return self._descriptor is not None and self.pid == os.getpid()

    def is_locked(self) -> bool:
        """Whether any process holds the lock."""
        return self.i_am_locking() or find_holder(self.file) is not None

    def read_pid(self) -> int | None:
        """The number in the file."""
        return read_pid(self.file)

    def break_lock(self) -> None:
        """Remove the file that a killed holder left behind; a lock that is held cannot be broken.

        Raises:
            PidFileLocked: a process holds it.
            CannotCreate: this user may not remove it.
        """
        try:
            descriptor = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is(os.fstat(descriptor)):
                self.file.unlink()
        except BlockingIOError:
            raise self._held(find_holder(self.file)) from None
        except OSError as error:
            raise CannotCreate(f"{self.file}: the PID file cannot be removed: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def restore(self) -> bool:
        """Put the file back where somebody removed or replaced it; false where another process has taken the name."""
        with self._guard:
            if not self.i_am_locking() or self._stands():
                return True
            before = self._descriptor
            try:
                taken = self._take()
            except (CannotCreate, PermissionRefused) as error:
                self._complain(str(error))
                return False
            if not taken:
                self._complain(f"{self.file}: another process has taken the PID file's place")
                return False
            if before is not None:
                os.close(before)
            self._lost = False
            log.warning("%s had been removed or replaced; it is there again", self.file)
            return True

    def _complain(self, sentence: str) -> None:
        if not self._lost:
            log.error("%s", sentence)
        self._lost = True

    def _take(self) -> bool:
        """Lock the file that stands at the path now, and fill it; False where somebody else holds it."""
        for _ in range(_RACES):
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found = os.fstat(descriptor)
                # Between open and flock a leaving daemon may have removed the file: that lock is worth nothing.
                if not self._is(found):
                    os.close(descriptor)
                    continue
                self._fill(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError as error:
                os.close(descriptor)
                raise self._cannot(error) from error
            with self._guard:
                holders.held_here.discard(self._inode)
                self._descriptor, self._inode, self.pid = descriptor, (found.st_dev, found.st_ino), os.getpid()
                holders.held_here.add(self._inode)
            return True
        raise CannotCreate(f"{self.file}: the PID file is replaced again and again")

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.file, flags, 0o644)
        except OSError as error:
            raise self._cannot(error) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()):
            os.close(descriptor)
            what = "belongs to another user" if stat.S_ISREG(found.st_mode) else "is not a plain file"
            raise PermissionRefused(f"{self.file}: the PID file {what}", hint="Remove it, or set daemon.pid_file.")
        return descriptor

    def _fill(self, descriptor: int) -> None:
        try:
            os.fchmod(descriptor, 0o644)  # whatever the umask: other users ask who is running
            line = f"{os.getpid()}\n".encode()
            os.pwrite(descriptor, line, 0)
            os.ftruncate(descriptor, len(line))
        except OSError:
            with contextlib.suppress(OSError):
                self.file.unlink()
            raise
        with contextlib.suppress(OSError):  # for those who ask; where it cannot be had, they read /proc/locks
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _stands(self) -> bool:
        """Whether the file at the path is the one that is locked."""
        try:
            found = self.file.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._inode

    def _is(self, opened: os.stat_result) -> bool:
        try:
            found = self.file.lstat()
        except FileNotFoundError:
            return False
        return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        holders.held_here.discard(self._inode)
        self._descriptor = None

    def _held(self, found: Holder | None) -> PidFileLocked:
        pid = found.pid if found else None
        who = f"process {pid}" if pid else "another process"
        return PidFileLocked(
            f"vkteamsd is already running: {who} holds {self.file}", pid=pid, hint="Stop it first, or use --instance."
        )

    def _cannot(self, error: OSError) -> CannotCreate:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        hint = "Run vkteamsd as a user who may write there, or set daemon.runtime_dir or daemon.pid_file."
        return CannotCreate(f"{self.file}: the PID file cannot be made: {reason}", hint=hint)
