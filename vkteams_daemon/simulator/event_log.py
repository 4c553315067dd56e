"""The bot's events: their ids, who waits for them, what was acknowledged, and the log of all of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from vkteams_daemon.simulator.quirks import Quirks
from vkteams_daemon.simulator.waiter import PollWaiter

PLACE_OF_ID = b"$eventId"


class Gone(Exception):
    """The client hung up while its request was held."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event without an id yet.

    Attributes:
        type, payload: as the API names them.
        event_id: stands in the answer in place of the next id, whatever it is; None for the next one.
        raw: the whole event as it stands in the answer, valid JSON or not; `$eventId` in it becomes the id.
    """

    type: str | None = None
    payload: Any = None
    event_id: Any = None
    raw: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One event as it was issued: `number` is its place among the ids, `body` what the answer holds.

    Equal to itself alone: two events may have the same id, and say the same.
    """

    number: int
    type: str | None
    body: bytes
    late: bool = False  # its id was acknowledged before it came: it is answered once all the same

    def shown(self) -> Any:
        """The event as an object, or its text where it is no JSON."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return self.body.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log.

    Attributes:
        number: 1, 2, 3, …
        at: Unix time.
        kind: event (issued), poll (a lastEventId was received), call (another method), denied (a wrong token), fault
            (one was played), restart (the ids were started over; what was unread is issued again after it).
        event: of an event.
        detail: of a poll lastEventId and pollTime, of a call method and parameters, of a denied one method, of a fault
            fault and method, of a restart firstId.
    """

    number: int
    at: float
    kind: str
    event: Event | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """The entry as JSON has it."""
        line: dict[str, Any] = {"number": self.number, "at": self.at, "kind": self.kind}
        if self.event:
            line |= {"eventId": self.event.number, "event": self.event.shown()}
        return line | self.detail


