"""Guards the page: refuses requests with a foreign Host, and adds the headers of every answer."""

from __future__ import annotations

import functools
from urllib.parse import urlsplit

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vkteams_daemon.serving.listening import bracketed

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
POLICY = "content-security-policy"
_HEADERS = {
    POLICY: "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Refuses requests with a foreign Host, and adds the headers of every answer.

    A web page elsewhere must not make a browser read this one through a name of its own.

    Args:
        app: answers what is let in.
        host: the name on which the page listens.
        url: `[web] url`; its host is a name of the page as well.
    """

    def __init__(self, app: ASGIApp, host: str, url: str) -> None:
        self._app = app
        own = urlsplit(url).netloc
        self._names = {name.lower() for name in (*_LOOPBACK, bracketed(host), *([own] if own else []))}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        send = functools.partial(self._send, send)
        if scope["type"] == "http" and not self._is_ours(scope):
            answer = Response("The Host of the request is not a name of this page: set web.url.", 421)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_ours(self, scope: Scope) -> bool:
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and any(
            hosts[0] == name or (hosts[0].startswith(f"{name}:") and hosts[0][len(name) + 1 :].isdigit())
            for name in self._names
        )

    @staticmethod
    async def _send(send: Send, message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name for name, _ in message["headers"]}  # a picture has a policy of its own
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in given]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)
