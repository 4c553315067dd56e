"""The simulated bot, without HTTP: it issues events, plays faults and scripts, and keeps the state of its world."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vkteams_daemon.errors import UsageError
from vkteams_daemon.simulator.event_log import Draft, Entry, Event, EventLog
from vkteams_daemon.simulator.faults import Fault, FaultList, Stage, parse_fault
from vkteams_daemon.simulator.methods import is_method
from vkteams_daemon.simulator.quirks import Quirks
from vkteams_daemon.simulator.script import Line, ScriptPlayer, read_script
from vkteams_daemon.simulator.speech import draft_message
from vkteams_daemon.simulator.world import World

TOKEN = "001.0123456789.9876543210:1000000001"
LOOP_LOG = 10_000  # entries that the log keeps while a script loops
_FULL_INTERVAL = 0.1  # seconds between two looks whether a full log has room again


class SimulatedBot:
    """One bot of a simulated installation: its world, its events, its faults and its quirks.

    Args:
        token: the only token that is accepted. The part after its colon is the bot's userId.
        **quirks: see quirks.py.

    Attributes:
        address: `http://HOST:PORT`, known once the bot is served.
        token: may be changed at any time, which revokes the previous one.
        quirks: may be changed at any time.
        on_poll: called with each lastEventId at its arrival, before it acknowledges anything.
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
        self.fault_list = FaultList()
        self._script_thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        """The Bot API's base URL."""
        return f"{self.address}/bot/v1"

    def open(self) -> None:
        """Hold polls. A bot that is opened again after `close` has kept its state."""
        self._stopping.clear()
        self.events.open()

    def close(self) -> None:
        """Release every poll and end the script. The log stays readable."""
        self._stopping.set()
        self.events.close()
        if self._script_thread:
            self._script_thread.join()
            self._script_thread = None

    def say(self, chat_id: str, user_id: str, text: str | None = None, **more: Any) -> dict[str, Any]:
        """Let a person send a message; return the event. `more` are further fields of POST /simulator/messages.

        Raises:
            Refused: a field is missing, unknown or of the wrong type.
        """
        return self.speak({"chatId": chat_id, "userId": user_id, **({} if text is None else {"text": text}), **more})

    def speak(self, body: dict[str, Any]) -> dict[str, Any]:
        """Let a person send the message that a body of POST /simulator/messages describes; return the event.

        Raises:
            Refused: a field is missing, unknown or of the wrong type.
        """
        with self.world.lock:
            draft = draft_message(self.world, body)
            (event,) = self.issue([draft])
        return {"eventId": event.number, "type": draft.type, "payload": draft.payload}

    def event(self, type: str, payload: Any, **more: Any) -> int:
        """Issue any event unchanged; return its id. `more` is `event_id`, see Draft."""
        return self.issue([Draft(type, payload, **more)])[0].number

    def raw(self, text: str | bytes) -> int:
        """Issue an event that is this text, JSON or not; return its id. `$eventId` in the text becomes the id."""
        body = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        return self.issue([Draft(raw=body)])[0].number

    def issue(self, drafts: Sequence[Draft]) -> list[Event]:
        """Issue events, all of them before any poll is answered."""
        if self.quirks.ghosts:
            drafts = [each for draft in drafts for each in _with_ghost(draft)]
        # A request about an event waits until the world has learnt it. The world never learns a draft that failed.
        with self.world.lock:
            events = self.events.issue(drafts)
            for draft in drafts:
                self.world.learn(draft.type, draft.payload)
        return events

    def log(self, since: int = 0) -> list[Entry]:
        """The log entries after entry number `since`."""
        return self.events.entries(since)

    def state(self) -> dict[str, int]:
        """Counts: issued, highestEventId, acknowledged, unread, polls, waiting, logged."""
        return self.events.state()

    def faults(self, name: str, count: int | None = 1, method: str | None = None, **parameters: Any) -> None:
        """Play a fault on the next `count` requests (None: until cleared). A held poll plays it at once.

        Raises:
            ValueError: the fault, the method or a parameter is unknown.
        """
        self.add_faults([{"fault": name, "count": count, "method": method, **parameters}])

    def add_faults(self, bodies: Sequence[dict[str, Any]]) -> None:
        """Play these faults, each a body of POST /simulator/faults. If one is wrong, none is added.

        Raises:
            ValueError: a fault, a method or a parameter is unknown.
        """
        faults = [parse_fault(body) for body in bodies]
        for fault in faults:
            if fault.method is not None and not (isinstance(fault.method, str) and is_method(fault.method)):
                raise ValueError(f"method: the Bot API has no {fault.method!r}")
        self.fault_list.add(faults)
        self.events.wake()

    def clear_faults(self) -> None:
        """Play no more faults."""
        self.fault_list.clear()

    def take_fault(self, method: str, stage: Stage, names: tuple[str, ...] = ()) -> Fault | None:
        """The fault that this request plays at that stage; it is counted and logged."""
        fault = self.fault_list.take(method, stage, names)
        if fault:
            self.events.note("fault", fault=fault.name, method=method)
        return fault

    def restart_ids(self, first: int = 1) -> None:
        """Restart the ids, as a server that lost its state does."""
        self.events.restart_ids(first)

    def play(self, script: Path | Sequence[Line], *, rate: float | None = None, loop: bool = False) -> None:
        """Issue a script's events: all at once, or in the background `rate` a second, with `loop` again and again.

        With `loop` the log is bounded, and the script waits while LOOP_LOG events are unread.

        Raises:
            UsageError: the script cannot be read, `loop` has no rate, or the rate is not above zero.
        """
        if loop and rate is None:
            raise UsageError("a script that loops needs a rate")
        if rate is not None and not rate > 0:
            raise UsageError(f"{rate} is not a number of events a second")
        lines = read_script(script) if isinstance(script, Path) else script
        player = ScriptPlayer(lines, self.world.new_msg_id)
        if rate is None or not lines:  # a loop over no lines would never notice that the simulator stops
            self.issue([player.draft(line) for line in lines])
            return
        if loop:
            self.events.bound(LOOP_LOG)
        thread = threading.Thread(target=self._play, args=(player, rate, loop), name="script", daemon=True)
        self._script_thread = thread
        thread.start()

    def _play(self, player: ScriptPlayer, rate: float, loop: bool) -> None:
        due = time.monotonic()
        while True:
            for line in player.lines:
                if self._stopping.wait(due - time.monotonic()):
                    return
                while self.events.is_full():
                    if self._stopping.wait(_FULL_INTERVAL):
                        return
                    due = time.monotonic()
                self.issue([player.draft(line)])
                due += 1 / rate
            if not loop:
                return
            player.start_over()


def _with_ghost(draft: Draft) -> list[Draft]:
    if draft.type != "deletedMessage" or not isinstance(draft.payload, dict):
        return [draft]
    return [draft, Draft("newMessage", draft.payload | {"editedTimestamp": int(time.time())})]
