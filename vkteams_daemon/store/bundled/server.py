"""The bundled PostgreSQL: its first user starts it, all users share it, and its last user stops it.

Every process that uses the server holds a shared lock on `users.lock`. A process that can make its lock exclusive is
the last one, and stops the server. The kernel drops the lock of a killed process, so it does not count. A process that
starts the server holds `start.lock`, so that two do not start it at once. While it works, it touches the lock's file. A
held lock whose file has not been touched for the patience belongs to a stopped process. The next process then replaces
the file. That does no harm when the stopped one wakes up: `server.lock` (see cluster.py) admits one server.

Only the owner (and root for the owner) starts and stops the server. Other users who can reach the socket connect as
another role, which can only read.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vkteams_daemon import plain_file
from vkteams_daemon.errors import CannotCreate, DatabaseUnavailable, PermissionRefused
from vkteams_daemon.options import READERS_GROUP
from vkteams_daemon.store.bundled import listener, programs
from vkteams_daemon.store.bundled.cluster import READER, ROLE, Cluster
from vkteams_daemon.store.bundled.programs import MAJOR
from vkteams_daemon.system.files import touching
from vkteams_daemon.system.user import Owner, choose_owner, owner_of_uid

log = logging.getLogger(__name__)

_POLL_INTERVAL = 0.01  # seconds between two looks at the server, which is ready in about 0.1 s
_ASK_INTERVAL = 0.2  # seconds between two looks at the server while another process starts it
_INITDB_TIMEOUT = 120.0  # seconds; on a slow disk a shorter one would fail at every attempt


class BundledServer:
    """This process's share in the bundled server. Several threads may use one object; a forked child may not.

    Args:
        state_dir: the server's files are in its `postgresql` directory.
        runtime_dir: the socket is in its `postgresql` directory, or in /tmp if that path is too long or closed to the
            server; `state_dir/postgresql/socket` records which.
        user: the user that root gives a new server to; "" is _vkteams.
        patience: seconds after which the lock of a process that shows no life is replaced.
    """

    def __init__(self, state_dir: Path, runtime_dir: Path, user: str = "", *, patience: float = 10.0) -> None:
        self._patience = patience
        self._state = state_dir.absolute()
        self._runtime = runtime_dir.absolute()
        self._user = user if user != "root" else ""
        self._home = self._state / "postgresql"
        self._users_lock_fd: int | None = None  # open while this process holds its share
        self._locked_by = 0  # the process that took it: a forked child has the same descriptor
        self._mutex = threading.Lock()

    @property
    def exists(self) -> bool:
        """Whether the database has been made, as far as this user can see."""
        return os.access(self._home / MAJOR, os.F_OK)

    def check_owner(self) -> None:
        """Check that the server has an owner who can reach its files. Nothing is made.

        Raises:
            PermissionRefused: it has none, or the owner cannot reach them.
            ConfigError: the configured user does not exist.
        """
        owner = self._owner()
        if owner is not None:
            self._refuse_closed(owner)

    def acquire(self, timeout: float = 30.0) -> str:
        """Become a user of the server, and start it if it does not run; also after it has died.

        Args:
            timeout: seconds until the server must accept connections, crash recovery included; making a new database
                does not count.

        Returns:
            A conninfo string: of the owner's role for the owner and root, of the reading role for other users.

        Raises:
            DatabaseUnavailable: it does not start, or not in time, or this user may not start it.
            PermissionRefused: the owner cannot reach its files, or this user cannot reach the server, or root has no
                user to give it to.
            CannotCreate: the database cannot be made: no space, or no right.
            CannotWrite: it cannot start on a full disk.
            SchemaError: the data is of another PostgreSQL version.
            ConfigError: the bundled PostgreSQL is not installed, or `user` does not exist.
        """
        deadline = time.monotonic() + timeout
        with self._mutex, _os_errors_explained(self._home):
            owner = self._owner()
            if owner is None:
                return self._reader_conninfo()
            self._make_home(owner)
            is_new, cluster = self._users_lock_fd is None, Cluster(self._home, owner)
            if is_new:
                self._users_lock_fd = self._lock(owner, "users.lock", fcntl.LOCK_SH, deadline)[0]
                self._locked_by = os.getpid()
            try:
                return self._running_conninfo(cluster, owner) or self._start(cluster, owner, deadline)
            except BaseException:
                if is_new:
                    self._unlock()
                raise

    def release(self, timeout: float = 4.0) -> None:
        """Give up this share. The last process to do so stops the server in fast mode and waits `timeout` seconds.

        If another thread has been starting the server for longer than that, the share ends with the process.
        """
        if not self._mutex.acquire(timeout=timeout):
            return
        try:
            if self._users_lock_fd is None or self._locked_by != os.getpid():
                return  # a forked child shares the lock with its parent and must not change it
            fcntl.flock(self._users_lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(self._users_lock_fd)
            if _is_file(self._users_lock_fd, self._home / "users.lock"):
                self.stop(timeout)
        except BlockingIOError:
            pass  # another process uses the server
        finally:
            self._unlock()
            self._mutex.release()

    def stop(self, timeout: float = 4.0) -> bool:
        """Stop the server in fast mode even if others use it; False if it is still stopping after `timeout` seconds.

        Raises:
            PermissionRefused: it belongs to another user.
        """
        owner = self._owner()
        if owner is None:
            raise PermissionRefused(
                "the bundled PostgreSQL is another user's to stop", hint="Become that user or root."
            )
        cluster, deadline, signalled = Cluster(self._home, owner), time.monotonic() + timeout, False
        while self._home.is_dir() and cluster.alive():
            if not signalled and cluster.postmaster():
                cluster.signal(signal.SIGINT)
                signalled = True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_INTERVAL)
        return True

    def running(self) -> int | None:
        """The server's process number; None if this user sees no running server."""
        owner = self._owner()
        if owner is None:
            return listener.listener_pid(self._recorded_directory())
        postmaster = Cluster(self._home, owner).postmaster()
        return postmaster.pid if postmaster else None

    def _owner(self) -> Owner | None:
        """The server's owner; None if this process may not start and stop the server.

        Existing data keeps its owner; a new server's is `choose_owner`'s.
        """
        me = os.geteuid()
        try:
            for directory in (self._home / MAJOR, self._home):
                with contextlib.suppress(FileNotFoundError):
                    uid = directory.stat().st_uid
                    if me not in (0, uid):
                        return None
                    owner = owner_of_uid(uid)
                    if me == 0 and self._user and owner.name != self._user:
                        raise PermissionRefused(
                            f"{directory} belongs to {owner.name}, not to the configured user {self._user}",
                            hint=f"Give it to that user: `chown -R {self._user}: {self._home}`.",
                        )
                    return owner
            with contextlib.suppress(FileNotFoundError):
                if me not in (0, self._state.stat().st_uid) and not os.access(self._state, os.W_OK):
                    return None
        except PermissionError:
            return None
        return choose_owner(self._user)

    def _make_home(self, owner: Owner) -> None:
        self._refuse_closed(owner)
        owner.make_directory(self._state, 0o750)
        owner.make_directory(self._home, 0o750)

    def _refuse_closed(self, owner: Owner) -> None:
        closed = owner.first_closed(self._home)
        if closed is not None:
            raise PermissionRefused(
                f"{owner.name}, whom the bundled PostgreSQL runs as, cannot pass through {closed} to {self._home}",
                hint=f"Set daemon.state_dir to a directory that {owner.name} can reach, or open {closed} to it.",
            )

    def _lock(
        self, owner: Owner, name: str, kind: int, deadline: float, done: Callable[[], str | None] = lambda: None
    ) -> tuple[int, str | None]:
        """Lock a file of the server's directory; the descriptor holds the lock.

        Args:
            owner: whose file it is.
            name: of the file.
            kind: LOCK_SH or LOCK_EX.
            deadline: of the monotonic clock.
            done: asked while the lock is held by another process. With an answer, the lock is not needed any more.

        Returns:
            The descriptor, and the answer of `done`. With an answer, the file is not locked.
        """
        path, seen, since, asked = self._home / name, (0, 0), 0.0, time.monotonic()
        while True:
            descriptor = owner.open_file(path, os.O_RDWR | os.O_CREAT)
            try:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                    if not _is_file(descriptor, path):
                        os.close(descriptor)
                        continue
                    if kind == fcntl.LOCK_EX:
                        os.utime(descriptor)
                    return descriptor, None
                now, state = time.monotonic(), os.fstat(descriptor)
                if seen != (state.st_ino, state.st_mtime_ns):
                    seen, since = (state.st_ino, state.st_mtime_ns), now
                elif now - since > self._patience and _is_file(descriptor, path):
                    with owner.acting():
                        path.unlink(missing_ok=True)
                    log.warning("%s: the process that holds this lock shows no life; the file is replaced", path)
                if now - asked > _ASK_INTERVAL:
                    asked = now
                    if answer := done():
                        return descriptor, answer
                if now > deadline:
                    raise DatabaseUnavailable(
                        "another process has been starting or stopping the bundled PostgreSQL for too long"
                    )
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
            time.sleep(_POLL_INTERVAL)

    def _unlock(self) -> None:
        if self._users_lock_fd is not None:
            os.close(self._users_lock_fd)
            self._users_lock_fd = None

    def _running_conninfo(self, cluster: Cluster, owner: Owner) -> str | None:
        """The owner's conninfo, if the server runs and accepts connections."""
        postmaster = cluster.postmaster()
        if postmaster is None or not postmaster.ready:
            return None
        conninfo = listener.conninfo(postmaster.socket_directory, ROLE, owner.name)
        return conninfo if listener.accepts_connections(conninfo, cluster.data) else None

    def _start(self, cluster: Cluster, owner: Owner, deadline: float) -> str:
        """Start the server, or wait for another process to have started it; returns the owner's conninfo."""
        lock_fd, conninfo = self._lock(
            owner, "start.lock", fcntl.LOCK_EX, deadline, lambda: self._running_conninfo(cluster, owner)
        )
        launched = False
        try:
            while not conninfo:
                if time.monotonic() > deadline:
                    raise DatabaseUnavailable(
                        "the bundled PostgreSQL does not accept connections in time",
                        hint=f"It may be recovering from a crash: try again later; its log is in {cluster.log}.",
                    )
                os.utime(lock_fd)
                conninfo = self._running_conninfo(cluster, owner)
                if conninfo:
                    break
                postmaster = cluster.postmaster()
                if postmaster and postmaster.ready and not (postmaster.socket_directory / listener.SOCKET).exists():
                    cluster.signal(signal.SIGINT)  # its socket has been removed: nobody can reach it any more
                if not cluster.alive():
                    if launched:
                        raise cluster.failure()
                    before = time.monotonic()
                    with touching(lock_fd):
                        directory = programs.find_programs(owner, self._home)
                        programs.remove_other_copies(owner, self._home, directory)
                        cluster.ensure_data(directory, _INITDB_TIMEOUT)
                        launched = cluster.start(directory, self._choose_socket_directory(owner))
                    deadline += time.monotonic() - before
                time.sleep(_POLL_INTERVAL)
            return conninfo
        finally:
            os.close(lock_fd)

    def _choose_socket_directory(self, owner: Owner) -> Path:
        """Choose and record the directory to listen in, at a moment when no server of ours listens."""
        configured = self._runtime / "postgresql"
        with contextlib.suppress(CannotCreate):
            owner.make_directory(self._runtime, 0o750 if owner.impersonated else 0o700)
            owner.make_directory(configured, 0o750)
        directory = listener.choose_directory(owner, configured, self._recorded_directory(owner))
        owner.write_file(self._home / "socket", f"{directory}\n", 0o640)
        return directory

    def _recorded_directory(self, owner: Owner | None = None) -> Path:
        """The directory that the server listened in last; the configured one if none is recorded."""
        with owner.acting() if owner else contextlib.nullcontext():
            try:
                return Path(plain_file.read_text(self._home / "socket").strip())
            except (OSError, UnicodeDecodeError):
                return self._runtime / "postgresql"

    def _reader_conninfo(self) -> str:
        directory, peer = self._recorded_directory(), ""
        if listener.listener_pid(directory) is None:
            raise DatabaseUnavailable(
                "the bundled PostgreSQL belongs to another user, and does not run or is closed to this one",
                hint=f"Start vkteamsd, or join the group {READERS_GROUP}.",
            )
        # The directory of the socket tells whose server it is where the files of the database are closed.
        for place in (self._home, directory):
            with contextlib.suppress(OSError, PermissionRefused):
                peer = owner_of_uid(place.stat().st_uid).name
                break
        return listener.conninfo(directory, READER, peer)


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether the path still leads to the open file. A file that was taken for a stopped process's is replaced."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _os_errors_explained(home: Path) -> Iterator[None]:
    """Raise the system's errors within the block as PermissionRefused or CannotCreate, a sentence each."""
    try:
        yield
    except PermissionError as error:
        raise PermissionRefused(f"{error.filename or home}: this user may not use it: {error.strerror}") from error
    except OSError as error:
        raise CannotCreate(f"{error.filename or home}: cannot be made or read: {error.strerror}") from error
