"""An HTTP response as data, and what each fault does to it. http.py sends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vkteams_daemon.simulator.faults import Fault

_PAGE = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center></body>\r\n</html>\r\n"
_REASONS = {200: "200 OK", 404: "404 Not Found", 502: "502 Bad Gateway", 504: "504 Gateway Time-out"}


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back to the client.

    Attributes:
        status, body, type, headers: as HTTP names them; `type` is the Content-Type.
        delay: seconds before the response is sent.
        content_length: the Content-Length to send, if it is not the length of the body. The connection is closed
            after the body.
        pace: bytes at a time and seconds between them, or None for everything at once.
        disconnect: end the connection by an RST or a FIN and send nothing, or "" to send the response.
    """

    status: int = 200
    body: bytes = b""
    type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    content_length: int | None = None
    pace: tuple[int, float] | None = None
    disconnect: Literal["", "reset", "close"] = ""


def success(fields: dict[str, Any]) -> Response:
    """The response of a method that succeeded: `ok: true` and these fields."""
    text = json.dumps({"ok": True} | fields, ensure_ascii=False, separators=(",", ":"))
    return Response(body=text.encode("utf-8", "replace"))


def refusal(description: str, status: int = 200) -> Response:
    """The response of the Bot API to a request that it refuses: `ok: false`, normally with status 200."""
    text = json.dumps({"ok": False, "description": description}, ensure_ascii=False)
    return Response(status, text.encode("utf-8", "replace"))


def html_page(status: int) -> Response:
    """The page that a proxy sends in place of the API."""
    return Response(status, _PAGE.format(_REASONS.get(status, status)).encode(), "text/html")


def replacement(fault: Fault) -> Response:
    """The response that a fault of stage `replace` gives in place of the method's."""
    return _REPLACEMENTS[fault.name](**fault.parameters)


def apply_fault(response: Response, fault: Fault) -> Response:
    """The response as a fault of stage `response` changes it."""
    body = response.body
    half = body[: len(body) // 2]
    if fault.name == "without_ok":
        return replace(response, body=b"{" + body.removeprefix(b'{"ok":true').removeprefix(b","))
    if fault.name == "truncated":
        return replace(response, body=half)
    if fault.name == "cut":
        return replace(response, body=half, content_length=len(body))
    if fault.name == "gzip_garbage":
        return replace(response, body=b"\x1f\x8b\x08\x00" + body[::-1], headers={"Content-Encoding": "gzip"})
    if fault.name == "slow_body":
        return replace(response, pace=(int(fault.parameters["octets"]) or 1, float(fault.parameters["pause"])))
    return response


def _server_failure(status: float, retry_after: float | None) -> Response:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:.15g}"}
    return replace(refusal("Ratelimit" if status == 429 else "Server error: id=0x1", int(status)), headers=headers)


def _custom(status: float, type: str, body: str) -> Response:
    return Response(int(status), body.encode("utf-8", "surrogatepass"), type)


_REPLACEMENTS: dict[str, Callable[..., Response]] = {
    "rate_limit": lambda retry_after: _server_failure(429, retry_after),
    "server_error": _server_failure,
    "html": lambda status: html_page(int(status)),
    "not_found": lambda: html_page(404),
    "unauthorised": lambda: refusal("Invalid token", 401),
    "refused": refusal,
    "revoked": lambda: refusal("Invalid token"),
    "early_timeout": lambda after: replace(html_page(504), delay=after),
    "deaf": lambda seconds: Response(delay=seconds, disconnect="close"),
    "reset": lambda: Response(disconnect="reset"),
    "answer": _custom,
}
