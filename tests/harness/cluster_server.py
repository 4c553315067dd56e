"""A Citus cluster in place of the tests' own server: VKTEAMS_TEST_ON_CLUSTER=1 gives the tests distributed archives.

VKTEAMS_TEST_CITUS_URL names the coordinator. A test that stops, kills or freezes the server does so with all machines
of the cluster, where they are processes of this one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from tests.harness.cluster import PREFIX, VARIABLE, ClusterDatabase, distributed, machines, on
from tests.harness.postgres import PostgresServer
from tests.harness.temporary import servers, signal_all
from tests.harness.waiting import until
from vkteams_daemon.store import distribution

_STOPS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Machine:
    """One PostgreSQL server of the cluster, which runs on this machine.

    Attributes:
        host, port: where it listens.
    """

    def __init__(self, coordinator: str, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._url = conninfo.make_conninfo(coordinator, host=host, port=port, dbname="postgres", connect_timeout=5)
        self._data = Path(on(self._url, "SHOW data_directory")[0][0])
        self._paused: list[int] = []
        processes = servers(self._data)
        if not processes:
            pytest.skip("the machines of the cluster are other ones than this")
        self._owner = self._data.stat()
        process = Path(f"/proc/{self._postmaster()}")
        self._command = [os.fsdecode(word) for word in (process / "cmdline").read_bytes().split(b"\0")[:-1]]
        variables = (process / "environ").read_bytes().split(b"\0")
        self._environ = {
            os.fsdecode(name): os.fsdecode(value) for name, _, value in (v.partition(b"=") for v in variables)
        }
        self._environ.pop("", None)

    @property
    def running(self) -> bool:
        """Whether a process of it lives."""
        return bool(servers(self._data))

    def stop(self, signum: int = signal.SIGINT) -> None:
        """Send its first process a signal, and wait for the end of all."""
        if self.running:
            self.resume()
            sockets = (self._data / "postmaster.pid").read_text().split("\n")[4]
            os.kill(self._postmaster(), signum)
            until(lambda: not self.running, 60, "the end of a machine's server")
            # To the next one a killed process lives as long as nobody has asked for its exit code.
            for lock in (self._data / "postmaster.pid", Path(sockets) / f".s.PGSQL.{self.port}.lock"):
                lock.unlink(missing_ok=True)

    def start(self) -> None:
        """Start it as it was started before, and wait until it answers."""
        until(self._started, 60, "the start of a machine's server")

    def pause(self) -> None:
        """Freeze every process of it, until `resume`."""
        self._paused = servers(self._data)
        signal_all(self._paused, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        signal_all(self._paused, signal.SIGCONT)
        self._paused = []

    def _postmaster(self) -> int:
        return int((self._data / "postmaster.pid").read_text().split("\n")[0])

    def _started(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            return bool(on(self._url, "SELECT 1"))
        if not self.running:
            with (self._data / "log").open("ab") as log:
                # It lives on after the tests.
                subprocess.run(
                    ["setsid", "--fork", *self._command], env=os.environ | self._environ, cwd="/", check=True,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    user=self._owner.st_uid, group=self._owner.st_gid, extra_groups=[],
                )  # fmt: skip
            until(lambda: self.running, 5, "a process of the server")
        return False


class ClusterServer(PostgresServer):
    """What `PostgresServer` offers, on all machines of the cluster at once. Its databases hold distributed archives."""

    def __init__(self) -> None:
        self._coordinator = os.environ[VARIABLE]
        parts = conninfo.conninfo_to_dict(self._coordinator)
        self.host, self.user = str(parts["host"]), str(parts["user"])  # type: ignore[misc]
        self.port = int(parts["port"] or 5432)
        self.password = str(parts.get("password") or "any")
        self._nodes = machines(self._coordinator)
        self._templates: dict[bool, ClusterDatabase] = {}
        self._machines: list[Machine] = []
        self._logged: list[int] = []
        # The tests of everything else do not say that an archive is distributed.
        distribution.check = lambda connection, wanted: None

    @property
    def machines(self) -> list[Machine]:
        """The coordinator and the workers. The test is skipped where they are no processes of this machine."""
        if not self._machines:
            self._machines = [Machine(self._coordinator, host, port) for host, port, _ in self._nodes]
            self._logged = [(machine._data / "log").stat().st_size for machine in self._machines]
        return self._machines

    def start(self) -> None:
        """Start what was stopped."""
        self._all(Machine.start)

    def stop(self, mode: str = "fast") -> None:
        """Stop all machines."""
        self._all(lambda machine: machine.stop(_STOPS[mode]))

    def kill(self) -> None:
        """kill -9 of each server's first process."""
        self._all(lambda machine: machine.stop(signal.SIGKILL))

    def pause(self) -> None:
        """Freeze all machines."""
        self._all(Machine.pause)

    def resume(self) -> None:
        """Let them go on."""
        for machine in self._machines:
            machine.resume()

    def recover(self) -> None:
        """Bring the cluster back into service, whatever a test has done to it."""
        for machine in self._machines:
            machine.resume()
            machine.start()

    @property
    def running(self) -> bool:
        """Whether all of it runs."""
        return all(machine.running for machine in self._machines)

    @property
    def pid(self) -> int:
        """The coordinator's first process."""
        return self.machines[0]._postmaster()

    def execute(self, statement: str, arguments: Sequence[Any] = (), *, database: str = "") -> list[Any]:
        """Run a statement on the coordinator; one without a database is about the server and runs on each machine."""
        if database:
            return on(self.url(database), statement, *arguments)
        answers = [
            on(self.url("postgres"), statement, *arguments, host=host, port=port) for host, port, _ in self._nodes
        ]
        return answers[0]

    def create_database(self, *, migrated: bool = True, template: str = "") -> str:
        """A database on each machine; an empty one knows its workers, and has no archive."""
        if not template:
            if migrated not in self._templates:
                self._templates[migrated] = self._make_template(migrated)
            template = self._templates[migrated].name
        name = f"{PREFIX}{secrets.token_hex(4)}"
        live = template not in {made.name for made in self._templates.values()}
        if live:
            self._everywhere(f"ALTER DATABASE {template} ALLOW_CONNECTIONS false")
        try:
            for host, port, _ in self._nodes:
                self._copy(template, name, host=host, port=port)
        finally:
            if live:
                self._everywhere(f"ALTER DATABASE {template} ALLOW_CONNECTIONS true")
        # Some tests play errors of the server by a trigger.
        self._everywhere(f"ALTER DATABASE {name} SET citus.enable_unsafe_triggers = on")
        return name

    def drop_database(self, name: str) -> None:
        """Drop it on each machine."""
        statement = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
        for attempt in range(5):  # the extension's own processes come back into it
            try:
                self._everywhere(statement)
                return
            except psycopg.errors.ObjectInUse:
                if attempt == 4:
                    raise

    @property
    def uid(self) -> int:
        """The user whose processes these are."""
        return self.machines[0]._owner.st_uid

    @contextlib.contextmanager
    def placed(self, name: str, directory: Path) -> Iterator[str]:
        """The URL of an archive of which one worker's part lies in this directory; it is dropped afterwards."""
        database = self.create_database()
        worker = dict(zip(("host", "port"), self._nodes[-1], strict=False))
        try:
            on(self._coordinator, f"CREATE TABLESPACE {name} LOCATION '{directory}'", **worker)
            on(
                self._coordinator, "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE datname = %s",
                database, **worker,
            )  # fmt: skip
            on(self._coordinator, f"ALTER DATABASE {database} SET TABLESPACE {name}", **worker)
            yield self.url(database)
        finally:
            self.drop_database(database)
            on(self._coordinator, f"DROP TABLESPACE IF EXISTS {name}", **worker)

    def log(self) -> str:
        """What the machines have logged since the tests began."""
        return "".join(
            (machine._data / "log").read_bytes()[begin:].decode(errors="replace")
            for machine, begin in zip(self.machines, self._logged, strict=True)
        )

    def close(self) -> None:
        """Drop what the run needed."""
        self.recover()
        for template in self._templates.values():
            self.drop_database(template.name)

    def _make_template(self, migrated: bool) -> ClusterDatabase:
        database = ClusterDatabase(self._coordinator)
        if migrated:
            distributed(database.url).open()
        self._everywhere(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
        return database

    def _copy(self, template: str, name: str, **place: Any) -> None:
        """Copy the template on one machine. The extension's own processes come back into it every few seconds."""
        url = self.url("postgres")
        for attempt in range(5):
            on(
                url,
                "SELECT pg_terminate_backend(pid, 2000) FROM pg_stat_activity WHERE datname = %s",
                template,
                **place,
            )
            try:
                on(url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy", **place)
                return
            except psycopg.errors.ObjectInUse:
                if attempt == 4:
                    raise

    def _everywhere(self, statement: str) -> None:
        for host, port, _ in self._nodes:
            on(self.url("postgres"), statement, host=host, port=port)

    def _all(self, do: Callable[[Machine], None]) -> None:
        for machine in self.machines:
            do(machine)
