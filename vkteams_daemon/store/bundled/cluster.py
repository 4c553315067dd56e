"""The bundled PostgreSQL's data directory and its server process: making, starting, looking at and stopping it.

A data directory is built beside and renamed, so one that is there is whole. Whether a server lives is asked of a kernel
lock that the server's processes inherit (`server.lock`), not of a process number: it is free as soon as the last of
them is gone, whatever became of postmaster.pid, and cannot be mistaken for another program's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vkteams_daemon.errors import CannotCreate, CannotWrite, DatabaseUnavailable, SchemaError, StoreError
from vkteams_daemon.store.bundled.listener import DATABASE, NAME, PORT
from vkteams_daemon.store.bundled.programs import MAJOR
from vkteams_daemon.system.files import fsync_path
from vkteams_daemon.system.user import Owner

ROLE, READER = "vkteams", "vkteams_reader"

# Written into postgresql.conf when the directory is made; whoever looks after the machine may change them there.
_SETTINGS = {
    "shared_buffers": "128MB", "max_connections": "60", "maintenance_work_mem": "256MB", "autovacuum_work_mem": "64MB",
    "wal_level": "minimal", "max_wal_senders": "0", "max_logical_replication_workers": "0", "max_wal_size": "1GB",
    "checkpoint_timeout": "15min", "random_page_cost": "1.1", "io_method": "sync",
    "log_filename": "postgresql-%a.log", "log_truncate_on_rotation": "on", "log_rotation_age": "1d",
    "log_rotation_size": "0", "log_checkpoints": "off", "log_line_prefix": "%m [%p] ",
    # Whoever builds an index works, too; more of them than cores are slower than one.
    "max_parallel_maintenance_workers": str(min(2, len(os.sched_getaffinity(0)) - 1)),
    # A failing statement is logged without its text: it holds what people said.
    "log_min_error_statement": "panic", "log_error_verbosity": "terse",
}  # fmt: skip

# Peer only: the kernel says who connects. Nobody connects by network, by password or on trust.
_HBA = f"local all {ROLE} peer map=owner\nlocal {DATABASE} {READER} peer map=anybody\n"
_IDENT = f'owner "{{owner}}" {ROLE}\nowner root {ROLE}\nanybody /^.*$ {READER}\n'

# Run in template1, from which the database is then copied with its default privileges.
_ROLES = (
    f"CREATE ROLE {READER} LOGIN CONNECTION LIMIT 20",
    f"ALTER ROLE {READER} SET default_transaction_read_only = on",
    f"ALTER ROLE {READER} SET temp_file_limit = '2GB'",
    f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {READER}",
    f"ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO {READER}",
    "REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC",
    f"CREATE DATABASE {DATABASE}",
    f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC",
    f"GRANT CONNECT ON DATABASE {DATABASE} TO {READER}",
)

# What the server and its tools say last before they give up.
_COMPLAINT = re.compile(r"(?:FATAL|PANIC|initdb: error|postgres: error):\s+(.+)")


def complaint(printed: str, status: int) -> str:
    """Why a program of PostgreSQL failed: its last complaint, but a full disk is the reason of all that follow it."""
    found = _COMPLAINT.findall(printed) or printed.strip().splitlines() or [f"exit status {status}"]
    full = "No space left on device"
    return full if full in printed else str(found[-1])


@dataclass(frozen=True, slots=True)
class Server:
    """A living server as its postmaster.pid describes it; `sockets` is where it listens once it is `ready`."""

    pid: int
    sockets: Path
    ready: bool


class Cluster:
    """The server of one `postgresql` directory, as its owner; the caller holds the locks that order its callers.

    Args:
        home: state_dir/postgresql.
        owner: whom the directory and the server belong to.
    """

    def __init__(self, home: Path, owner: Owner) -> None:
        self.home = home
        self.data = home / MAJOR
        self.log = home / "log"
        self._owner = owner
        self._seen: dict[Path, int] = {}

    def prepare(self, programs: Path, timeout: float) -> None:
        """Make the data directory where there is none, in at most `timeout` seconds.

        Raises:
            SchemaError: there is a data directory of another PostgreSQL.
            CannotCreate: it cannot be made; nothing of it is left.
        """
        with self._owner.acting():
            for half in self.home.glob(f".{MAJOR}.*"):
                shutil.rmtree(half, ignore_errors=True)
            self.log.mkdir(0o700, exist_ok=True)
            version = self.data / "PG_VERSION"
            found = version.read_text().strip() if version.is_file() else ""
            if not found and self.data.is_dir() and any(self.data.iterdir()):
                raise SchemaError(f"{self.data} is not empty and holds no PostgreSQL database", hint="Move it away.")
            others = [d.name for d in self.home.iterdir() if d.name.isdigit() and (d / "PG_VERSION").is_file()]
        if found == MAJOR:
            return
        if found or others:
            raise SchemaError(
                f"{self.home} holds the database of PostgreSQL {found or max(others)}, and the bundled one is {MAJOR}",
                hint=f"Dump it with the older version and load it into the new one, or move {self.home} away.",
            )
        self._build(programs, timeout)

    def spawn(self, programs: Path, sockets: Path) -> bool:
        """Start the server, listening in this directory; False where another one's processes still live.

        It returns at once: `alive` says whether the server still tries, `server` whether it is ready.
        """
        self._owner.write(self.data / "pg_hba.conf", _HBA, 0o600)
        self._owner.write(self.data / "pg_ident.conf", _IDENT.format(owner=self._owner.name.replace('"', '""')), 0o600)
        life = self._life()
        try:
            try:
                fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if self.server() is not None:
                return False
            self._forget(self.data / "postmaster.pid")
            self._forget(sockets / f"{NAME}.lock")
            self._remember_logs()
            self._launch(programs, sockets, life)
        finally:
            os.close(life)
        return True

    def alive(self) -> bool:
        """Whether any process of the server lives, be it starting, stopping or left over."""
        life = self._life()
        try:
            fcntl.flock(life, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(life)
        return self.server() is not None  # started by hand, it does not hold the lock

    def server(self) -> Server | None:
        """The server, if it lives: postmaster.pid names it, and its working directory is the data directory."""
        with self._owner.acting():
            try:
                lines = (self.data / "postmaster.pid").read_text().split("\n")
                pid = int(lines[0])
                # A process that is dead and not yet collected has no directory any more.
                if not Path(f"/proc/{pid}/cwd").samefile(self.data):
                    return None
            except (OSError, ValueError):
                return None
        lines += [""] * 8
        return Server(pid, Path(lines[4]), lines[7].strip() == "ready")

    def signal(self, number: int) -> None:
        """Signal the server's process: SIGINT is PostgreSQL's fast shutdown."""
        server = self.server()
        if server is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, number)

    def _forget(self, lock_file: Path) -> None:
        """Remove a dead server's lock file where PostgreSQL would not do so itself.

        It takes any living process of that number for the server, and an empty file for one that is just starting.
        """
        with self._owner.acting():
            try:
                os.kill(abs(int(lock_file.read_text().partition("\n")[0])), 0)
            except (FileNotFoundError, ProcessLookupError):
                return
            except (ValueError, PermissionError):
                pass
            lock_file.unlink()

    def failure(self) -> StoreError | CannotCreate:
        """Why the server that was started last is gone, by its last words."""
        words = self.last_words()
        hint = f"Look into {self.log}."
        if "No space left on device" in words:
            return CannotWrite(f"the bundled PostgreSQL cannot start: {words}", hint="Free disk space.")
        if "incompatible" in words:
            return SchemaError(f"the bundled PostgreSQL cannot start: {words}", hint=hint)
        return DatabaseUnavailable(f"the bundled PostgreSQL cannot start: {words}", hint=hint)

    def last_words(self) -> str:
        """The last complaint in the logs since the server was started; "it left no message" where there is none."""
        found = []
        with self._owner.acting():
            for file in sorted(self.log.glob("*.log"), key=lambda f: f.stat().st_mtime):
                with file.open(encoding="utf-8", errors="replace") as text:
                    text.seek(self._seen.get(file, 0))
                    found += _COMPLAINT.findall(text.read(1_000_000))
        return found[-1].strip() if found else "it left no message"

    def _life(self) -> int:
        return self._owner.open(self.home / "server.lock", os.O_RDWR | os.O_CREAT)

    def _remember_logs(self) -> None:
        with self._owner.acting():
            (self.log / "start.log").unlink(missing_ok=True)
            self._seen = {file: file.stat().st_size for file in self.log.glob("*.log")}

    def _launch(self, programs: Path, sockets: Path, life: int) -> None:
        quoted = str(sockets).replace('"', '""')
        settings = {
            "listen_addresses": "", "port": PORT, "unix_socket_directories": f'"{quoted}"',
            "unix_socket_permissions": "0770", "fsync": "on", "full_page_writes": "on",
            "hba_file": self.data / "pg_hba.conf", "ident_file": self.data / "pg_ident.conf",
            "logging_collector": "on", "log_directory": self.log, "cluster_name": "vkteams",
        }  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        out = self._owner.open(self.log / "start.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            # The shell leaves at once and init inherits the server: nobody of us has to collect it when it dies.
            with self._owner.popen(
                ["/bin/sh", "-c", '"$@" &', "sh", programs / "postgres", "-D", self.data, *options],
                pass_fds=(life,), stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            ):  # fmt: skip
                pass
        finally:
            os.close(out)

    def _build(self, programs: Path, timeout: float) -> None:
        owner = self._owner
        try:
            with owner.acting():
                beside = Path(tempfile.mkdtemp(prefix=f".{MAJOR}.", dir=self.home))
            try:
                self._initdb(programs, beside, timeout)
                with owner.acting():
                    beside.rename(self.data)
                    fsync_path(self.home)
            finally:
                with owner.acting():
                    shutil.rmtree(beside, ignore_errors=True)
        except OSError as error:
            raise CannotCreate(f"{self.data}: the database cannot be made: {error.strerror}") from error

    def _initdb(self, programs: Path, directory: Path, timeout: float) -> None:
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        steps: tuple[tuple[list[str | Path], str], ...] = (
            # The locale is built in, so that an upgrade of the system's C library never changes an order on disk.
            ([programs / "initdb", "-D", directory, "-U", ROLE, "--auth-local=peer", "--auth-host=reject", "-E", "UTF8",
              "--locale=C.UTF-8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--lc-messages=C",
              "--data-checksums", "--no-instructions", "--no-sync", *settings], ""),
            ([programs / "postgres", "--single", "-D", directory, "-c", "exit_on_error=on", "template1"],
             "".join(f"{statement}\n" for statement in _ROLES)),
            ([programs / "initdb", "-D", directory, "--sync-only"], ""),
        )  # fmt: skip
        for command, stdin in steps:
            try:
                status, printed = self._owner.run(command, stdin=stdin, timeout=timeout)
            except subprocess.TimeoutExpired:
                raise CannotCreate(f"{self.data}: the database was not made within {timeout:g} s") from None
            if status != 0:
                raise CannotCreate(f"{self.data}: the database cannot be made: {complaint(printed, status)}")
