"""Which session of the MCP server ends when a client opens one too many."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import pytest

from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.mcp import http
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.mcp.sessions import SESSION_ID, BoundedSessions
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.serving.refusals import Refusals
from vkteams_daemon.system.redaction import Secrets


class Sdk:
    """The application within: opens sessions, answers their calls, and ends them; a call `slow` waits for `go_on`."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.opened = 0
        self.slow: set[str] = set()
        self.called, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        session = dict(scope["headers"]).get(SESSION_ID.encode(), b"").decode()
        if not session:
            self.opened += 1
            session = str(self.opened)
            self.open.append(session)
        elif scope["method"] == "DELETE" and session in self.open:
            self.open.remove(session)
        elif session in self.slow:
            self.called.set()
            await self.go_on.wait()
        status = HTTPStatus.OK if session in self.open else HTTPStatus.NOT_FOUND
        headers = [(SESSION_ID.encode(), session.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})


class Client:
    """One client of an application with room for three sessions."""

    def __init__(self) -> None:
        self.sdk = Sdk()
        self._app = BoundedSessions(self.sdk, tokens=False, most=3, most_of_one=3)

    async def opened(self) -> str:
        return (await self._asked())[1]

    async def works(self, session: str) -> bool:
        return (await self._asked(session))[0] == HTTPStatus.OK

    async def _asked(self, session: str = "") -> tuple[int, str]:
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        headers = [(SESSION_ID.encode(), session.encode())] if session else []
        scope = {"type": "http", "method": "POST", "headers": headers, "client": ("192.0.2.1", 1)}
        await self._app(scope, None, send)  # type: ignore[arg-type]
        return said[0]["status"], dict(said[0]["headers"])[SESSION_ID.encode()].decode()


def test_a_session_in_which_a_call_runs_stays_and_one_that_has_its_answer_may_go() -> None:
    async def play() -> None:
        client = Client()
        asking = await client.opened()
        client.sdk.slow.add(asking)
        call = asyncio.create_task(client.works(asking))
        await client.sdk.called.wait()
        newer = [await client.opened() for _ in range(4)]
        assert client.sdk.open == [asking, *newer[-2:]]
        client.sdk.go_on.set()
        assert await call
        newest = [await client.opened() for _ in range(2)]
        assert client.sdk.open == [asking, *newest], "its answer is newer than the other sessions"
        await client.opened()
        assert asking not in client.sdk.open

    asyncio.run(play())


def test_a_session_that_has_ended_by_itself_costs_no_other() -> None:
    async def play() -> None:
        client = Client()
        first, second, third = [await client.opened() for _ in range(3)]
        client.sdk.open.remove(third)
        assert not await client.works(third)
        fourth = await client.opened()
        assert client.sdk.open == [first, second, fourth]

    asyncio.run(play())


def test_the_sdk_opens_no_session_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a call runs in each, none of them makes room."""
    monkeypatch.setattr(http, "MAX_SESSIONS", 7)
    config = Config()
    audit = Audit(Secrets(), "http")
    server = Server(Reader(config, Access("x")), audit)
    http.make_app(server, "127.0.0.1", config, Refusals(audit))
    assert server.session_manager.max_sessions == 7 + http.MAX_CONNECTIONS
