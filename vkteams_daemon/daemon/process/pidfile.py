"""The PID file: a kernel lock that dies with its holder, with lockfile's interface, so that DaemonContext accepts it.

The file is locked with flock(2), so it cannot go stale: the file of a killed daemon keeps no other daemon out. The
number is written before the starter learns that the daemon runs, and a clean exit removes the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import threading
import time
from pathlib import Path

import lockfile

from vkteams_daemon import plain_file
from vkteams_daemon.daemon.process.pidfile_holder import PidFileHolder, find_holder, own_files, read_pid
from vkteams_daemon.errors import AlreadyRunning, CannotCreate, PermissionRefused

log = logging.getLogger(__name__)

_MAX_RACES = 100  # times that another process may replace the file between our open and our lock
_RETRY_INTERVAL = 0.05  # seconds between two attempts while `acquire` waits


class PidFileLocked(AlreadyRunning, lockfile.AlreadyLocked):  # type: ignore[misc]
    """Another process holds the PID file. It is our AlreadyRunning and lockfile's AlreadyLocked."""


def already_running(holder: PidFileHolder | None, path: Path) -> PidFileLocked:
    """The error for a PID file that another process holds; `holder` is None if the process is not known."""
    pid = holder.pid if holder else None
    name = f"process {pid}" if pid else "another process"
    return PidFileLocked(
        f"vkteamsd is already running: {name} holds {path}", pid=pid, hint="Stop it first, or use --instance."
    )


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
        self._failing = False
        # Reentrant, because the handler of a second TERM releases the lock, and the main thread may be in restore().
        self._mutex = threading.RLock()

    def acquire(self, timeout: float | None = None) -> None:
        """Take the lock and write the number of this process into the file.

        Raises:
            PidFileLocked: another process holds the lock, still after `timeout` seconds.
            CannotCreate: the file cannot be created or written.
            PermissionRefused: the file belongs to another user, or is not a plain file.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        while not self._try_lock():
            if time.monotonic() >= deadline:
                raise already_running(find_holder(self.file), self.file)
            time.sleep(_RETRY_INTERVAL)

    def release(self) -> None:
        """Remove the file and release the lock.

        Raises:
            lockfile.NotLocked, lockfile.NotMyLock: this process does not hold it.
        """
        with self._mutex:
            if not self.i_am_locking():
                error = lockfile.NotMyLock if self.is_locked() else lockfile.NotLocked
                raise error(f"{self.file} is not locked by this process")
            with contextlib.suppress(OSError):
                if self._is_in_place():
                    self.file.unlink()
            self._unlock()

    def __exit__(self, *_exc: object) -> None:
        if self.i_am_locking():
            self.release()

    def i_am_locking(self) -> bool:
        """Whether this process holds the lock; false in a forked child."""
        return self._descriptor is not None and self.pid == os.getpid()

    def is_locked(self) -> bool:
        """Whether any process holds the lock."""
        return self.i_am_locking() or find_holder(self.file) is not None

    def read_pid(self) -> int | None:
        """The number in the file."""
        return read_pid(self.file)

    def break_lock(self) -> None:
        """Remove the file of a killed daemon. A lock that a process holds is not broken.

        Raises:
            PidFileLocked: a process holds it.
            CannotCreate: this user may not remove it.
        """
        try:
            descriptor = os.open(self.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot_create(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_at_path(_inode(os.fstat(descriptor))):
                self.file.unlink()
        except BlockingIOError:
            raise already_running(find_holder(self.file), self.file) from None
        except OSError as error:
            raise CannotCreate(f"{self.file}: the PID file cannot be removed: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def restore(self) -> bool:
        """Create the file again if somebody removed or replaced it; false if another process holds the new file."""
        with self._mutex:
            if not self.i_am_locking() or self._is_in_place():
                return True
            old_descriptor = self._descriptor
            try:
                locked = self._try_lock()
            except (CannotCreate, PermissionRefused) as error:
                self._log_failure(str(error))
                return False
            if not locked:
                self._log_failure(f"{self.file}: another process has taken the PID file's place")
                return False
            if old_descriptor is not None:
                os.close(old_descriptor)
            self._failing = False
            log.warning("%s had been removed or replaced; it is there again", self.file)
            return True

    def _log_failure(self, sentence: str) -> None:
        """Log it once, until restore() succeeds again."""
        if not self._failing:
            log.error("%s", sentence)
        self._failing = True

    def _try_lock(self) -> bool:
        """Lock the file that is at the path now and write the number; false if another process holds it."""
        for _ in range(_MAX_RACES):
            descriptor = self._open()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                inode = _inode(os.fstat(descriptor))
                # A daemon that ends may remove the file between our open and our flock. A lock on a removed file
                # keeps nobody out.
                if not self._is_at_path(inode):
                    os.close(descriptor)
                    continue
                self._write_pid(descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError as error:
                os.close(descriptor)
                raise self._cannot_create(error) from error
            with self._mutex:
                own_files.discard(self._inode)
                self._descriptor, self._inode, self.pid = descriptor, inode, os.getpid()
                own_files.add(self._inode)
            return True
        raise CannotCreate(f"{self.file}: the PID file is replaced again and again")

    def _open(self) -> int:
        try:
            descriptor = plain_file.open_plain(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise self._refused("is not a plain file") from error
            raise self._cannot_create(error) from error
        if os.fstat(descriptor).st_uid not in (0, os.geteuid()):
            os.close(descriptor)
            raise self._refused("belongs to another user")
        return descriptor

    def _refused(self, reason: str) -> PermissionRefused:
        return PermissionRefused(f"{self.file}: the PID file {reason}", hint="Remove it, or set daemon.pid_file.")

    def _write_pid(self, descriptor: int) -> None:
        try:
            os.fchmod(descriptor, 0o644)  # whatever the umask is: other users read who is running
            line = f"{os.getpid()}\n".encode()
            os.pwrite(descriptor, line, 0)
            os.ftruncate(descriptor, len(line))
        except OSError:
            with contextlib.suppress(OSError):
                self.file.unlink()
            raise
        # The record lock is for find_holder(). Without it, find_holder() reads /proc/locks.
        with contextlib.suppress(OSError):
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_in_place(self) -> bool:
        """Whether the file at the path is the locked file; false also if that cannot be found out."""
        try:
            return self._is_at_path(self._inode)
        except OSError:
            return False

    def _is_at_path(self, inode: tuple[int, int]) -> bool:
        try:
            return _inode(self.file.lstat()) == inode
        except FileNotFoundError:
            return False

    def _unlock(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        own_files.discard(self._inode)
        self._descriptor = None

    def _cannot_create(self, error: OSError) -> CannotCreate:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        hint = "Run vkteamsd as a user who may write there, or set daemon.runtime_dir or daemon.pid_file."
        return CannotCreate(f"{self.file}: the PID file cannot be made: {reason}", hint=hint)


def _inode(file: os.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino
