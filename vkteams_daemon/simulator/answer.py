"""An HTTP answer as data, and what each fault makes of it; http.py sends it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from vkteams_daemon.simulator.faults import Fault

_PAGE = "<html>\r\n<head><title>{0}</title></head>\r\n<body><center><h1>{0}</h1></center></body>\r\n</html>\r\n"
_REASONS = {200: "200 OK", 404: "404 Not Found", 502: "502 Bad Gateway", 504: "504 Gateway Time-out"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the client.

    Attributes:
        status, body, type, headers: as HTTP names them.
        after: seconds that it is held.
        promised: the Content-Length, where it is not the body's; the connection is closed after the body.
        pace: bytes at a time and seconds between, None for all at once.
        broken: no answer at all: "reset" or "closed".
    """

    status: int = 200
    body: bytes = b""
    type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0
    promised: int | None = None
    pace: tuple[int, float] | None = None
    broken: str = ""


def ok(fields: dict[str, Any]) -> Answer:
    """A method's answer."""
    text = json.dumps({"ok": True} | fields, ensure_ascii=False, separators=(",", ":"))
    return Answer(body=text.encode("utf-8", "replace"))


def refused(description: str, status: int = 200) -> Answer:
    """What the Bot API answers to whatever it does not do."""
    return Answer(
        status, json.dumps({"ok": False, "description": description}, ensure_ascii=False).encode("utf-8", "replace")
    )


def page(status: int) -> Answer:
    """What a proxy says."""
    return Answer(status, _PAGE.format(_REASONS.get(status, status)).encode(), "text/html")


def instead(fault: Fault) -> Answer:
    """The answer of a fault that takes the method's place."""
    return _INSTEAD[fault.name](**fault.parameters)


def spoilt(answer: Answer, fault: Fault) -> Answer:
    """The answer with what the fault does to it."""
    body = answer.body
    half = body[: len(body) // 2]
    if fault.name == "without_ok":
        return replace(answer, body=b"{" + body.removeprefix(b'{"ok":true').removeprefix(b","))
    if fault.name == "truncated":
        return replace(answer, body=half)
    if fault.name == "cut":
        return replace(answer, body=half, promised=len(body))
    if fault.name == "gzip_garbage":
        return replace(answer, body=b"\x1f\x8b\x08\x00" + body[::-1], headers={"Content-Encoding": "gzip"})
    if fault.name == "slow_body":
        return replace(answer, pace=(int(fault.parameters["octets"]) or 1, float(fault.parameters["pause"])))
    return answer


def _failed(status: float, retry_after: float | None) -> Answer:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:.15g}"}
    return replace(refused("Ratelimit" if status == 429 else "Server error: id=0x1", int(status)), headers=headers)


def _any(status: float, type: str, body: str) -> Answer:
    return Answer(int(status), body.encode("utf-8", "surrogatepass"), type)


_INSTEAD: dict[str, Callable[..., Answer]] = {
    "rate_limit": lambda retry_after: _failed(429, retry_after),
    "server_error": _failed,
    "html": lambda status: page(int(status)),
    "not_found": lambda: page(404),
    "unauthorised": lambda: refused("Invalid token", 401),
    "refused": refused,
    "revoked": lambda: refused("Invalid token"),
    "early_timeout": lambda after: replace(page(504), after=after),
    "deaf": lambda seconds: Answer(after=seconds, broken="closed"),
    "reset": lambda: Answer(broken="reset"),
    "answer": _any,
}
