"""The faults that the simulated API, or a proxy in front of it, can play."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

_MAX_NUMBER = 10**9  # of any parameter: seconds, bytes, events

Stage = Literal["replace", "events", "response"]


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One kind of fault.

    Attributes:
        description: what happens, for people.
        stage: where it comes in. `replace`: the method is not carried out, and the fault gives the response. `events`:
            the fault changes the events of a poll. `response`: the method is carried out, and the fault changes its
            response.
        defaults: the parameters, with their defaults.
    """

    description: str
    stage: Stage
    defaults: dict[str, Any] = field(default_factory=dict)


FAULTS = {
    "rate_limit": FaultKind("429, with Retry-After unless that is null", "replace", {"retry_after": 1}),
    "server_error": FaultKind("500, or another status, with Retry-After unless that is null", "replace",
                              {"status": 500, "retry_after": None}),
    "html": FaultKind("an HTML page, as from a proxy", "replace", {"status": 502}),
    "not_found": FaultKind("404 from a proxy", "replace"),
    "unauthorised": FaultKind("401", "replace"),
    "refused": FaultKind("HTTP 200, ok: false and this description", "replace",
                         {"description": "Server error: id=0x1"}),
    "revoked": FaultKind("the token is no longer valid", "replace"),
    "early_timeout": FaultKind("504 from a proxy, this many seconds after the request", "replace", {"after": 0.2}),
    "deaf": FaultKind("no answer for this many seconds, then the connection is closed", "replace", {"seconds": 3600}),
    "reset": FaultKind("the connection is reset", "replace"),
    "answer": FaultKind("exactly this answer", "replace", {"status": 200, "type": "application/json", "body": ""}),
    "replayed": FaultKind("the newest acknowledged events, at most this many, come again before the others", "events",
                          {"most": 100}),
    "out_of_order": FaultKind("events in descending order; an answer of fewer than two does not count", "events"),
    "without_ok": FaultKind("an answer without the field ok", "response"),
    "truncated": FaultKind("the first half of the answer, as if it were the whole", "response"),
    "cut": FaultKind("the first half of the answer, then the connection is closed", "response"),
    "gzip_garbage": FaultKind("an answer that claims to be gzip and is not", "response"),
    "slow_body": FaultKind("this many bytes of the answer at a time, with this many seconds between", "response",
                           {"octets": 1, "pause": 0.05}),
}  # fmt: skip


@dataclass(slots=True)
class Fault:
    """A fault that was asked for.

    Attributes:
        remaining: how many more requests play it; None for every request until the faults are cleared.
        method: the method whose requests play it; None for any method.
        played: how many requests have played it.
    """

    name: str
    remaining: int | None
    method: str | None
    parameters: dict[str, Any]
    played: int = 0

    @property
    def stage(self) -> Stage:
        """When in a request it is played, see FaultKind."""
        return FAULTS[self.name].stage

    def applies(self, method: str, stage: Stage) -> bool:
        """Whether a request of that method plays it at this stage."""
        if self.remaining == 0 or self.stage != stage:
            return False
        return method == "events/get" if self.stage == "events" else self.method in (None, method)

    def to_json(self) -> dict[str, Any]:
        """The fault as GET /simulator/faults shows it."""
        fields = {"fault": self.name, "count": self.remaining, "method": self.method, "played": self.played}
        return fields | self.parameters


def parse_fault(body: dict[str, Any]) -> Fault:
    """The fault that a body of POST /simulator/faults asks for: `fault`, `count`, `method` and its own parameters.

    Raises:
        ValueError: the fault is unknown, or a parameter does not belong to it or has a wrong value.
    """
    parameters = {"fault": None, "count": 1, "method": None} | body
    name, count, method = (parameters.pop(key) for key in ("fault", "count", "method"))
    kind = FAULTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
    if count is not None and (type(count) is not int or count < 1):
        raise ValueError("count: it is a whole number from 1 on, or null for no end")
    if unknown := parameters.keys() - kind.defaults:
        raise ValueError(f"{name}: it has no parameter {', '.join(sorted(unknown))}")
    for key, value in parameters.items():
        if not _valid(key, value, kind.defaults[key]):
            raise ValueError(f"{name}: {key} cannot be {value!r}")
    return Fault(name, count, method, kind.defaults | parameters)


class FaultList:
    """The faults that were asked for, in that order. A request plays the first one that applies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Append these faults."""
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, stage: Stage, names: tuple[str, ...] = ()) -> Fault | None:
        """The fault that a request plays at this stage, counted as played; with `names`, only one of these."""
        with self._lock:
            for fault in self._faults:
                if fault.applies(method, stage) and (not names or fault.name in names):
                    fault.played += 1
                    if fault.remaining is not None:
                        fault.remaining -= 1
                    return fault
            return None

    def to_json(self) -> list[dict[str, Any]]:
        """Every fault until it is cleared, also when no request is left to play it."""
        with self._lock:
            return [fault.to_json() for fault in self._faults]


def _valid(key: str, value: Any, default: Any) -> bool:
    if isinstance(default, str):
        # `type` becomes an HTTP header, which takes printable ASCII only.
        return isinstance(value, str) and (key != "type" or (value.isascii() and value.isprintable()))
    if value is None:
        return key == "retry_after"
    lowest, highest = (100, 999) if key == "status" else (0, _MAX_NUMBER)
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest
