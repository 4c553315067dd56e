"""The text of JSON-RPC messages: what is mended before it is read, and the answer to what cannot be read."""

from __future__ import annotations

import re

import mcp_types as types
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The escapes of JSON, one after the other; half of a surrogate pair is in the group.
_HALF_PAIR = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


def mended(text: str) -> str:
    """The text of a message, with U+FFFD for each half of a surrogate pair.

    A client writes one that has cut an emoji in two. The SDK reads no such message.
    """
    return _HALF_PAIR.sub(lambda escape: r"\ufffd" if escape[1] else escape[0], text)


def refusal(error: Exception) -> types.JSONRPCError:
    """The answer to a text that could not be read for this reason: it is no JSON, or no message of JSON-RPC."""
    details = error.errors(include_url=False) if isinstance(error, ValidationError) else []
    if any(detail["type"] == "json_invalid" for detail in details):
        problem = types.ErrorData(code=types.PARSE_ERROR, message="Parse error: the line is not JSON")
        return types.JSONRPCError(jsonrpc="2.0", id=None, error=problem)
    problem = types.ErrorData(code=types.INVALID_REQUEST, message="Invalid Request: not a message of JSON-RPC 2.0")
    inputs = [detail["input"] for detail in details]
    ids = [value["id"] for value in inputs if isinstance(value, dict) and type(value.get("id")) in (int, str)]
    return types.JSONRPCError(jsonrpc="2.0", id=ids[0] if ids else None, error=problem)


class MendedBodies:
    """The application, with each body mended.

    Args:
        app: the application.
        most: bytes of a body that is mended; the application refuses a longer one.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []

        async def whole() -> Message:
            if parts:
                return await receive()
            more = True
            while more and sum(map(len, parts)) <= self._most:
                message = await receive()
                if message["type"] != "http.request":
                    return message
                parts.append(message.get("body", b""))
                more = message.get("more_body", False)
            # Escapes are ASCII, and the replacement has their length.
            body = mended(b"".join(parts).decode("latin-1")).encode("latin-1")
            return {"type": "http.request", "body": body, "more_body": more}

        await self._app(scope, whole, send)
