"""Real PostgreSQL servers for the tests, and databases of their own for each test.

`database_url`           a fresh database with the schema, on a server without fsync (fast)
`empty_database_url`     the same without the schema
`durable_server`         a server with fsync, to be stopped, killed and restarted
`durable_database_url`   a fresh database with the schema on it

With TRAPS=1 every database with the schema has the operators of `traps`, so any test shows whether one is captured.
All listen on 127.0.0.1, on a free port, so that a proxy can stand before them. VKTEAMS_TEST_POSTGRESQL names the
directory of other programs than the bundled ones, which know pgvector: so another version of PostgreSQL is tested.
With VKTEAMS_TEST_ON_CLUSTER=1 both servers are the cluster of `cluster_server`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.harness.temporary import SERVER_USER, servers, signal_all
from tests.harness.traps import set_operators
from tests.harness.waiting import until
from vkteams_daemon.store.bundled import programs
from vkteams_daemon.store.schema import migrate
from vkteams_daemon.system import user

PROGRAMS = "VKTEAMS_TEST_POSTGRESQL"
ON_CLUSTER = "VKTEAMS_TEST_ON_CLUSTER"

_SETTINGS = {
    "listen_addresses": "127.0.0.1", "shared_buffers": "64MB", "max_connections": "60", "max_wal_size": "256MB",
    # Segments of a killed server go with its directory.
    "dynamic_shared_memory_type": "mmap",
    "io_method": "sync", "max_logical_replication_workers": "0", "log_checkpoints": "off",
}  # fmt: skip
_QUICK = {"fsync": "off", "full_page_writes": "off", "min_wal_size": "32MB", "max_wal_size": "64MB"}
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class PostgresServer:
    """A server in a directory of its own, run by this user, or for root by another.

    Args:
        directory: an existing directory that the server's user can reach.
        durable: with fsync.
        settings: further server settings.
    """

    host = "127.0.0.1"
    user = "vkteams"

    def __init__(self, directory: Path, *, durable: bool, **settings: str) -> None:
        self._owner = user.choose_owner(SERVER_USER)
        self._home = directory / "postgres"
        self._owner.make_directory(self._home, 0o755)
        others = os.environ.get(PROGRAMS)
        self._programs = Path(others) if others else programs.find_programs(self._owner, self._home)
        self._data = self._home / "data"
        self._process: subprocess.Popen[str] | None = None
        self._paused: list[int] = []
        self._numbers = iter(range(1, 1_000_000))
        self._template = ""
        self._durable = durable
        self._administrator: psycopg.Connection[Any] | None = None
        self.password = secrets.token_hex(8)
        self.port = 0
        self.settings = _SETTINGS | ({"fsync": "on"} if durable else _QUICK) | settings
        if others:
            self.settings.pop("io_method", None)  # of PostgreSQL 18
        self._initdb()

    def start(self) -> None:
        """Start it and wait until it accepts connections; its port stays the same from then on."""
        for _ in range(5):
            port = self.port or _free_port()
            if self._try(port):
                self.port = port
                return
        raise AssertionError(f"PostgreSQL does not start:\n{self.log()[-2000:]}")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: smart, fast or immediate."""
        self._disconnect()
        if self._process is not None:
            self._process.send_signal(_SIGNALS[mode])
            self._gone()

    def restart(self, mode: str = "fast") -> None:
        """Stop and start it."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """kill -9 of the postmaster; returns when the last of its processes has noticed."""
        if self._process is not None:
            self._process.kill()
            self._gone()

    def pause(self) -> None:
        """Freeze every process of it: connections stay open and nothing answers, until `resume`."""
        self._paused = servers(self._data)
        signal_all(self._paused, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        signal_all(self._paused, signal.SIGCONT)
        self._paused = []

    @property
    def running(self) -> bool:
        """Whether its postmaster lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's process number."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """The URL of a database over TCP."""
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{database}"

    def execute(self, statement: str, arguments: Sequence[Any] = (), *, database: str = "postgres") -> list[Any]:
        """Run a statement on a connection of its own; the rows, if there are any."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), arguments or None)
            return cursor.fetchall() if cursor.description else []

    def terminate_backends(self, database: str | None = None) -> int:
        """End every client's session (in this database); how many there were."""
        rows = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " AND pid <> pg_backend_pid() AND datname = coalesce(%s, datname)",
            (database,),
        )
        return len(rows)

    def create_database(self, *, migrated: bool = True, template: str = "") -> str:
        """Create a database, with the schema (a copy of a migrated template), empty, or as this template; its name."""
        if migrated and not template and not self._template:
            made = self.create_database(migrated=False)
            migrate(self.url(made))
            if os.environ.get("TRAPS") == "1":
                set_operators(self.url(made))
            self._template = made
        name = f"test_{next(self._numbers)}"
        template = template or (self._template if migrated else "template0")
        # Copied as files it costs half of what it does by way of the log: hundreds of tests have one of their own.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING 'UTF8' STRATEGY file_copy")
        self._administer(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def drop_database(self, name: str) -> None:
        """Drop the database, whoever is connected to it."""
        self._administer(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextlib.contextmanager
    def fresh(self, *, migrated: bool = True, template: str = "") -> Iterator[str]:
        """The URL of a new database as `create_database` makes it, which is dropped afterwards."""
        name = self.create_database(migrated=migrated, template=template)
        try:
            yield self.url(name)
        finally:
            self.recover()
            self.drop_database(name)

    @property
    def uid(self) -> int:
        """The user whose processes these are."""
        return self._owner.uid

    @contextlib.contextmanager
    def placed(self, name: str, directory: Path) -> Iterator[str]:
        """The URL of a database with the schema whose files lie in this directory; it is dropped afterwards."""
        try:
            self.execute(f"CREATE TABLESPACE {name} LOCATION '{directory}'")
            self.execute(f"CREATE DATABASE {name} TEMPLATE template0 TABLESPACE {name} ENCODING 'UTF8'")
            migrate(self.url(name))
            yield self.url(name)
        finally:
            self.drop_database(name)
            self.execute(f"DROP TABLESPACE IF EXISTS {name}")

    def recover(self) -> None:
        """Bring it back into service, whatever a test has done to it."""
        self.resume()
        if not self.running:
            self._gone()
            self.start()

    def log(self) -> str:
        """What the server has logged."""
        file = self._home / "log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _administer(self, statement: sql.Composed) -> None:
        """Run a statement. The server that no test stops keeps a connection for it, which saves a fifth of the cost."""
        if self._administrator is None or self._administrator.closed:
            self._administrator = psycopg.connect(self.url(), autocommit=True)
        try:
            self._administrator.execute(statement)
        except psycopg.OperationalError:
            if not self._administrator.closed:
                raise
            self.execute(statement.as_string())  # a test has ended every session
        finally:
            if self._durable:
                self._disconnect()

    def _disconnect(self) -> None:
        if self._administrator is not None:
            self._administrator.close()
            self._administrator = None

    def _initdb(self) -> None:
        self._owner.write_file(self._home / "password", self.password, 0o600)
        status, printed = self._owner.run([
            self._programs / "initdb", "-D", self._data, "-U", self.user, "-E", "UTF8", "--locale=C.UTF-8",
            "--auth=scram-sha-256", f"--pwfile={self._home / 'password'}", "--no-sync",
            *(["-c", "scram_iterations=1"] if "io_method" in self.settings else []),
        ])  # fmt: skip
        assert status == 0, printed

    def _try(self, port: int) -> bool:
        settings = self.settings | {"port": str(port), "unix_socket_directories": str(self._home)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        out = self._owner.open_file(self._home / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            command: list[str | Path] = [self._programs / "postgres", "-D", self._data, *options]
            self._process = self._owner.popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        finally:
            os.close(out)
        deadline = time.monotonic() + 30
        while self.running:
            with contextlib.suppress(OSError, IndexError, ValueError):
                lines = (self._data / "postmaster.pid").read_text().split("\n")
                if int(lines[0]) == self.pid and lines[7].strip() == "ready":  # a killed server's file says ready too
                    return True
            assert time.monotonic() < deadline, f"PostgreSQL is not ready after 30 s:\n{self.log()[-2000:]}"
            time.sleep(0.01)
        return False

    def _gone(self) -> None:
        if self._process is not None:
            self._process.wait(30)
            self._process = None
        # Orphans of a killed postmaster live on for a moment, and a new server would be refused.
        until(lambda: not servers(self._data), 30, "the end of the server's last process")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server(session_tmp: Path) -> Iterator[PostgresServer]:
    """The server of this run, without fsync. It is shared: a test that stops or kills one takes `durable_server`."""
    yield from _served(session_tmp / "fast", durable=False)


@pytest.fixture
def database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh database with the schema."""
    with postgres_server.fresh() as url:
        yield url


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A fresh database without the schema."""
    with postgres_server.fresh(migrated=False) as url:
        yield url


@pytest.fixture(scope="session")
def _durable_server(session_tmp: Path) -> Iterator[PostgresServer]:
    yield from _served(session_tmp / "durable", durable=True)


@pytest.fixture
def durable_server(_durable_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server with fsync that a test may stop, kill, freeze and restart; afterwards it runs again."""
    _durable_server.recover()
    yield _durable_server
    _durable_server.recover()


@pytest.fixture
def durable_database_url(durable_server: PostgresServer) -> Iterator[str]:
    """A fresh database with the schema on `durable_server`."""
    with durable_server.fresh() as url:
        yield url


@pytest.fixture
def server(durable_server: PostgresServer) -> PostgresServer:
    """`durable_server`."""
    return durable_server


def _served(directory: Path, *, durable: bool) -> Iterator[PostgresServer]:
    if os.environ.get(ON_CLUSTER):
        from tests.harness.cluster_server import ClusterServer  # which is one of these

        with contextlib.closing(ClusterServer()) as cluster:
            yield cluster
        return
    directory.mkdir(0o711)
    directory.chmod(0o711)
    server = PostgresServer(directory, durable=durable)
    server.start()
    try:
        yield server
    finally:
        server.resume()
        server.stop("immediate" if not durable else "fast")
