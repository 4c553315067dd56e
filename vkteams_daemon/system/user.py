"""Whom the bundled PostgreSQL belongs to, and doing things with that user's rights.

PostgreSQL refuses to run as root, so root lends the server to another user. Whatever root does in that user's
directories it does with that user's rights: no link there leads root astray, and what works here works for the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vkteams_daemon.errors import CannotCreate, ConfigError, PermissionRefused
from vkteams_daemon.system import files

# The server's environment is readable by its user: nothing of ours (a token, say) goes into it.
_HANDED_ON = ("PATH", "TZ", "LD_LIBRARY_PATH")
# Prints the first directory that may not be passed through; `cd` asks for exactly that right.
_FIRST_CLOSED = 'for d; do cd "$d" 2>/dev/null || { printf %s "$d"; exit 1; }; done'


@dataclass(frozen=True, slots=True)
class Owner:
    """The user that the server runs as; `impersonated` where this process is root and acts for that user."""

    name: str
    uid: int
    gid: int
    impersonated: bool

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Within it, this thread touches files with the owner's rights.

        Only the thread's file system identity changes (setfsuid(2)): other threads do not notice, and the kernel takes
        root's file capabilities away for as long as it lasts.
        """
        if not self.impersonated:
            yield
            return
        before = _identity()
        _assume(self.uid, self.gid)
        try:
            yield
        finally:
            _assume(*before)

    def popen(
        self, command: Sequence[str | Path], *, pass_fds: Sequence[int] = (), **streams: Any
    ) -> subprocess.Popen[str]:
        """Start a program as the owner: own session, working directory /, umask 077, nothing of ours inherited.

        Raises:
            PermissionError: the owner may not run it.
            PermissionRefused: this root may not become another user.
        """
        rights: dict[str, Any] = {}
        if self.impersonated:
            rights = {"user": self.uid, "group": self.gid, "extra_groups": os.getgrouplist(self.name, self.gid)}
        environment = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        try:
            return subprocess.Popen(
                [str(part) for part in command], cwd="/", env=environment, umask=0o077, start_new_session=True,
                pass_fds=pass_fds, text=True, errors="replace", **rights, **streams,
            )  # fmt: skip
        except subprocess.SubprocessError as error:
            raise PermissionRefused(f"this process may not become {self.name}: {error}") from error

    def run(self, command: Sequence[str | Path], *, stdin: str = "", timeout: float = 60.0) -> tuple[int, str]:
        """Run a program as the owner to its end; (exit status, what it printed). Raises TimeoutExpired, and as `popen`.

        A run that is cut off takes the program's own children with it.
        """
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        with self.popen(command, stdin=pipe, stdout=pipe, stderr=both) as process:
            try:
                printed, _ = process.communicate(stdin, timeout=timeout)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        return process.returncode, printed

    def closed(self, directory: Path) -> Path | None:
        """The first directory on the way that the owner may not pass through, itself included, or None."""
        way = [p for p in (*reversed(directory.parents), directory) if os.access(p, os.F_OK)]
        if not self.impersonated:
            return next((p for p in way if not os.access(p, os.X_OK)), None)
        status, where = self.run(["/bin/sh", "-c", _FIRST_CLOSED, "sh", *way])
        return Path(where) if status else None

    def make(self, directory: Path, mode: int) -> None:
        """Make this directory with this mode for the owner, and its ancestors; what is there stays as it is.

        Raises:
            CannotCreate: it cannot be made.
        """
        try:
            for parent in reversed(directory.parents):
                if not os.access(parent, os.F_OK) and not self._made(parent, 0o755):
                    _build(parent, 0o755, os.geteuid(), os.getegid())
            if not self._made(directory, mode):
                _build(directory, mode, self.uid, self.gid)
        except OSError as error:
            reason = "something else of this name is in the way" if error.errno == errno.EEXIST else error.strerror
            raise CannotCreate(f"{directory}: cannot be made: {reason}") from error

    def _made(self, directory: Path, mode: int) -> bool:
        """Make it as the owner, or find it there; False where root has to: there the owner cannot have laid a trap."""
        try:
            with self.acting():
                if not directory.is_dir():
                    _build(directory, mode, self.uid, self.gid)
        except PermissionError:
            if not self.impersonated:
                raise
            return directory.is_dir()
        return True

    def write(self, file: Path, text: str, mode: int) -> None:
        """Replace the file by this text, as the owner, unless it holds it already."""
        content = text.encode()
        with self.acting():
            with contextlib.suppress(OSError):
                if file.read_bytes() == content:
                    return
            files.atomic_write(file, content, mode)

    def open(self, file: Path, flags: int) -> int:
        """A descriptor of the file, opened (and made with mode 0600) as the owner; no child inherits it."""
        with self.acting():
            return os.open(file, flags | os.O_CLOEXEC, 0o600)


def choose(user: str) -> Owner:
    """The owner that this process would make the server for: itself; for root `user`, else _vkteams, else nobody.

    Raises:
        ConfigError: there is no such user.
        PermissionRefused: this process's user has no name, which PostgreSQL insists on.
    """
    if os.geteuid() != 0:
        return of_uid(os.geteuid())
    for name in (user,) if user and user != "root" else ("_vkteams", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid, impersonated=True)
    raise ConfigError(
        f"daemon.user: there is no user {user or 'nobody'!r}", hint="The bundled PostgreSQL cannot run as root."
    )


def of_uid(uid: int) -> Owner:
    """The user of this number as the owner; PermissionRefused where it has no name, or is root."""
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


def _build(directory: Path, mode: int, uid: int, gid: int) -> None:
    """Make it complete and then rename it: another process never finds it with the wrong owner or mode."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        if (fresh.stat().st_uid, fresh.stat().st_gid) != (uid, gid):
            os.chown(fresh, uid, gid, follow_symlinks=False)
        fresh.chmod(mode)
        fresh.rename(directory)
    except OSError:
        fresh.rmdir()
        if not directory.is_dir():
            raise


def _identity() -> tuple[int, int]:
    """This thread's file system user and group: the calls answer the present one, and refuse to set -1."""
    libc = ctypes.CDLL(None)
    return int(libc.setfsuid(ctypes.c_uint(-1))), int(libc.setfsgid(ctypes.c_uint(-1)))


def _assume(uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None)
    libc.setfsgid(ctypes.c_uint(gid))
    libc.setfsuid(ctypes.c_uint(uid))
    if _identity() != (uid, gid):
        raise PermissionRefused("this process may not act as another user", hint="Start it as that user.")
