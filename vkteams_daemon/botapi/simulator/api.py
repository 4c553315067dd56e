"""What the Bot API answers to one request, the faults included."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vkteams_daemon.botapi.simulator.answer import Answer, instead, ok, refused, spoilt
from vkteams_daemon.botapi.simulator.faults import Fault
from vkteams_daemon.botapi.simulator.methods import METHODS
from vkteams_daemon.botapi.simulator.parameters import Parameters, Refused

if TYPE_CHECKING:
    from vkteams_daemon.botapi.simulator.simulation import Simulator

POLL = "events/get"


def known(method: str) -> bool:
    """Whether the API has such a method."""
    return method == POLL or method in METHODS


def answer(simulator: Simulator, method: str, given: Parameters, connection: socket.socket) -> Answer:
    """Carry out a method that is known.

    Raises:
        Gone: the client hung up while its poll was held.
    """
    try:
        if given.text("token") != simulator.token:
            simulator.events.note("denied", method=method)
            raise Refused("Invalid token")
        if method == POLL:
            return _polled(simulator, given, connection)
        simulator.events.note("call", method=method, parameters=given.shown())
        if fault := simulator.take_fault(method, "instead"):
            return instead(fault)
        with simulator.world.lock:
            fields = METHODS[method](simulator.world, given)
    except Refused as refusal:
        return refused(str(refusal))
    if method == "files/getInfo":
        fields["url"] = simulator.address + fields["url"]
    return _spoilt(simulator, method, ok(fields))


def _polled(simulator: Simulator, given: Parameters, connection: socket.socket) -> Answer:
    last_event_id, poll_time = given.whole("lastEventId"), given.seconds("pollTime")
    simulator.events.received(last_event_id, poll_time)
    if simulator.on_poll:
        simulator.on_poll(last_event_id)
    if fault := simulator.take_fault(POLL, "instead"):
        return instead(fault)
    taken: list[Fault] = []

    def disturbed() -> bool:
        # Taken, not only looked at: of several polls that are held one has it, and the others are held on.
        fault = simulator.take_fault(POLL, "instead") or _replayed(simulator)
        taken.extend([fault] if fault else [])
        return fault is not None

    events = simulator.events.poll(last_event_id, poll_time, connection, disturbed)
    fault = taken[0] if taken else _replayed(simulator)
    if fault and fault.stage == "instead":
        return instead(fault)
    if fault:
        events = simulator.events.acknowledged_events(int(fault.parameters["most"])) + events
    if len(events) > 1 and simulator.take_fault(POLL, "events", names=("out_of_order",)):
        events = events[::-1]
    bodies = b",".join(event.body for event in events)
    return _spoilt(simulator, POLL, Answer(body=b'{"ok":true,"events":[' + bodies + b"]}"))


def _replayed(simulator: Simulator) -> Fault | None:
    return simulator.take_fault(POLL, "events", names=("replayed",))


def _spoilt(simulator: Simulator, method: str, whole: Answer) -> Answer:
    fault = simulator.take_fault(method, "answer")
    return spoilt(whole, fault) if fault else whole
