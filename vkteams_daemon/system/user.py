"""The user that the daemon and the bundled PostgreSQL run as, and work with that user's rights.

PostgreSQL refuses to run as root, so root gives the server to another user, its owner. Root works in the owner's
directories with the owner's rights. So a symbolic link there cannot lead root elsewhere, and a file that this process
can use is a file that the server can use.

Root drops to these rights for one step at a time (`Owner.acting`). A child process that becomes the owner for good
would need no such steps. But it would have to import its modules first, because only root may be able to read them, and
that takes as long as the server's whole start. It would also need a protocol for errors and descriptors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
import secrets
import signal
import stat
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vkteams_daemon import plain_file
from vkteams_daemon.errors import CannotCreate, ConfigError, PermissionRefused
from vkteams_daemon.options import DEFAULT_USER, READERS_GROUP
from vkteams_daemon.system import files

# As README.md and the Debian package make it. No other user is taken unless it is named: `nobody`, for example, may run
# other programs, and they could read the archive.
ADD_USER = f"Make it with `adduser --system --group --no-create-home {DEFAULT_USER}`, or name a user in [daemon] user."

# The owner can read the server's environment: it must not hold anything else of ours, a token for example.
_INHERITED_VARIABLES = ("PATH", "TZ", "LD_LIBRARY_PATH")
# Prints the first directory that this user may not pass through; `cd` needs exactly that right.
_MAY_WRITE = '[ -w "$1" ] && { [ ! -d "$1" ] || [ -x "$1" ]; }'
_FIRST_CLOSED = 'for d; do cd "$d" 2>/dev/null || { printf %s "$d"; exit 1; }; done'


# `Owner.acting` changes the identity of one thread, `Owner.connecting` that of all: so one waits for the other.
_rights = threading.Condition()
_acting: Counter[int] = Counter()  # blocks of `acting` that are open now, by thread
_connections_begun = 0  # blocks of `connecting` that are open now

# The programs that threads of this process wait for in `Owner.run`.
_running: set[subprocess.Popen[str]] = set()


def end_programs() -> None:
    """Kill the programs that threads of this process wait for in `Owner.run`, together with their children."""
    for process in list(_running):
        _kill_group(process)


def login_name() -> str:
    """Who works here: the user who has logged in at the terminal, or else the user of this process."""
    with contextlib.suppress(OSError):
        return os.getlogin()
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


@dataclass(frozen=True, slots=True)
class Owner:
    """A user to run as.

    Attributes:
        name: in the system's list of users.
        uid: its number.
        gid: its group's number.
        impersonated: whether this process is root and acts for that user; False if it is that user itself.
    """

    name: str
    uid: int
    gid: int
    impersonated: bool

    @property
    def home(self) -> Path:
        """The home directory in the system's list of users."""
        return Path(pwd.getpwuid(self.uid).pw_dir)

    @contextlib.contextmanager
    def acting(self, group: int | None = None) -> Iterator[None]:
        """Give this thread the owner's rights to files for the length of the block.

        Only the thread's file system identity changes (setfsuid(2)), so other threads keep root's rights. The kernel
        takes root's file capabilities away meanwhile.

        Args:
            group: the number of a group of the owner, in place of the primary one.

        Raises:
            PermissionRefused: this root may not act as another user.
        """
        if not self.impersonated:
            yield
            return
        thread = threading.get_ident()
        with _rights:
            _rights.wait_for(lambda: not _connections_begun or thread in _acting)
            _acting[thread] += 1
        try:
            before = _identity()
            _assume(self.uid, self.gid if group is None else group)
            try:
                yield
            finally:
                _assume(*before)
        finally:
            with _rights:
                _acting[thread] -= 1
                if not _acting[thread]:
                    del _acting[thread]
                _rights.notify_all()

    @contextlib.contextmanager
    def connecting(self) -> Iterator[None]:
        """Give the whole process the owner's rights for the length of the block, which opens a connection.

        A server asks the kernel who connects (peer authentication), and the kernel answers with the effective user.
        Several threads may be in such a block at once, for one owner.
        """
        global _connections_begun
        if not self.impersonated:
            yield
            return
        with _rights:
            assert threading.get_ident() not in _acting, "it would wait for itself"
            _rights.wait_for(lambda: not _acting)
            if not _connections_begun:
                os.setegid(self.gid)
                os.seteuid(self.uid)
            _connections_begun += 1
        try:
            yield
        finally:
            with _rights:
                _connections_begun -= 1
                if not _connections_begun:
                    os.seteuid(0)
                    os.setegid(0)
                    _rights.notify_all()

    def rights(self) -> dict[str, Any]:
        """The arguments of `subprocess.Popen` with which a program runs as the owner."""
        if not self.impersonated:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": os.getgrouplist(self.name, self.gid)}

    def popen(
        self, command: Sequence[str | Path], *, pass_fds: Sequence[int] = (), **streams: Any
    ) -> subprocess.Popen[str]:
        """Start a program as the owner, in a session of its own, in /, with umask 077 and a minimal environment.

        Raises:
            PermissionError: the owner may not run it.
            PermissionRefused: this root may not become another user.
        """
        environment = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
        try:
            return subprocess.Popen(
                [str(part) for part in command], cwd="/", env=environment, umask=0o077, start_new_session=True,
                pass_fds=pass_fds, text=True, errors="replace", **self.rights(), **streams,
            )  # fmt: skip
        except subprocess.SubprocessError as error:
            raise PermissionRefused(f"this process may not become {self.name}: {error}") from error

    def run(self, command: Sequence[str | Path], *, stdin: str = "", timeout: float = 60.0) -> tuple[int, str]:
        """Run a program as the owner to its end; returns its exit status, and its output and errors as one text.

        Raises:
            subprocess.TimeoutExpired: it did not end in time; it has been killed together with its children.
            PermissionError: see `popen`.
            PermissionRefused: see `popen`.
        """
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        with self.popen(command, stdin=pipe, stdout=pipe, stderr=both) as process:
            _running.add(process)
            try:
                output, _ = process.communicate(stdin, timeout=timeout)
            except BaseException:
                _kill_group(process)
                raise
            finally:
                _running.discard(process)
        return process.returncode, output

    def first_closed(self, directory: Path) -> Path | None:
        """The first directory on the path, itself included, that is closed to the owner; None if all are open."""
        path = [p for p in (*reversed(directory.parents), directory) if os.access(p, os.F_OK)]
        if not self.impersonated:
            return next((p for p in path if not os.access(p, os.X_OK)), None)
        status, output = self.run(["/bin/sh", "-c", _FIRST_CLOSED, "sh", *path])
        return Path(output) if status else None

    def may_write(self, path: Path) -> bool:
        """Whether the owner may write to this file, or make files in this directory."""
        if not self.impersonated:
            return os.access(path, os.W_OK | os.X_OK if path.is_dir() else os.W_OK)
        return self.run(["/bin/sh", "-c", _MAY_WRITE, "sh", path])[0] == 0

    def make_directory(self, directory: Path, mode: int, group: int | None = None) -> None:
        """Make this directory with this mode for the owner, and its ancestors; an existing one stays as it is.

        In a directory whose set-group-ID bit is set, the new one has its group and the bit too, as with mkdir(1).

        Args:
            directory: the directory.
            mode: its mode.
            group: the number of its group where root has to make it; the set-group-ID bit is set then. None is the
                owner's own group.

        Raises:
            CannotCreate: it cannot be made.
        """
        try:
            for parent in reversed(directory.parents):
                if not os.access(parent, os.F_OK) and not self._make_as_owner(parent, 0o755):
                    _make_and_rename(parent, 0o755, os.geteuid(), os.getegid())
            if not self._make_as_owner(directory, mode):
                shared = mode if group is None else mode | stat.S_ISGID
                _make_and_rename(directory, shared, self.uid, self.gid if group is None else group)
        except OSError as error:
            reason = "something else of this name is in the way" if error.errno == errno.EEXIST else error.strerror
            raise CannotCreate(f"{directory}: cannot be made: {reason}") from error

    def _make_as_owner(self, directory: Path, mode: int) -> bool:
        """Make the directory with the owner's rights if it is missing; False if root has to make it.

        Root may do so safely: the owner cannot have laid a link in a place where the owner cannot write.
        """
        inherited = _inherited_group(directory)
        try:
            # Without this group the kernel would drop the set-group-ID bit again.
            with self.acting(inherited):
                if not directory.is_dir():
                    _make_and_rename(directory, mode, self.uid, self.gid)
        except PermissionError:
            if not self.impersonated:
                raise
            return directory.is_dir()
        return True

    def write_file(self, file: Path, text: str, mode: int) -> None:
        """Replace the file by this text, as the owner; a file that holds this text already is left alone."""
        content = text.encode()
        with self.acting():
            with contextlib.suppress(OSError):
                if plain_file.read(file) == content:
                    return
            files.atomic_write(file, content, mode)

    def open_file(self, file: Path, flags: int) -> int:
        """Open the file as the owner (a new one gets mode 0600); returns a descriptor that no child inherits."""
        with self.acting():
            return plain_file.open_plain(file, flags)


