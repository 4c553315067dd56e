"""The faults that the simulated API, or what stands before it, can be told to have."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

_MOST = 10**9  # of any number: seconds, bytes, events


@dataclass(frozen=True, slots=True)
class Kind:
    """One fault.

    Attributes:
        says: what happens, for people.
        stage: `instead` of the method, which is not carried out; `events`: to the events of an answer; `answer`: to
            the answer of a method that was carried out.
        defaults: its parameters.
    """

    says: str
    stage: str
    defaults: dict[str, Any] = field(default_factory=dict)


FAULTS = {
    "rate_limit": Kind("429, with Retry-After unless that is null", "instead", {"retry_after": 1}),
    "server_error": Kind("500, or another status, with Retry-After unless that is null", "instead",
                         {"status": 500, "retry_after": None}),
    "html": Kind("a page of HTML, as from a proxy", "instead", {"status": 502}),
    "not_found": Kind("404 from a proxy", "instead"),
    "unauthorised": Kind("401", "instead"),
    "refused": Kind("HTTP 200, ok: false and this description", "instead", {"description": "Server error: id=0x1"}),
    "revoked": Kind("the token is no longer valid", "instead"),
    "early_timeout": Kind("504 from a proxy, so many seconds into the request", "instead", {"after": 0.2}),
    "deaf": Kind("no answer for so many seconds, then the connection is closed", "instead", {"seconds": 3600}),
    "reset": Kind("the connection is reset", "instead"),
    "answer": Kind("this answer, whatever it is", "instead",
                   {"status": 200, "type": "application/json", "body": ""}),
    "replayed": Kind("the newest so many of the acknowledged events come again, before the others", "events",
                     {"most": 100}),
    "out_of_order": Kind("events in descending order; an answer of fewer than two does not count", "events"),
    "without_ok": Kind("an answer without the field ok", "answer"),
    "truncated": Kind("the first half of the answer, as if it were the whole", "answer"),
    "cut": Kind("the first half of the answer, then the connection is closed", "answer"),
    "gzip_garbage": Kind("an answer that calls itself gzip and is none", "answer"),
    "slow_body": Kind("so many bytes of the answer at a time, with so many seconds between", "answer",
                      {"octets": 1, "pause": 0.05}),
}  # fmt: skip


@dataclass(slots=True)
class Fault:
    """A fault that was asked for: `left` requests of `method` have it; None is until cleared, and any method."""

    name: str
    left: int | None
    method: str | None
    parameters: dict[str, Any]
    played: int = 0

    @property
    def stage(self) -> str:
        """Where in a request it happens."""
        return FAULTS[self.name].stage

    def fits(self, method: str, stage: str) -> bool:
        """Whether a request of that method has it at this stage."""
        if self.left == 0 or self.stage != stage:
            return False
        return method == "events/get" if self.stage == "events" else self.method in (None, method)

    def shown(self) -> dict[str, Any]:
        """As GET /simulator/faults tells it."""
        of = {"fault": self.name, "count": self.left, "method": self.method, "played": self.played}
        return of | self.parameters


def asked(fields: dict[str, Any]) -> Fault:
    """The fault that is meant: `fault` is its name, then `count`, `method` and its own parameters.

    Raises:
        ValueError: an unknown fault, or a parameter that it does not have.
    """
    parameters = {"fault": None, "count": 1, "method": None} | fields
    name, count, method = (parameters.pop(key) for key in ("fault", "count", "method"))
    kind = FAULTS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"there is no fault {name!r}; there are {', '.join(FAULTS)}")
    if count is not None and (type(count) is not int or count < 1):
        raise ValueError("count: it is a whole number from 1 on, or null for no end")
    if unknown := parameters.keys() - kind.defaults:
        raise ValueError(f"{name}: it has no parameter {', '.join(sorted(unknown))}")
    for key, value in parameters.items():
        if not _fits(key, value, kind.defaults[key]):
            raise ValueError(f"{name}: {key} cannot be {value!r}")
    return Fault(name, count, method, kind.defaults | parameters)


class Faults:
    """Those that were asked for, in that order; a request has the first that fits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, faults: Iterable[Fault]) -> None:
        """Have these too."""
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        """Have none."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, stage: str, names: tuple[str, ...] = ()) -> Fault | None:
        """The fault that this request has, counted; with `names` only one of these."""
        with self._lock:
            for fault in self._faults:
                if fault.fits(method, stage) and (not names or fault.name in names):
                    fault.played += 1
                    if fault.left is not None:
                        fault.left -= 1
                    return fault
            return None

    def shown(self) -> list[dict[str, Any]]:
        """All of them, those that are over too, until they are cleared."""
        with self._lock:
            return [fault.shown() for fault in self._faults]


def _fits(key: str, value: Any, default: Any) -> bool:
    if isinstance(default, str):
        # A type goes into the head of an answer, which has no other letters.
        return isinstance(value, str) and (key != "type" or (value.isascii() and value.isprintable()))
    if value is None:
        return key == "retry_after"
    lowest, highest = (100, 999) if key == "status" else (0, _MOST)
    return isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest
