"""The bundled PostgreSQL's data directory and server processes: makes, starts, observes and signals them.

A data directory is made under another name and renamed, so an existing one is complete. A kernel lock on `server.lock`,
which the server's processes inherit, tells whether a server lives. A process number could be another program's. The
lock is free as soon as the last process of the server has gone, whatever became of postmaster.pid.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vkteams_daemon import plain_file
from vkteams_daemon.errors import CannotCreate, CannotWrite, DatabaseUnavailable, SchemaError, StoreError
from vkteams_daemon.store.bundled.listener import DATABASE, PORT, SOCKET
from vkteams_daemon.store.bundled.programs import MAJOR
from vkteams_daemon.system.files import fsync_path
from vkteams_daemon.system.memory import physical_memory
from vkteams_daemon.system.processes import user_of
from vkteams_daemon.system.user import Owner

ROLE, READER = "vkteams", "vkteams_reader"

_BUFFERS = 128  # MB of shared_buffers; more for a large archive, unless the administrator says something else
_SHARE_OF_MACHINE = 4  # shared_buffers are at most this part of its memory
# Written into postgresql.conf when the directory is made; the administrator may change them there.
_SETTINGS = {
    "shared_buffers": f"{_BUFFERS}MB", "max_connections": "60", "maintenance_work_mem": "256MB",
    "autovacuum_work_mem": "64MB", "wal_level": "minimal", "max_wal_senders": "0",
    "max_logical_replication_workers": "0", "max_wal_size": "1GB",
    "checkpoint_timeout": "15min", "random_page_cost": "1.1", "io_method": "sync",
    "log_filename": "postgresql-%a.log", "log_truncate_on_rotation": "on", "log_rotation_age": "1d",
    "log_rotation_size": "0", "log_checkpoints": "off", "log_line_prefix": "%m [%p] ",
    # The process that builds an index works as well; with its workers there must not be more of them than cores.
    "max_parallel_maintenance_workers": str(min(2, len(os.sched_getaffinity(0)) - 1)),
    # A failing statement is logged without its text, which holds people's messages.
    "log_min_error_statement": "panic", "log_error_verbosity": "terse",
}  # fmt: skip

# Peer authentication only: the kernel says which user connects. There is no network, no password and no trust.
_HBA = f"local all {ROLE} peer map=owner\nlocal {DATABASE} {READER} peer map=anybody\n"
_IDENT = f'owner "{{owner}}" {ROLE}\nowner root {ROLE}\nanybody /^.*$ {READER}\n'

_ADVISORY_LOCKS = [
    f"pg_{attempt}advisory_{scope}lock{kind}({key})"
    for attempt in ("", "try_")
    for scope in ("", "xact_")
    for kind in ("", "_shared")
    for key in ("bigint", "integer, integer")
]
# Run in template1, from which the database is then copied with its default privileges.
_ROLES = (
    f"CREATE ROLE {READER} LOGIN CONNECTION LIMIT 20",
    f"ALTER ROLE {READER} SET default_transaction_read_only = on",
    f"ALTER ROLE {READER} SET temp_file_limit = '2GB'",
    f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {READER}",
    f"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {READER}",
    "REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC",
    # A reader that took the lock of a bot or a chat would stop the archive.
    f"REVOKE EXECUTE ON FUNCTION {', '.join(_ADVISORY_LOCKS)} FROM PUBLIC",
    f"CREATE DATABASE {DATABASE}",
    f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC",
    f"GRANT CONNECT ON DATABASE {DATABASE} TO {READER}",
)

_CONFIGURED_BUFFERS = re.compile(
    r"^\s*(?:shared_buffers\b\s*=?\s*'?([\w. ]+?)'?|include\w*\b.*?)\s*(?:#.*)?$", re.MULTILINE | re.IGNORECASE
)
# The lines in which the server and its tools say why they give up.
_FATAL = re.compile(r"(?:FATAL|PANIC|initdb: error|postgres: error):\s+(.+)")
_DISK_FULL = "No space left on device"


def failure_reason(output: str, status: int) -> str:
    """Why a program of PostgreSQL failed: its last fatal message, or a full disk, which causes all that follow it."""
    messages = _FATAL.findall(output) or output.strip().splitlines() or [f"exit status {status}"]
    return _DISK_FULL if _DISK_FULL in output else str(messages[-1])


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A living server's main process, as postmaster.pid describes it.

    Attributes:
        pid: its process number.
        socket_directory: where it listens once it is ready.
        ready: whether it has finished starting.
    """

    pid: int
    socket_directory: Path
    ready: bool