def choose_owner(user: str) -> Owner:
    """The owner of a bundled server that this process makes: its own user; for root `user`, or _vkteams.

    Raises:
        ConfigError: there is no such user.
        PermissionRefused: this process's user has no name, and PostgreSQL does not run without one; or root named no
            user, and the default user does not exist.
    """
    if os.geteuid() != 0:
        return owner_of_uid(os.geteuid())
    entry = find_user(user if user != "root" else "")
    if entry is None:
        raise PermissionRefused(
            f"the bundled PostgreSQL does not run as root, and there is no user {DEFAULT_USER}", hint=ADD_USER
        )
    return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid, impersonated=True)


def daemon_user(name: str) -> Owner | None:
    """The user whom a daemon that root starts becomes, for what root asks in its place; None where this is no root.

    Args:
        name: `[daemon] user`.

    Raises:
        ConfigError: there is no user of this name.
    """
    if os.getuid() != 0:
        return None
    entry = find_user(name)
    return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid, impersonated=True) if entry and entry.pw_uid else None


def find_user(name: str) -> pwd.struct_passwd | None:
    """The entry of this user; for "" that of the default user, or None if it does not exist.

    Raises:
        ConfigError: there is no user of this name.
    """
    try:
        return pwd.getpwnam(name or DEFAULT_USER)
    except KeyError:
        if name:
            raise ConfigError(f"daemon.user: there is no user {name!r}", hint=ADD_USER) from None
        return None


