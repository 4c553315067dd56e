"""The simulated bot: what it is told, what it issues, and how it is steered; without HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vkteams_daemon.errors import UsageError
from vkteams_daemon.simulator.event_log import Draft, Entry, Event, EventLog
from vkteams_daemon.simulator.faults import Fault, Faults, asked
from vkteams_daemon.simulator.methods import known
from vkteams_daemon.simulator.quirks import Quirks
from vkteams_daemon.simulator.script import Line, ScriptPlayer, read_script
from vkteams_daemon.simulator.speech import said
from vkteams_daemon.simulator.world import World

TOKEN = "001.0123456789.9876543210:1000000001"


class SimulatedBot:
    """One bot of a simulated installation: its world, its events, its faults and its quirks.

    Args:
        token: the only one that is accepted; what follows its colon is the bot's userId.
        **quirks: see quirks.py.

    Attributes:
        address: `http://HOST:PORT`, known once it is served.
        token: may be changed at any time, which revokes the one before.
        quirks: may be changed at any time.
        on_poll: called with each lastEventId in the moment of its arrival, before it acknowledges anything.
    """

    def __init__(self, *, token: str = TOKEN, **quirks: Any) -> None:
        self.address = ""
        self.token = token
        self.quirks = Quirks()
        self.quirks.change(quirks)
        self.on_poll: Callable[[int], None] | None = None
        self.world = World(
            {
                "userId": token.rpartition(":")[2],
                "nick": "opsbot",
                "firstName": "OpsBot",
                "about": "A bot of the simulator.",
                "photo": [],
            }
        )
        self.events = EventLog(self.quirks)
        self.fault_list = Faults()
        self._player: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """The Bot API's base URL."""
        return f"{self.address}/bot/v1"

    def open(self) -> None:
        """Hold polls; once closed it knows all that it knew."""
        self._stopping.clear()
        self.events.open()

    def close(self) -> None:
        """Release every poll and end the script; the log stays readable."""
        self._stopping.set()
        self.events.close()
        if self._player:
            self._player.join()
            self._player = None

    def say(self, chat_id: str, user_id: str, text: str | None = None, **more: Any) -> dict[str, Any]:
        """A person says something; the event. `more` is what POST /simulator/messages takes beside these.

        Raises:
            Refused: something is missing, unknown or of the wrong type.
        """
        return self.speak({"chatId": chat_id, "userId": user_id, **({} if text is None else {"text": text}), **more})

    def speak(self, body: dict[str, Any]) -> dict[str, Any]:
        """A person says what POST /simulator/messages takes; the event.

        Raises:
            Refused: something is missing, unknown or of the wrong type.
        """
        with self.world.lock:
            draft = said(self.world, body)
            (event,) = self.issue([draft])
        return {"eventId": event.number, "type": draft.type, "payload": draft.payload}

    def event(self, type: str, payload: Any, **more: Any) -> int:
        """Issue any event, as it is; its id. `more` is `event_id`, see Draft."""
        return self.issue([Draft(type, payload, **more)])[0].number

    def raw(self, text: str | bytes) -> int:
        """Issue an event that is this text, JSON or not; `$eventId` in it becomes its id, which is returned."""
        body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        return self.issue([Draft(raw=body)])[0].number

    def issue(self, drafts: Sequence[Draft]) -> list[Event]:
        """Issue events, all of them before any poll is answered."""
        if self.quirks.ghosts:
            drafts = [ghost for draft in drafts for ghost in _with_ghost(draft)]
        # Whoever asks about an event waits until the world knows of it; one that cannot be issued it never learns of.
        with self.world.lock:
            events = self.events.issue(drafts)
            for draft in drafts:
                self.world.learn(draft.type, draft.payload)
        return events

    def log(self, since: int = 0) -> list[Entry]:
        """What happened after entry number `since`."""
        return self.events.entries(since)

    def state(self) -> dict[str, int]:
        """Counts: issued, highestEventId, acknowledged, unread, polls, waiting, logged."""
        return self.events.state()

    def faults(self, name: str, count: int | None = 1, method: str | None = None, **parameters: Any) -> None:
        """Have a fault for the next `count` requests (None: until cleared); a poll that is held has it at once.

        Raises:
            ValueError: an unknown fault, method or parameter.
        """
        self.add_faults([{"fault": name, "count": count, "method": method, **parameters}])

    def add_faults(self, bodies: Sequence[dict[str, Any]]) -> None:
        """Have these faults, each as POST /simulator/faults takes it, or none of them where one is wrong.

        Raises:
            ValueError: an unknown fault, method or parameter.
        """
        faults = [asked(body) for body in bodies]
        for fault in faults:
            if fault.method is not None and not (isinstance(fault.method, str) and known(fault.method)):
                raise ValueError(f"method: the Bot API has no {fault.method!r}")
        self.fault_list.add(faults)
        self.events.wake()

    def clear_faults(self) -> None:
        """Have no fault any more."""
        self.fault_list.clear()

    def take_fault(self, method: str, stage: str, names: tuple[str, ...] = ()) -> Fault | None:
        """The fault that this request has at that stage, counted and written down."""
        fault = self.fault_list.take(method, stage, names)
        if fault:
            self.events.note("fault", fault=fault.name, method=method)
        return fault

    def restart_ids(self, first: int = 1) -> None:
        """Start the ids over, as a server that lost its state does."""
        self.events.restart_ids(first)

    def play(self, script: Path | Sequence[Line], *, rate: float | None = None, loop: bool = False) -> None:
        """Issue a script's events: all at once, or in the background `rate` a second, with `loop` again and again.

        Raises:
            UsageError: the script cannot be read, `loop` without a rate, or a rate that is not above zero.
        """
        if loop and rate is None:
            raise UsageError("a script that is told again and again needs a rate")
        if rate is not None and not rate > 0:
            raise UsageError(f"{rate} is not a number of events a second")
        lines = read_script(script) if isinstance(script, Path) else script
        telling = ScriptPlayer(lines, self.world.new_msg_id)
        if rate is None or not lines:  # a player of no lines would have no moment in which it sees the end
            self.issue([telling.draft(line) for line in lines])
            return
        player = threading.Thread(target=self._play, args=(telling, rate, loop), name="script", daemon=True)
        self._player = player
        player.start()

    def _play(self, telling: ScriptPlayer, rate: float, loop: bool) -> None:
        due = time.monotonic()
        while True:
            for line in telling.lines:
                if self._stopping.wait(due - time.monotonic()):
                    return
                self.issue([telling.draft(line)])
                due += 1 / rate
            if not loop:
                return
            telling.start_over()


def _with_ghost(draft: Draft) -> list[Draft]:
    if draft.type != "deletedMessage" or not isinstance(draft.payload, dict):
        return [draft]
    return [draft, Draft("newMessage", draft.payload | {"editedTimestamp": int(time.time())})]
