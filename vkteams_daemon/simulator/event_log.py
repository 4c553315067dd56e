"""The bot's events: their ids, the polls that wait for them, which ones are acknowledged, and a log of all this."""

from __future__ import annotations

import bisect
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vkteams_daemon.simulator.quirks import Quirks
from vkteams_daemon.simulator.waiter import PollWaiter

ID_PLACEHOLDER = b"$eventId"


class ClientGone(Exception):
    """The client hung up while its request was held."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event without an id yet.

    Attributes:
        type, payload: as the API names them.
        event_id: the eventId in the answer, of any type; None for the next free id.
        raw: the whole event as the answer has it, valid JSON or not. `$eventId` in it becomes the id.
    """

    type: str | None = None
    payload: Any = None
    event_id: Any = None
    raw: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One issued event. Two events may have the same id and the same content, so they are compared by identity.

    Attributes:
        number: its place among the ids.
        body: its bytes in the answer.
        late: its id was acknowledged before it was issued. It is answered once all the same.
    """

    number: int
    type: str | None
    body: bytes
    late: bool = False

    def to_json(self) -> Any:
        """The event as an object, or its text if it is not JSON."""
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
        kind: event (issued), poll (a lastEventId was received), call (of another method), denied (a wrong token), fault
            (one was played), restart (the ids were restarted; the unread events follow, issued again).
        event: the event, for the kind event.
        detail: the rest. poll: lastEventId and pollTime; call: method and parameters; denied: method; fault: fault and
            method; restart: firstId.
    """

    number: int
    at: float
    kind: str
    event: Event | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The entry as GET /simulator/log shows it."""
        fields: dict[str, Any] = {"number": self.number, "at": self.at, "kind": self.kind}
        if self.event:
            fields |= {"eventId": self.event.number, "event": self.event.to_json()}
        return fields | self.detail


class EventLog:
    """Issues events, holds polls until there are events, and drops the acknowledged ones."""

    def __init__(self, quirks: Quirks) -> None:
        self._quirks = quirks
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._written = 0  # entries, the dropped ones included
        self._first = 1  # every entry from this number on is there
        self._keep: int | None = None
        self._trim_at = 0
        self._unread: list[Event] = []  # with the quirk `lenient`: every event since the ids were restarted
        self._answered_late: set[Event] = set()
        self._waiters: list[PollWaiter] = []
        self._next_number = 1
        self._highest = 0
        self._generation = 0  # how often the ids were restarted
        self._acknowledged = 0
        self._issued = self._polls = 0
        self._open = True

    def bound(self, keep: int) -> None:
        """Keep the newest `keep` entries from now on, a tenth more at times, and those of unread events."""
        with self._lock:
            self._keep, self._trim_at = keep, 0
            self._trim()

    def is_full(self) -> bool:
        """Whether the log is bounded and as many events are unread as it keeps entries."""
        with self._lock:
            return self._keep is not None and self._count_unread() >= self._keep

    def issue(self, drafts: Iterable[Draft]) -> list[Event]:
        """Give each draft an id, wake the waiting polls, and return the events."""
        with self._lock:
            before = self._next_number, self._highest
            try:
                events = [self._event(draft) for draft in drafts]
            except BaseException:  # one draft cannot be written as JSON: none of them takes an id
                self._next_number, self._highest = before
                raise
            for event in events:
                self._write("event", event)
            self._unread += events
            self._issued += len(events)
            self._wake_all()
        return events

    def note_poll(self, last_event_id: int, poll_time: float) -> None:
        """Log that a poll has come with this cursor."""
        with self._lock:
            self._polls += 1
            self._write("poll", lastEventId=last_event_id, pollTime=poll_time)

    def note(self, kind: str, **detail: Any) -> None:
        """Log an entry of another kind."""
        with self._lock:
            self._write(kind, **detail)

    def poll(
        self, last_event_id: int, poll_time: float, connection: socket.socket, interrupt: Callable[[], bool]
    ) -> list[Event]:
        """Acknowledge every event up to `last_event_id`, and return those above it, after `poll_time` at the latest.

        Args:
            last_event_id: the client's cursor.
            poll_time: seconds.
            connection: the client's. The poll ends when it closes.
            interrupt: called each time the poll wakes up and has no events. True ends the poll.

        Raises:
            ClientGone: the client hung up.
        """
        with self._lock:
            generation, cursor = self._generation, last_event_id
            if cursor > self._highest:  # a cursor of other ids: it says nothing about events that are still to come
                cursor = self._highest if self._quirks.obey_foreign_cursor else 0
            self._acknowledge(cursor)
        deadline = time.monotonic() + poll_time
        with self._held(connection, supersede=self._quirks.one_poller) as waiter:
            while True:
                with self._lock:
                    # When the ids are restarted while this poll is held, its cursor does not belong to the new ids.
                    valid_cursor = cursor if generation == self._generation else 0
                    events = [] if waiter.superseded else self._answer(valid_cursor)
                if events or not self._open or waiter.superseded or interrupt() or time.monotonic() >= deadline:
                    return events
                if not waiter.wait(deadline):
                    raise ClientGone

    def hold(self, seconds: float, connection: socket.socket) -> None:
        """Hold a request for `seconds`, or until the simulator stops.

        Raises:
            ClientGone: the client hung up.
        """
        deadline = time.monotonic() + seconds
        with self._held(connection) as waiter:
            while self._open and time.monotonic() < deadline:
                if not waiter.wait(deadline):
                    raise ClientGone

    def acknowledged_events(self, limit: int) -> list[Event]:
        """The newest acknowledged events since the ids were restarted, at most `limit`, oldest first."""
        events: list[Event] = []
        with self._lock:
            for entry in reversed(self._entries):
                if entry.kind == "restart" or len(events) == limit:
                    break
                if entry.event and entry.event.number <= self._acknowledged:
                    events.append(entry.event)
        return events[::-1]

    def wake(self) -> None:
        """Let every waiting poll check again."""
        with self._lock:
            self._wake_all()

    def open(self) -> None:
        """Hold polls again."""
        self._open = True

    def close(self) -> None:
        """Release every waiting poll, and hold no more."""
        self._open = False
        self.wake()

    def restart_ids(self, first: int = 1) -> None:
        """Restart the ids, as a server that lost its state does. The unread events get new ids."""
        with self._lock:
            unread = [event for event in self._unread if self._is_unread(event, self._acknowledged)]
            self._next_number, self._highest, self._acknowledged = first, 0, 0
            self._generation += 1
            self._write("restart", firstId=first)
            self._unread = [self._renumbered(event) for event in unread]
            for event in self._unread:
                self._write("event", event)
            self._wake_all()

    def entries(self, since: int = 0, limit: int | None = None) -> list[Entry]:
        """The log entries after entry number `since`, at most `limit`."""
        with self._lock:
            begin = bisect.bisect_right(self._entries, since, key=lambda entry: entry.number)
            return self._entries[begin : None if limit is None else begin + limit]

    @property
    def first(self) -> int:
        """The number from which on every entry is there; of those before, only unread events are."""
        with self._lock:
            return self._first

    def state(self) -> dict[str, int]:
        """The counts of GET /simulator."""
        with self._lock:
            return {
                "issued": self._issued,
                "highestEventId": self._highest,
                "acknowledged": self._acknowledged,
                "unread": self._count_unread(),
                "polls": self._polls,
                "waiting": len(self._waiters),
                "logged": self._written,
            }

    def _event(self, draft: Draft) -> Event:
        number = draft.event_id if type(draft.event_id) is int else self._take_number()
        self._highest = max(self._highest, number)
        if draft.raw is not None:
            body = draft.raw.replace(ID_PLACEHOLDER, str(number).encode())
        else:
            payload = self._quirks.encode_payload(draft.type or "", draft.payload)
            event_id = number if draft.event_id is None else draft.event_id
            body = _encode({"eventId": event_id, "type": draft.type, "payload": payload})
        return Event(number, draft.type, body, late=number <= self._acknowledged)

    def _renumbered(self, event: Event) -> Event:
        number = self._take_number()
        self._highest = max(self._highest, number)
        value = event.to_json()
        body = _encode(value | {"eventId": number}) if isinstance(value, dict) else event.body
        return Event(number, event.type, body)

    def _write(self, kind: str, event: Event | None = None, **detail: Any) -> None:
        self._written += 1
        self._entries.append(Entry(self._written, time.time(), kind, event, detail))
        self._trim()

    def _trim(self) -> None:
        """Drop the oldest entries if the log is bounded; entries of unread events stay."""
        if self._keep is None or len(self._entries) <= self._trim_at:
            return
        excess = max(0, len(self._entries) - self._keep)
        if excess:
            self._first = max(self._first, self._entries[excess].number)
        old, new = self._entries[:excess], self._entries[excess:]
        self._entries = [e for e in old if e.event and self._is_unread(e.event, self._acknowledged)] + new
        if self._quirks.lenient:
            oldest = len(self._unread) - self._keep
            self._unread = [
                event
                for n, event in enumerate(self._unread)
                if n >= oldest or self._is_unread(event, self._acknowledged)
            ]
        self._trim_at = max(len(self._entries), self._keep) + self._keep // 10

    def _count_unread(self) -> int:
        return sum(self._is_unread(event, self._acknowledged) for event in self._unread)

    def _take_number(self) -> int:
        number = self._next_number
        self._next_number += 1 + self._quirks.gap
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

    def _wake_all(self) -> None:
        for waiter in self._waiters:
            waiter.wake()

    @contextlib.contextmanager
    def _held(self, connection: socket.socket, *, supersede: bool = False) -> Iterator[PollWaiter]:
        """A waiter for a request, woken by the log as long as the `with` block lasts; it may end the others."""
        waiter = PollWaiter(connection)
        with self._lock:
            for other in self._waiters if supersede else ():
                other.superseded = True
                other.wake()
            self._waiters.append(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiters.remove(waiter)
            waiter.close()


def _encode(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # UTF-8 has no lone surrogates; a careless server sends them escaped
        return json.dumps(value, separators=(",", ":")).encode()
