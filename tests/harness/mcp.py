"""The MCP server, as a real process or in the test's own, with the SDK's official client.

A process imports the SDK for more than a second, so a test whose subject is no transport asks a server in this process.

`office`   an archive with the built-in conversation and its vectors by the small model, and the servers on it
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from mcp.types import CallToolResult

from tests.harness.built_in_conversation import all_events
from tests.harness.cluster import on_cluster
from tests.harness.ctl import answer_of
from tests.harness.daemon import ROOT
from tests.harness.fork_server import python
from tests.harness.postgres import PostgresServer
from tests.harness.waiting import until
from vkteams_daemon import config as configuration
from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.workers.worker import Worker
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.store import embedding_models
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.system.redaction import Secrets

T = TypeVar("T")
SCRIPT = ROOT / "bin" / "vkteamsctl"


class Office:
    """An archive, its configuration file, and the standard error of the servers on it."""

    def __init__(self, directory: Path, url: str, models_dir: Path) -> None:
        self.directory = directory
        self.url = url
        self.file = directory / "vkteamsd.toml"
        self.said = directory / "stderr"
        self.options: dict[str, dict[str, Any]] = {
            "daemon": {"runtime_dir": str(directory / "run"), "state_dir": str(directory / "state")},
            "database": {"url": url, "distributed": on_cluster(url)},
            "embedding": {"models_dir": str(models_dir)},
        }
        self.configure()

    def configure(self, **sections: dict[str, Any]) -> None:
        """Change options and write the configuration file."""
        for name, options in sections.items():
            self.options.setdefault(name, {}).update(options)
        text = "\n".join(
            f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in options.items())
            for section, options in self.options.items()
        )
        self.file.write_text(text, encoding="utf-8")

    def command(self, *arguments: str, script: Path = SCRIPT) -> list[str]:
        """The command line of vkteamsctl on this archive, or of a script that changes it."""
        return python(str(script), "--config", str(self.file), *arguments)

    def environ(self) -> dict[str, str]:
        """The environment of its processes."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return kept | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "VKTEAMS_DAEMON_ALLOW_ROOT": "1"}

    @contextlib.asynccontextmanager
    async def client(self, **settings: Any) -> AsyncIterator[Client]:
        """The official client with a server of its own in this process."""
        reader = Reader(configuration.load(self.file, environ={}), Access("the test"))
        with self.said.open("a", encoding="utf-8") as said, contextlib.redirect_stderr(said):
            try:
                async with Client(Server(reader, Audit(Secrets(), "memory")), **settings) as client:
                    yield client
            finally:
                reader.close()

    @contextlib.asynccontextmanager
    async def stdio_client(self, **settings: Any) -> AsyncIterator[Client]:
        """The official client with a server process of its own, over stdio."""
        program, *arguments = self.command("mcp", "serve")
        parameters = StdioServerParameters(command=program, args=arguments, env=self.environ())
        with self.said.open("a", encoding="utf-8") as said:
            async with Client(stdio_client(parameters, errlog=said), **settings) as client:
                yield client

    def ctl(self, *arguments: str) -> Any:
        """The data that vkteamsctl answers, in this process."""
        return answer_of(self.file, self.environ(), *arguments)

    def failed(self, *arguments: str) -> tuple[int, str]:
        """The exit code and the standard error of vkteamsctl."""
        done = subprocess.run(
            self.command(*arguments), env=self.environ(), text=True, capture_output=True, timeout=60, check=False
        )
        return done.returncode, done.stderr

    def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Rows of the archive."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(statement.encode(), arguments or None).fetchall()

    def audit(self) -> list[dict[str, Any]]:
        """The audit lines so far."""
        lines = self.said.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"time"') and '"audit": "mcp"' in line]


def told(url: str) -> None:
    """Store the built-in conversation."""
    writer = Writer(functools.partial(psycopg.connect, url, autocommit=True), "1000000001")
    assert writer.acquire()
    writer.store(all_events())
    writer.close()


def embedded(url: str, model_dir: Path) -> None:
    """Give every message its vector."""
    model = Model.load(model_dir)
    with Database(Config(database=DatabaseOptions(url=url, distributed=on_cluster(url)))) as database:
        with database.connection() as connection:
            embedding_models.register(connection, model.name, model.fingerprint, model.dims)
        worker = Worker(database, lambda _: model, WorkerStats())
        while worker.round() or worker.maintain(idle=True):
            pass


