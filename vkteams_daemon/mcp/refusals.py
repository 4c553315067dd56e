"""Tells an MCP client what the HTTP server refuses before it becomes a call, so that the client shows why."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from mcp.types import INVALID_REQUEST
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vkteams_daemon.serving.refusals import Refusals

_SENTENCES = {
    400: "the body of a request is JSON: send it with `Content-Type: application/json`",
    403: "a web page of another origin may not ask this server: if the page is yours, name its host in mcp.hosts",
    413: "the request is too large",
    421: "the Host of the request is not a name of this server: if it is, name it in mcp.hosts",
}
_NO_TOKEN = "this server needs a token: send it as `Authorization: Bearer TOKEN`"
_WRONG_TOKEN = "this server does not know the token of the request: ask its administrator for one"
_NO_SESSION = "the session has ended: connect again"


class TellRefusals:
    """The application, with each refusal counted and told as a JSON-RPC error.

    The SDK answers such a request with a word of plain text, which its own client replaces by "Server returned an
    error response".

    Args:
        app: the application.
        path: where it answers.
        refusals: counts what is refused.
    """

    def __init__(self, app: ASGIApp, path: str, refusals: Refusals) -> None:
        self._app = app
        self._path = path
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        replaced = False

        async def answer(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] >= HTTPStatus.BAD_REQUEST:
                sentence = self._sentence(scope, message)
                reason = sentence or HTTPStatus(message["status"]).phrase
                self._refusals.count(f"{message['status']}: {reason}", (scope.get("client") or ("",))[0])
                if sentence:
                    replaced = True
                    await _send_error(sentence, message, send)
            if not replaced:
                await send(message)

        await self._app(scope, receive, answer)

    def _sentence(self, scope: Scope, message: Message) -> str | None:
        """What is wrong with the request; None if the answer says so itself."""
        headers, status = Headers(scope=scope), message["status"]
        if status == HTTPStatus.UNAUTHORIZED:
            return _WRONG_TOKEN if "authorization" in headers else _NO_TOKEN
        if status == HTTPStatus.NOT_FOUND and scope["path"] != self._path:
            return f"nothing is served at this path: the server is at {self._path}"
        if status == HTTPStatus.NOT_FOUND and "mcp-session-id" in headers:
            return _NO_SESSION
        said_as = Headers(raw=message["headers"]).get("content-type", "")
        return None if said_as.startswith("application/json") else _SENTENCES.get(status)


async def _send_error(sentence: str, start: Message, send: Send) -> None:
    error: dict[str, Any] = {"jsonrpc": "2.0", "id": None, "error": {"code": INVALID_REQUEST, "message": sentence}}
    body = json.dumps(error).encode()
    kept = [pair for pair in start["headers"] if pair[0].lower() not in (b"content-type", b"content-length")]
    headers = [*kept, (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({**start, "headers": headers})
    await send({"type": "http.response.body", "body": body})