def readers_group() -> int | None:
    """The number of the group of those who may search the system's archive; None if it does not exist."""
    try:
        return grp.getgrnam(READERS_GROUP).gr_gid
    except KeyError:
        return None


def owner_of_uid(uid: int) -> Owner:
    """The user of this number as the owner.

    Raises:
        PermissionRefused: it is root, or has no name.
    """
    if uid == 0:
        raise PermissionRefused(
            "the bundled PostgreSQL's directory belongs to root, and PostgreSQL cannot run as root",
            hint="Give it to another user with `chown -R`.",
        )
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise PermissionRefused(
            f"user {uid} has no name in the system's list of users, which the bundled PostgreSQL needs",
            hint="Add the user, or set database.url to a server of your own.",
        ) from None
    return Owner(entry.pw_name, uid, entry.pw_gid, impersonated=os.geteuid() == 0)


def _inherited_group(directory: Path) -> int | None:
    """The group that a new directory takes over from a parent with the set-group-ID bit; None without the bit."""
    try:
        parent = directory.parent.stat()
    except OSError:
        return None
    return parent.st_gid if parent.st_mode & stat.S_ISGID else None


def _make_and_rename(directory: Path, mode: int, uid: int, gid: int) -> None:
    """Make the directory under another name and rename it: no process ever sees it with the wrong owner or mode."""
    if (inherited := _inherited_group(directory)) is not None:
        mode, gid = mode | stat.S_ISGID, inherited
    fresh = directory.parent / f".{directory.name}.{secrets.token_hex(8)}"
    fresh.mkdir(mode & 0o777)
    try:
        if (fresh.stat().st_uid, fresh.stat().st_gid) != (uid, gid):
            os.chown(fresh, uid, gid, follow_symlinks=False)
        # systemd's RestrictSUIDSGID= refuses to set the bit, which a new directory inherits by itself.
        if stat.S_IMODE(fresh.stat().st_mode) != mode:
            fresh.chmod(mode)
        fresh.rename(directory)
    except OSError:
        fresh.rmdir()
        if not directory.is_dir():
            raise


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _identity() -> tuple[int, int]:
    """This thread's file system user and group. The calls return the present one and refuse to set -1."""
    libc = ctypes.CDLL(None)
    return int(libc.setfsuid(ctypes.c_uint(-1))), int(libc.setfsgid(ctypes.c_uint(-1)))


def _assume(uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None)
    libc.setfsgid(ctypes.c_uint(gid))
    libc.setfsuid(ctypes.c_uint(uid))
    if _identity() != (uid, gid):
        raise PermissionRefused("this process may not act as another user", hint="Start it as that user.")
