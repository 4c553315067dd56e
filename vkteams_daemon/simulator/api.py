"""What the Bot API answers to one request, the faults included."""

from __future__ import annotations

import socket

from vkteams_daemon.simulator.answer import Answer, instead, ok, refused, spoilt
from vkteams_daemon.simulator.bot import SimulatedBot
from vkteams_daemon.simulator.faults import Fault
from vkteams_daemon.simulator.methods import METHODS, POLL
from vkteams_daemon.simulator.parameters import Parameters, Refused


def answer(bot: SimulatedBot, method: str, given: Parameters, connection: socket.socket) -> Answer:
    """Carry out a method that is known.

    Raises:
        Gone: the client hung up while its poll was held.
    """
    try:
        if given.text("token") != bot.token:
            bot.events.note("denied", method=method)
            raise Refused("Invalid token")
        if method == POLL:
            return _polled(bot, given, connection)
        bot.events.note("call", method=method, parameters=given.shown())
        if fault := bot.take_fault(method, "instead"):
            return instead(fault)
        with bot.world.lock:
            fields = METHODS[method](bot.world, given)
    except Refused as refusal:
        return refused(str(refusal))
    if method == "files/getInfo":
        fields["url"] = bot.address + fields["url"]
    return _spoilt(bot, method, ok(fields))


def _polled(bot: SimulatedBot, given: Parameters, connection: socket.socket) -> Answer:
    last_event_id, poll_time = given.whole("lastEventId"), given.seconds("pollTime")
    bot.events.received(last_event_id, poll_time)
    if bot.on_poll:
        bot.on_poll(last_event_id)
    if fault := bot.take_fault(POLL, "instead"):
        return instead(fault)
    taken: list[Fault] = []

    def disturbed() -> bool:
        # Taken, not only looked at: of several polls that are held one has it, and the others are held on.
        fault = bot.take_fault(POLL, "instead") or _replayed(bot)
        taken.extend([fault] if fault else [])
        return fault is not None

    events = bot.events.poll(last_event_id, poll_time, connection, disturbed)
    fault = taken[0] if taken else _replayed(bot)
    if fault and fault.stage == "instead":
        return instead(fault)
    if fault:
        events = bot.events.acknowledged_events(int(fault.parameters["most"])) + events
    if len(events) > 1 and bot.take_fault(POLL, "events", names=("out_of_order",)):
        events = events[::-1]
    bodies = b",".join(event.body for event in events)
    return _spoilt(bot, POLL, Answer(body=b'{"ok":true,"events":[' + bodies + b"]}"))


def _replayed(bot: SimulatedBot) -> Fault | None:
    return bot.take_fault(POLL, "events", names=("replayed",))


def _spoilt(bot: SimulatedBot, method: str, whole: Answer) -> Answer:
    fault = bot.take_fault(method, "answer")
    return spoilt(whole, fault) if fault else whole
