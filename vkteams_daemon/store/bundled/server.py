"""The bundled PostgreSQL: started by whoever needs it first, shared, and stopped by whoever lets go last.

Every user holds a shared lock on `users.lock`; who can make it exclusive is alone and stops the server. The kernel
drops the lock of a killed user, so nobody is counted who is gone. Starting is ordered by `start.lock`. Only the owner
(and root for the owner) starts and stops; other users who can reach the socket read, as another role.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from vkteams_daemon.errors import CannotCreate, DatabaseUnavailable, PermissionRefused
from vkteams_daemon.store.bundled import listener, programs
from vkteams_daemon.store.bundled.cluster import READER, ROLE, Cluster
from vkteams_daemon.store.bundled.programs import MAJOR
from vkteams_daemon.system.user import Owner, choose, of_uid

available = programs.available

_PATIENCE = 0.01  # seconds between two looks; the server is ready in about 0.1 s
_INITDB_TIMEOUT = 120.0  # a slow disk must not be given up on again and again


class BundledServer:
    """One user's share in the bundled server. One object may be used by several threads, not across a fork.

    Args:
        state_dir: the server's files are kept in its `postgresql` directory.
        runtime_dir: the socket lies in its `postgresql` directory, or in /tmp where that path is too long or closed to
            the server; `state_dir/postgresql/socket` says where.
        user: whom root gives a new server to; "" is _vkteams where it exists, otherwise nobody.
    """

    def __init__(self, state_dir: Path, runtime_dir: Path, user: str = "") -> None:
        self._state = state_dir.absolute()
        self._runtime = runtime_dir.absolute()
        self._user = user if user != "root" else ""
        self._home = self._state / "postgresql"
        self._users: int | None = None
        self._process = 0
        self._guard = threading.Lock()

    @property
    def made(self) -> bool:
        """Whether there is a database already, as far as this user can see."""
        return os.access(self._home / MAJOR, os.F_OK)

    def acquire(self, timeout: float = 30.0) -> str:
        """See to it that the server runs, as one of its users; again after it has died.

        Args:
            timeout: seconds until the server must accept connections, crash recovery included; making a new database
                is not counted.

        Returns:
            A conninfo string: of the owner's role for the owner and root, of the reading role for others.

        Raises:
            DatabaseUnavailable: it does not start, not in time, or is not for this user to start.
            PermissionRefused: the server's user cannot reach its files, or this user not the server.
            CannotCreate, CannotWrite: no place, or no right, to make the database.
            SchemaError: the data is another PostgreSQL's.
            ConfigError: it is not installed, or `user` does not exist.
        """
        deadline = time.monotonic() + timeout
        with self._guard, _refused(self._home):
            owner = self._owner()
            if owner is None:
                return self._as_reader()
            self._make_home(owner)
            held, cluster = self._users, Cluster(self._home, owner)
            if held is None:
                self._users, self._process = self._lock(owner, "users.lock", fcntl.LOCK_SH, deadline), os.getpid()
            try:
                return self._running(cluster, owner) or self._started(cluster, owner, deadline)
            except BaseException:
                if held is None:
                    self._let_go()
                raise

    def release(self, timeout: float = 4.0) -> None:
        """Give up this share; the last one to do so stops the server (fast mode) and waits up to `timeout` seconds.

        Where another thread has been starting the server for longer than that, the share is given up with the process.
        """
        if not self._guard.acquire(timeout=timeout):
            return
        try:
            if self._users is None or self._process != os.getpid():
                return  # a forked child shares the lock with its parent and must not touch it
            fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.stop(timeout)
        except BlockingIOError:
            pass
        finally:
            self._let_go()
            self._guard.release()

    def stop(self, timeout: float = 4.0) -> bool:
        """Stop the server in fast mode, whoever uses it; False where it is still stopping after `timeout` seconds."""
        owner = self._owner()
        if owner is None:
            raise PermissionRefused(
                "the bundled PostgreSQL is another user's to stop", hint="Become that user or root."
            )
        cluster, deadline, signalled = Cluster(self._home, owner), time.monotonic() + timeout, False
        while self._home.is_dir() and cluster.alive():
            if not signalled and cluster.server():
                cluster.signal(signal.SIGINT)
                signalled = True
            if time.monotonic() > deadline:
                return False
            time.sleep(_PATIENCE)
        return True

    def running(self) -> int | None:
        """The process number of the server; None where none runs (or none that this user can see)."""
        owner = self._owner()
        if owner is None:
            return listener.listening(self._recorded())
        server = Cluster(self._home, owner).server()
        return server.pid if server else None

    def _owner(self) -> Owner | None:
        """Whose server it is, if this process may start and stop it. The data's owner stays what it is."""
        me = os.geteuid()
        try:
            for place in (self._home / programs.MAJOR, self._home):
                with contextlib.suppress(FileNotFoundError):
                    uid = place.stat().st_uid
                    if me not in (0, uid):
                        return None
                    owner = of_uid(uid)
                    if me == 0 and self._user and owner.name != self._user:
                        raise PermissionRefused(
                            f"{place} belongs to {owner.name}, not to the configured user {self._user}",
                            hint=f"Give it to that user: `chown -R {self._user}: {self._home}`.",
                        )
                    return owner
            with contextlib.suppress(FileNotFoundError):
                if me not in (0, self._state.stat().st_uid) and not os.access(self._state, os.W_OK):
                    return None
        except PermissionError:
            return None
        return choose(self._user)

    def _make_home(self, owner: Owner) -> None:
        closed = owner.closed(self._home)
        if closed is not None:
            raise PermissionRefused(
                f"{owner.name}, whom the bundled PostgreSQL runs as, cannot pass through {closed} to {self._home}",
                hint=f"Set daemon.state_dir to a directory that {owner.name} can reach, or open {closed} to it.",
            )
        owner.make(self._state, 0o750)
        owner.make(self._home, 0o750)

    def _lock(self, owner: Owner, name: str, kind: int, deadline: float) -> int:
        descriptor = owner.open(self._home / name, os.O_RDWR | os.O_CREAT)
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise DatabaseUnavailable(
                        "another process has been starting or stopping the bundled PostgreSQL for too long"
                    ) from None
                time.sleep(_PATIENCE)
            except BaseException:
                os.close(descriptor)
                raise

    def _let_go(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def _running(self, cluster: Cluster, owner: Owner) -> str | None:
        """The conninfo of the server, if it runs and answers."""
        server = cluster.server()
        if server is None or not server.ready:
            return None
        found = listener.conninfo(server.sockets, ROLE, owner.name)
        return found if listener.answers(found, cluster.data) else None

    def _started(self, cluster: Cluster, owner: Owner, deadline: float) -> str:
        start = self._lock(owner, "start.lock", fcntl.LOCK_EX, deadline)
        launched = False
        try:
            while True:
                if time.monotonic() > deadline:
                    raise DatabaseUnavailable(
                        "the bundled PostgreSQL does not accept connections in time",
                        hint=f"It may be recovering from a crash: try again later; its log is in {cluster.log}.",
                    )
                found = self._running(cluster, owner)
                if found:
                    return found
                server = cluster.server()
                if server and server.ready and not (server.sockets / listener.NAME).exists():
                    cluster.signal(signal.SIGINT)  # its runtime directory was taken away: nobody can reach it any more
                if not cluster.alive():
                    if launched:
                        raise cluster.failure()
                    before = time.monotonic()
                    copied = programs.programs(owner, self._home)
                    programs.remove_other_copies(owner, self._home, copied)
                    cluster.prepare(copied, _INITDB_TIMEOUT)
                    launched = cluster.spawn(copied, self._listen_in(owner))
                    deadline += time.monotonic() - before
                time.sleep(_PATIENCE)
        finally:
            os.close(start)

    def _listen_in(self, owner: Owner) -> Path:
        """Choose and record the directory of the socket; nothing of ours listens at this moment."""
        wanted = self._runtime / "postgresql"
        with contextlib.suppress(CannotCreate):
            owner.make(self._runtime, 0o750 if owner.impersonated else 0o700)
            owner.make(wanted, 0o750)
        chosen = listener.choose(owner, wanted, self._recorded(owner))
        owner.write(self._home / "socket", f"{chosen}\n", 0o640)
        return chosen

    def _recorded(self, owner: Owner | None = None) -> Path:
        with owner.acting() if owner else contextlib.nullcontext():
            try:
                return Path((self._home / "socket").read_text(encoding="utf-8").strip())
            except (OSError, UnicodeDecodeError):
                return self._runtime / "postgresql"

    def _as_reader(self) -> str:
        directory, peer = self._recorded(), ""
        if listener.listening(directory) is None:
            raise DatabaseUnavailable(
                "the bundled PostgreSQL belongs to another user, and does not run or is closed to this one",
                hint="Start vkteamsd, or join its user's group.",
            )
        with contextlib.suppress(OSError, PermissionRefused):
            peer = of_uid(self._home.stat().st_uid).name
        return listener.conninfo(directory, READER, peer)


@contextlib.contextmanager
def _refused(home: Path) -> Iterator[None]:
    """What the system refuses on the way, as our errors."""
    try:
        yield
    except PermissionError as error:
        raise PermissionRefused(f"{error.filename or home}: this user may not use it: {error.strerror}") from error
    except OSError as error:
        raise CannotCreate(f"{error.filename or home}: cannot be made or read: {error.strerror}") from error
