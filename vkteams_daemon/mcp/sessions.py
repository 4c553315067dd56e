"""Bounds the sessions of one client, so that nobody who may connect keeps the others out.

The SDK bounds only the sessions of all clients: one client that opens that many keeps the others out until they end.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSION_ID = "mcp-session-id"
_KEPT_HEADERS = (b"host", b"authorization", b"mcp-protocol-version")


@dataclass(eq=False, slots=True)
class _Session:
    """An open session.

    Attributes:
        client: whose it is.
        scope: of the request that opened it.
        used_at: when its last call began or ended; monotonic.
        calls: how many run now. An open stream of events is no call.
    """

    client: str
    scope: Scope
    used_at: float = field(default_factory=time.monotonic)
    calls: int = 0


class BoundedSessions:
    """The application, with a bound of the sessions of a client.

    A client that opens one too many loses the one that it has not used for longest; the same goes for all clients
    together. A session in which a call runs is never ended. A client that has lost a session connects again.

    Args:
        app: the application.
        tokens: whether clients are told apart by their tokens; otherwise by their addresses.
        most: sessions of all clients.
        most_of_one: sessions of one client.
    """

    def __init__(self, app: ASGIApp, tokens: bool, most: int, most_of_one: int) -> None:
        self._app = app
        self._tokens = tokens
        self._most = most
        self._most_of_one = most_of_one
        self._sessions: dict[str, _Session] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        session_id = Headers(scope=scope).get(SESSION_ID)
        if session_id is None:
            await self._open(scope, receive, send)
        else:
            await self._use(session_id, scope, receive, send)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = self._client(scope)

        async def answer(message: Message) -> None:
            is_opened = message["type"] == "http.response.start" and message["status"] < HTTPStatus.BAD_REQUEST
            if is_opened and (opened := Headers(raw=message["headers"]).get(SESSION_ID)):
                self._sessions[opened] = _Session(client, scope)
                await self._make_room(client)
            await send(message)

        await self._app(scope, receive, answer)

    async def _use(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        session = self._sessions.get(session_id)
        is_call = session is not None and scope["method"] == "POST"

        async def answer(message: Message) -> None:
            # The SDK ends a session that nobody uses, and a client may end its own.
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.NOT_FOUND:
                self._sessions.pop(session_id, None)
            await send(message)

        if session is not None and is_call:
            session.calls += 1
            session.used_at = time.monotonic()
        try:
            await self._app(scope, receive, answer)
        finally:
            if session is not None and is_call:
                session.calls -= 1
                session.used_at = time.monotonic()

    def _client(self, scope: Scope) -> str:
        if self._tokens:
            return Headers(scope=scope).get("authorization", "").rpartition(" ")[2]
        return str((scope.get("client") or ("",))[0])

    async def _make_room(self, client: str) -> None:
        own = [session_id for session_id, session in self._sessions.items() if session.client == client]
        if len(own) > self._most_of_one:
            await self._end_oldest(own)
        if len(self._sessions) > self._most:
            await self._end_oldest(self._sessions)

    async def _end_oldest(self, among: Iterable[str]) -> None:
        idle = [session_id for session_id in among if not self._sessions[session_id].calls]
        if not idle:
            return
        oldest = min(idle, key=lambda session_id: self._sessions[session_id].used_at)
        session = self._sessions.pop(oldest)
        headers = [pair for pair in session.scope["headers"] if pair[0].lower() in _KEPT_HEADERS]
        headers.append((SESSION_ID.encode(), oldest.encode()))

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def ignore(message: Message) -> None:
            pass

        await self._app({**session.scope, "method": "DELETE", "headers": headers}, receive, ignore)
