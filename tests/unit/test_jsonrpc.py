"""What is mended in the text of a JSON-RPC message."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from vkteams_daemon.mcp.jsonrpc import MendedBodies

BODY = rb'{"words": "\ud83d \ud83d\ude00 \\ud83d \ude00", "bytes": "' + "ёж".encode() + b'"}'
MENDED = {"words": "\ufffd \U0001f600 \\ud83d \ufffd", "bytes": "ёж"}


def _read(*parts: bytes, most: int = 1000, method: str = "POST") -> bytes:
    """The body as the application gets it that came in these parts."""
    coming: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    coming[-1]["more_body"] = False
    body = bytearray()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            body.extend(message["body"])
            more = message["more_body"]

    async def receive() -> Any:
        return coming.pop(0)

    asyncio.run(MendedBodies(app, most)({"type": "http", "method": method}, receive, None))  # type: ignore[arg-type]
    return bytes(body)


@pytest.mark.parametrize("size", [1, 7, len(BODY)])
def test_half_of_an_emoji_is_replaced_however_it_comes(size: int) -> None:
    read = _read(*(BODY[begin : begin + size] for begin in range(0, len(BODY), size)))
    assert json.loads(read) == MENDED and len(read) == len(BODY)


def test_a_body_that_is_too_long_comes_in_its_parts() -> None:
    """The application refuses it as it comes."""
    assert _read(b"x" * 20, b"y" * 20, b"z", most=10) == b"x" * 20 + b"y" * 20 + b"z"
