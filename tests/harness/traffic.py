"""Traffic during a test of faults: messages, edits and deletions at a steady rate, from a thread."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from vkteams_daemon.simulator import Simulator

CHATS = ("681869378@chat.agent", "693938330@chat.agent")
PEOPLE = ("a.ivanova@corp.example", "p.petrov@corp.example", "o.smirnova@corp.example")


class Traffic:
    """Issues `rate` events a second until the `with` block ends."""

    def __init__(self, simulator: Simulator, rate: float) -> None:
        self._simulator = simulator
        self._pause = 1 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due, number = time.monotonic(), 0
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            emit_event(self._simulator, number)
            number += 1
            due += self._pause


def emit_event(simulator: Simulator, number: int) -> None:
    """Issue a new message; after every seventh one also an edit of it, after every eleventh its deletion."""
    chat, person = CHATS[number % 2], PEOPLE[number % 3]
    event = simulator.say(chat, person, f"сообщение {number}: сервер db-{number % 7}.corp отвечает")
    payload = event["payload"]
    if number % 7 == 3:
        edited = payload | {"text": f"исправлено {number}", "editedTimestamp": payload["timestamp"] + 1}
        simulator.event("editedMessage", edited)
    if number % 11 == 5:
        simulator.event("deletedMessage", {key: payload[key] for key in ("msgId", "chat", "timestamp")})