class Cluster:
    """The server of one `postgresql` directory. Its callers hold the locks that order them (see server.py).

    Args:
        home: state_dir/postgresql.
        owner: the user that the directory and the server belong to; everything here is done with its rights.
    """

    def __init__(self, home: Path, owner: Owner) -> None:
        self.home = home
        self.data = home / MAJOR
        self.log = home / "log"
        self._owner = owner
        self._log_sizes: dict[Path, int] = {}  # bytes before the server was started

    def ensure_data(self, programs: Path, timeout: float) -> None:
        """Make the data directory if there is none.

        Args:
            programs: the directory of initdb and postgres.
            timeout: seconds that each step of making it may take.

        Raises:
            SchemaError: there is a data directory of another PostgreSQL version, or of something else.
            CannotCreate: it cannot be made; nothing of it is left.
        """
        with self._owner.acting():
            for unfinished in self.home.glob(f".{MAJOR}.*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            self.log.mkdir(0o700, exist_ok=True)
            version_file = self.data / "PG_VERSION"
            version = version_file.read_text().strip() if version_file.is_file() else ""
            if not version and self.data.is_dir() and any(self.data.iterdir()):
                raise SchemaError(f"{self.data} is not empty and holds no PostgreSQL database", hint="Move it away.")
            others = [d.name for d in self.home.iterdir() if d.name.isdigit() and (d / "PG_VERSION").is_file()]
        if version == MAJOR:
            return
        if version or others:
            raise SchemaError(
                f"{self.home} holds the database of PostgreSQL {version or max(others)},"
                f" and the bundled one is {MAJOR}",
                hint=f"Dump it with the older version and load it into the new one, or move {self.home} away.",
            )
        self._make_data(programs, timeout)

    def start(self, programs: Path, socket_directory: Path) -> bool:
        """Start the server, to listen in this directory; False if processes of an earlier server still live.

        It returns at once: `alive` tells whether the server is still starting, `postmaster` whether it is ready.
        """
        self._owner.write_file(self.data / "pg_hba.conf", _HBA, 0o600)
        owner = self._owner.name.replace('"', '""')
        self._owner.write_file(self.data / "pg_ident.conf", _IDENT.format(owner=owner), 0o600)
        lock_fd = self._lock_fd()
        try:
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if self.postmaster() is not None:
                return False
            self._remove_stale(self.data / "postmaster.pid")
            self._remove_stale(socket_directory / f"{SOCKET}.lock")
            self._note_log_sizes()
            self._launch(programs, socket_directory, lock_fd)
        finally:
            os.close(lock_fd)
        return True

    def shared_buffers(self) -> int | None:
        """Megabytes of memory for the pages of the archive; None if postgresql.conf says how many, or says enough.

        A search by meaning reads some thousand pages of the index. To read them from the system's cache costs several
        times as much as to look at them. So the server gets as much as it has data, up to a part of the machine.
        """
        configured = [f"{_BUFFERS}MB"]
        with self._owner.acting():
            for name in ("postgresql.conf", "postgresql.auto.conf"):
                with contextlib.suppress(OSError):
                    text = plain_file.read(self.data / name).decode("utf-8", "replace")
                    configured += _CONFIGURED_BUFFERS.findall(text)  # "" for a file that it includes
            if configured[-1] != configured[0]:
                return None
            octets = 0
            for directory, _, files in os.walk(self.data / "base"):
                for file in files:
                    with contextlib.suppress(OSError):
                        octets += Path(directory, file).stat().st_size
        buffers = min(octets, physical_memory() // _SHARE_OF_MACHINE) // 2**20
        return buffers if buffers > _BUFFERS else None

    def alive(self) -> bool:
        """Whether any process of the server lives: starting, running, stopping or left behind by a killed one."""
        lock_fd = self._lock_fd()
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock_fd)
        return self.postmaster() is not None  # a server started by hand does not hold the lock

    def postmaster(self) -> Postmaster | None:
        """The living process of the owner that postmaster.pid names and whose working directory is the data directory.

        The owner writes postmaster.pid, and a shell of root may stand in the data directory. So another user's process
        is never taken for the server.
        """
        with self._owner.acting():
            try:
                lines = plain_file.read_text(self.data / "postmaster.pid").split("\n")
                pid = int(lines[0])
                # A zombie has no working directory any more.
                if not Path(f"/proc/{pid}/cwd").samefile(self.data) or user_of(pid) != self._owner.uid:
                    return None
            except (OSError, ValueError):
                return None
        lines += [""] * 8
        return Postmaster(pid, Path(lines[4]), lines[7].strip() == "ready")

    def signal(self, number: int) -> None:
        """Signal the postmaster, if there is one. SIGINT is PostgreSQL's fast shutdown."""
        postmaster = self.postmaster()
        if postmaster is None:
            return
        try:
            process = os.pidfd_open(postmaster.pid)
        except ProcessLookupError:
            return
        try:
            again = self.postmaster()
            if again is not None and again.pid == postmaster.pid:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(process, number)
        finally:
            os.close(process)

    def _remove_stale(self, lock_file: Path) -> None:
        """Remove a dead server's lock file if PostgreSQL would not do so itself.

        PostgreSQL believes that a server lives if any process has the number in the file. It takes an empty file for a
        server that is just starting.
        """
        with self._owner.acting():
            try:
                os.kill(abs(int(plain_file.read_text(lock_file).partition("\n")[0])), 0)
            except (FileNotFoundError, ProcessLookupError):
                return
            except (ValueError, PermissionError):
                pass
            lock_file.unlink()

    def failure(self) -> StoreError | CannotCreate:
        """The error for a server that was started and has ended, by its last message in the log."""
        reason = self.last_message()
        hint = f"Look into {self.log}."
        if _DISK_FULL in reason:
            return CannotWrite(f"the bundled PostgreSQL cannot start: {reason}", hint="Free disk space.")
        if "incompatible" in reason:
            return SchemaError(f"the bundled PostgreSQL cannot start: {reason}", hint=hint)
        return DatabaseUnavailable(f"the bundled PostgreSQL cannot start: {reason}", hint=hint)

    def last_message(self) -> str:
        """The last fatal message in the logs since the server was started, or "it left no message"."""
        messages = []
        with self._owner.acting():
            for file in sorted(self.log.glob("*.log"), key=lambda f: f.stat().st_mtime):
                with file.open(encoding="utf-8", errors="replace") as text:
                    text.seek(self._log_sizes.get(file, 0))
                    messages += _FATAL.findall(text.read(1_000_000))
        return messages[-1].strip() if messages else "it left no message"

    def _lock_fd(self) -> int:
        """A new descriptor of server.lock, which the caller closes."""
        return self._owner.open_file(self.home / "server.lock", os.O_RDWR | os.O_CREAT)

    def _note_log_sizes(self) -> None:
        with self._owner.acting():
            (self.log / "start.log").unlink(missing_ok=True)
            self._log_sizes = {file: file.stat().st_size for file in self.log.glob("*.log")}

    def _launch(self, programs: Path, socket_directory: Path, lock_fd: int) -> None:
        quoted = str(socket_directory).replace('"', '""')
        settings = {
            "listen_addresses": "", "port": PORT, "unix_socket_directories": f'"{quoted}"',
            "unix_socket_permissions": "0770", "fsync": "on", "full_page_writes": "on",
            "hba_file": self.data / "pg_hba.conf", "ident_file": self.data / "pg_ident.conf",
            "logging_collector": "on", "log_directory": self.log, "cluster_name": "vkteams",
            "lc_messages": "C",  # `last_message` reads the log
        }  # fmt: skip
        if buffers := self.shared_buffers():
            settings["shared_buffers"] = f"{buffers}MB"
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        out = self._owner.open_file(self.log / "start.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            # The shell exits at once and init adopts the server, so this process does not have to wait for its end.
            with self._owner.popen(
                ["/bin/sh", "-c", '"$@" &', "sh", programs / "postgres", "-D", self.data, *options],
                pass_fds=(lock_fd,), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            ):  # fmt: skip
                pass
        finally:
            os.close(out)

    def _make_data(self, programs: Path, timeout: float) -> None:
        owner = self._owner
        try:
            with owner.acting():
                unfinished = Path(tempfile.mkdtemp(prefix=f".{MAJOR}.", dir=self.home))
            try:
                self._initdb(programs, unfinished, timeout)
                with owner.acting():
                    unfinished.rename(self.data)
                    fsync_path(self.home)
            finally:
                with owner.acting():
                    shutil.rmtree(unfinished, ignore_errors=True)
        except OSError as error:
            raise CannotCreate(f"{self.data}: the database cannot be made: {error.strerror}") from error

    def _initdb(self, programs: Path, directory: Path, timeout: float) -> None:
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        steps: tuple[tuple[list[str | Path], str], ...] = (
            # The built-in locale: an upgrade of the system's C library must not change the order of an index.
            ([programs / "initdb", "-D", directory, "-U", ROLE, "--auth-local=peer", "--auth-host=reject", "-E", "UTF8",
              "--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--lc-messages=C",
              "--data-checksums", "--no-instructions", "--no-sync", *settings], ""),
            ([programs / "postgres", "--single", "-D", directory, "-c", "exit_on_error=on", "template1"],
             "".join(f"{statement}\n" for statement in _ROLES)),
            ([programs / "initdb", "-D", directory, "--sync-only"], ""),
        )  # fmt: skip
        for command, stdin in steps:
            try:
                status, output = self._owner.run(command, stdin=stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                raise CannotCreate(f"{self.data}: the database was not made within {timeout:g} s") from None
            if status != 0:
                raise CannotCreate(f"{self.data}: the database cannot be made: {failure_reason(output, status)}")