class EventLog:
    """Issues events, holds polls until there are some, and forgets what was acknowledged."""

    def __init__(self, quirks: Quirks) -> None:
        self._quirks = quirks
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._unread: list[Event] = []  # or, where lenient, every event since the ids began
        self._answered_late: set[Event] = set()
        self._bells: list[PollWaiter] = []
        self._next = 1
        self._highest = 0
        self._era = 0  # how often the ids were started over
        self._acknowledged = 0
        self._issued = self._polls = 0
        self._open = True

    def issue(self, drafts: Iterable[Draft]) -> list[Event]:
        """Give each draft an id and wake the waiting polls; the events."""
        with self._lock:
            before = self._next, self._highest
            try:
                events = [self._event(draft) for draft in drafts]
            except BaseException:  # an event that has no JSON: it and those with it take no id
                self._next, self._highest = before
                raise
            for event in events:
                self._write("event", event)
            self._unread += events
            self._issued += len(events)
            self._ring()
        return events

    def received(self, last_event_id: int, poll_time: float) -> None:
        """Write down that a poll came with this cursor."""
        with self._lock:
            self._polls += 1
            self._write("poll", lastEventId=last_event_id, pollTime=poll_time)

    def note(self, kind: str, **detail: Any) -> None:
        """Write down something else."""
        with self._lock:
            self._write(kind, **detail)

    def poll(
        self, last_event_id: int, poll_time: float, connection: socket.socket, disturbed: Callable[[], bool]
    ) -> list[Event]:
        """Acknowledge everything up to `last_event_id`; what comes after it, at the latest after `poll_time` seconds.

        Args:
            last_event_id: the client's cursor.
            poll_time: seconds.
            connection: the client's; when it closes, the poll ends.
            disturbed: asked whenever the poll is woken and has no events; true ends it.

        Raises:
            Gone: the client hung up.
        """
        with self._lock:
            era, known = self._era, last_event_id
            if known > self._highest:  # not from these ids: it says nothing of events that are still to come
                known = self._highest if self._quirks.obey_foreign_cursor else 0
            self._acknowledge(known)
        deadline = time.monotonic() + poll_time
        with _Held(self, connection, alone=self._quirks.one_poller) as bell:
            while True:
                with self._lock:
                    # Started over while this poll was held, the ids are not those that its cursor is of.
                    events = [] if bell.dismissed else self._answer(known if era == self._era else 0)
                if events or not self._open or bell.dismissed or disturbed() or time.monotonic() >= deadline:
                    return events
                if not bell.wait(deadline):
                    raise Gone

    def hold(self, seconds: float, connection: socket.socket) -> None:
        """Hold a request for so long, or until the simulator stops.

        Raises:
            Gone: the client hung up.
        """
        deadline = time.monotonic() + seconds
        with _Held(self, connection, alone=False) as bell:
            while self._open and time.monotonic() < deadline:
                if not bell.wait(deadline):
                    raise Gone

    def acknowledged_events(self, most: int = 100) -> list[Event]:
        """The newest events of these ids that were acknowledged already, oldest first."""
        events: list[Event] = []
        with self._lock:
            for entry in reversed(self._entries):
                if entry.kind == "restart" or len(events) == most:
                    break
                if entry.event and entry.event.number <= self._acknowledged:
                    events.append(entry.event)
        return events[::-1]

    def wake(self) -> None:
        """Let every waiting poll look again."""
        with self._lock:
            self._ring()

    def open(self) -> None:
        """Hold polls again."""
        self._open = True

    def close(self) -> None:
        """Release every waiting poll, and hold none any more."""
        self._open = False
        self.wake()

    def restart_ids(self, first: int = 1) -> None:
        """Start the ids over, as a server that lost its state does; what is unread gets new ids."""
        with self._lock:
            unread = [event for event in self._unread if self._is_unread(event, self._acknowledged)]
            self._next, self._highest, self._acknowledged = first, 0, 0
            self._era += 1
            self._write("restart", firstId=first)
            self._unread = [self._renumbered(event) for event in unread]
            for event in self._unread:
                self._write("event", event)
            self._ring()

    def entries(self, since: int = 0, most: int | None = None) -> list[Entry]:
        """The log after entry number `since`."""
        with self._lock:
            return self._entries[max(0, since) : None if most is None else max(0, since) + most]

    def state(self) -> dict[str, int]:
        """Counts, for a quick look."""
        with self._lock:
            return {
                "issued": self._issued,
                "highestEventId": self._highest,
                "acknowledged": self._acknowledged,
                "unread": sum(self._is_unread(event, self._acknowledged) for event in self._unread),
                "polls": self._polls,
                "waiting": len(self._bells),
                "logged": len(self._entries),
            }

    def _event(self, draft: Draft) -> Event:
        own = draft.event_id
        number = own if type(own) is int else self._taken()
        self._highest = max(self._highest, number)
        if draft.raw is not None:
            body = draft.raw.replace(PLACE_OF_ID, str(number).encode())
        else:
            payload = self._quirks.dressed(draft.type or "", draft.payload)
            event = {"eventId": number if own is None else own, "type": draft.type, "payload": payload}
            body = _encoded(event)
        return Event(number, draft.type, body, late=number <= self._acknowledged)

    def _renumbered(self, event: Event) -> Event:
        number = self._taken()
        self._highest = max(self._highest, number)
        shown = event.shown()
        return Event(
            number, event.type, _encoded(shown | {"eventId": number}) if isinstance(shown, dict) else event.body
        )

    def _write(self, kind: str, event: Event | None = None, **detail: Any) -> None:
        self._entries.append(Entry(len(self._entries) + 1, time.time(), kind, event, detail))

    def _taken(self) -> int:
        number = self._next
        self._next += 1 + self._quirks.gap
        return number

    def _acknowledge(self, last_event_id: int) -> None:
        self._acknowledged = max(self._acknowledged, last_event_id)
        self._answered_late.intersection_update(self._unread)
        if not self._quirks.lenient:
            self._unread = [event for event in self._unread if self._is_unread(event, self._acknowledged)]

    def _is_unread(self, event: Event, cursor: int) -> bool:
        return event.number > cursor or (event.late and event not in self._answered_late)

    def _answer(self, cursor: int) -> list[Event]:
        events = [event for event in self._unread if self._is_unread(event, cursor)]
        events = events[: self._quirks.batch or None]
        self._answered_late.update(event for event in events if event.late)
        return events

    def _ring(self) -> None:
        for bell in self._bells:
            bell.ring()


class _Held:
    """A request that is held: its bell hangs in the log as long as it waits."""

    def __init__(self, log: EventLog, connection: socket.socket, *, alone: bool) -> None:
        self._log = log
        self._bell = PollWaiter(connection)
        self._alone = alone

    def __enter__(self) -> PollWaiter:
        log = self._log
        with log._lock:
            for other in log._bells if self._alone else ():
                other.dismissed = True
                other.ring()
            log._bells.append(self._bell)
        return self._bell

    def __exit__(self, *_: object) -> None:
        with self._log._lock:
            self._log._bells.remove(self._bell)
        self._bell.close()


def _encoded(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8; escaped it is what a careless server sends
        return json.dumps(value, separators=(",", ":")).encode()
