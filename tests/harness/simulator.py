"""The simulator of the Bot API for tests, in this process or in another one.

`simulator`       one that runs in this process, on a free port
`make_simulator`  a factory: `make_simulator(**settings)` gives another one, started; see Simulator for the settings
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
    """Steers a simulator by its address, whichever process it runs in."""

    def __init__(self, address: str) -> None:
        self.address = address.partition("/bot/v1")[0]

    def ask(self, path: str, body: Any = None, method: str | None = None) -> dict[str, Any]:
        """GET, or POST of a body, below /simulator; AssertionError where the answer is a refusal."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/simulator{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
        assert answer.pop("ok"), answer
        return answer

    def say(self, chat_id: str, user_id: str, text: str, **more: Any) -> dict[str, Any]:
        """A person says something; the event."""
        return self.ask("/messages", {"chatId": chat_id, "userId": user_id, "text": text, **more})

    def state(self) -> dict[str, Any]:
        """Counts; see EventLog.state."""
        return self.ask("")

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        """Every entry of the log after that one."""
        entries: list[dict[str, Any]] = []
        while page := self.ask(f"/log?since={since + len(entries)}")["entries"]:
            entries += page
        return entries


def wait_acknowledged(simulator: Simulator | SimulatorClient, event_id: int, timeout: float = 30.0) -> None:
    """Wait until the bot's cursor, as the simulator received it, has reached this id."""
    until(lambda: simulator.state()["acknowledged"] >= event_id, timeout, f"a lastEventId of {event_id} or more")


def wait_polled(simulator: Simulator | SimulatorClient, waiting: int = 1, timeout: float = 30.0) -> None:
    """Wait until so many polls are held at the same time."""
    until(lambda: simulator.state()["waiting"] >= waiting, timeout, f"{waiting} polls that wait")


@pytest.fixture
def make_simulator() -> Iterator[Callable[..., Simulator]]:
    """Makes simulators that run; the test's end stops them."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(Simulator(**settings))


@pytest.fixture
def simulator(make_simulator: Callable[..., Simulator]) -> Simulator:
    """A strict simulator that runs on a free port."""
    return make_simulator()