@pytest.fixture(scope="session")
def office_url(postgres_server: PostgresServer, tiny_model_dir: Path) -> Iterator[str]:
    """The archive of the built-in conversation; for reading only."""
    with postgres_server.fresh() as url:
        told(url)
        embedded(url, tiny_model_dir)
        yield url


@pytest.fixture
def office(office_url: str, tmp_path: Path, models_dir: Path) -> Office:
    """The archive of the built-in conversation, with a configuration of its own; the archive is for reading only."""
    return Office(tmp_path, office_url, models_dir)


def with_client(office: Office, what: Callable[[Client], Awaitable[T]], **settings: Any) -> T:
    """The result of `what` with a client of a server in this process."""
    return asyncio.run(_with(office.client(**settings), what))


def over_stdio(office: Office, what: Callable[[Client], Awaitable[T]], **settings: Any) -> T:
    """The result of `what` with a client of a server process."""
    return asyncio.run(_with(office.stdio_client(**settings), what))


async def _with(opened: contextlib.AbstractAsyncContextManager[Client], what: Callable[[Client], Awaitable[T]]) -> T:
    async with opened as client:
        return await what(client)


def asked(office: Office, tool: str, **arguments: Any) -> dict[str, Any]:
    """The structured answer of one call to a server in this process."""
    return structured(with_client(office, lambda client: client.call_tool(tool, arguments)))


def structured(answer: CallToolResult) -> dict[str, Any]:
    """The structured answer of a call that succeeded."""
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return answer.structured_content


def refused(office: Office, tool: str, **arguments: Any) -> str:
    """The error that a call to a server in this process answers."""
    answer = with_client(office, lambda client: client.call_tool(tool, arguments))
    assert answer.is_error and answer.structured_content is None
    return str(answer.content[0].text)  # type: ignore[union-attr]


def over_http(url: str, what: Callable[[Client], Awaitable[T]], *, token: str = "", **settings: Any) -> T:
    """The result of `what` with a client of the server at an address."""

    async def run() -> T:
        headers = {"Authorization": f"Bearer {token}"} if token else None
        async with (
            create_mcp_http_client(headers) as http,
            Client(streamable_http_client(url, http_client=http), **settings) as client,
        ):
            return await what(client)

    return asyncio.run(run())


class HttpServer:
    """`vkteamsctl mcp serve --http` as a process of its own."""

    def __init__(self, office: Office, address: str, *, script: Path = SCRIPT, **settings: Any) -> None:
        self.office = office
        before = office.said.stat().st_size if office.said.exists() else 0
        with office.said.open("a", encoding="utf-8") as said:
            self.process = subprocess.Popen(
                office.command("mcp", "serve", "--http", address, script=script), env=office.environ(),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, **settings,
            )  # fmt: skip
        self.url = until(lambda: self._announced(before), 60, "the server's word where it is")

    def with_client(self, what: Callable[[Client], Awaitable[T]], *, token: str = "", **settings: Any) -> T:
        """The result of `what` with a client of its own."""

        return over_http(self.url, what, token=token, **settings)

    def call(self, tool: str, *, token: str = "", mode: Any = "auto", **arguments: Any) -> CallToolResult:
        """One call by a client of its own."""
        return self.with_client(lambda client: client.call_tool(tool, arguments), token=token, mode=mode)

    def asked(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured answer of one call."""
        answer = self.call(tool, **arguments)
        assert not answer.is_error and answer.structured_content is not None, answer.content
        return answer.structured_content

    def refused(self, tool: str, **arguments: Any) -> str:
        """The error that a call answers."""
        answer = self.call(tool, **arguments)
        assert answer.is_error, answer.structured_content
        return str(answer.content[0].text)  # type: ignore[union-attr]

    def end(self) -> None:
        """End the process if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)

    def _announced(self, before: int) -> str:
        said = self.office.said.read_bytes()[before:].decode()
        assert self.process.poll() is None, said
        found = re.search(r"MCP at (http://\S+)", said)
        return found[1] if found else ""
