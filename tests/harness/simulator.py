"""The simulator of the Bot API for tests, in this process or in another one.

`simulator`       runs in this process, on a free port
`make_simulator`  a factory: `make_simulator(**settings)` returns another one, started; see Simulator for the settings
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator


class SimulatorClient:
    """Controls a simulator by its address, in whichever process it runs."""

    def __init__(self, address: str) -> None:
        self.address = address.partition("/bot/v1")[0]

    def ask(self, path: str, body: Any = None, method: str | None = None) -> dict[str, Any]:
        """GET a path under /simulator, or POST a body to it; AssertionError when the answer is a refusal."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/simulator{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        assert answer.pop("ok"), answer
        return answer

    def say(self, chat_id: str, user_id: str, text: str, **more: Any) -> dict[str, Any]:
        """Let a person send a message; return the event."""
        return self.ask("/messages", {"chatId": chat_id, "userId": user_id, "text": text, **more})

    def state(self) -> dict[str, Any]:
        """Counts; see EventLog.state."""
        return self.ask("")

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """Every entry of the log after entry number `since`."""
        entries: list[dict[str, Any]] = []
        while page := self.ask(f"/log?since={since + len(entries)}")["entries"]:
            entries += page
        return entries


def wait_acknowledged(simulator: Simulator | SimulatorClient, event_id: int, timeout: float = 30.0) -> None:
    """Wait until the simulator has received this lastEventId or a higher one."""
    until(lambda: simulator.state()["acknowledged"] >= event_id, timeout, f"a lastEventId of {event_id} or more")


def wait_polled(simulator: Simulator | SimulatorClient, waiting: int = 1, timeout: float = 30.0) -> None:
    """Wait until this many polls are held at the same time."""
    until(lambda: simulator.state()["waiting"] >= waiting, timeout, f"{waiting} polls that wait")


@pytest.fixture
def make_simulator() -> Iterator[Callable[..., Simulator]]:
    """Makes running simulators; the end of the test stops them."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(Simulator(**settings))


@pytest.fixture
def simulator(make_simulator: Callable[..., Simulator]) -> Simulator:
    """A strict simulator that runs on a free port."""
    return make_simulator()
