"""Answers one request to the Bot API, and plays the faults that are asked for."""

from __future__ import annotations

import socket

from vkteams_daemon.simulator.bot import SimulatedBot
from vkteams_daemon.simulator.faults import Fault
from vkteams_daemon.simulator.methods import METHODS, POLL
from vkteams_daemon.simulator.parameters import Parameters, Refused
from vkteams_daemon.simulator.response import Response, apply_fault, refusal, replacement, success


def respond(bot: SimulatedBot, method: str, parameters: Parameters, connection: socket.socket) -> Response:
    """Carry out a method that exists.

    Raises:
        ClientGone: the client hung up while its poll was held.
    """
    try:
        if parameters.text("token") != bot.token:
            bot.events.note("denied", method=method)
            raise Refused("Invalid token")
        if method == POLL:
            return _poll(bot, parameters, connection)
        bot.events.note("call", method=method, parameters=parameters.to_log())
        if fault := bot.take_fault(method, "replace"):
            return replacement(fault)
        with bot.world.lock:
            fields = METHODS[method](bot.world, parameters)
    except Refused as refused:
        return refusal(str(refused))
    if method == "files/getInfo":
        fields["url"] = bot.address + fields["url"]
    return _with_fault(bot, method, success(fields))


def _poll(bot: SimulatedBot, parameters: Parameters, connection: socket.socket) -> Response:
    last_event_id, poll_time = parameters.integer("lastEventId"), parameters.seconds("pollTime")
    bot.events.note_poll(last_event_id, poll_time)
    if bot.on_poll:
        bot.on_poll(last_event_id)
    if fault := bot.take_fault(POLL, "replace"):
        return replacement(fault)
    faults: list[Fault] = []

    def interrupt() -> bool:
        # Several polls may be held: the one that takes the fault plays it, and the others stay held.
        fault = bot.take_fault(POLL, "replace") or _take_replay(bot)
        faults.extend([fault] if fault else [])
        return fault is not None

    events = bot.events.poll(last_event_id, poll_time, connection, interrupt)
    fault = faults[0] if faults else _take_replay(bot)
    if fault and fault.stage == "replace":
        return replacement(fault)
    if fault:
        events = bot.events.acknowledged_events(int(fault.parameters["most"])) + events
    if len(events) > 1 and bot.take_fault(POLL, "events", names=("out_of_order",)):
        events = events[::-1]
    bodies = b",".join(event.body for event in events)
    return _with_fault(bot, POLL, Response(body=b'{"ok":true,"events":[' + bodies + b"]}"))


def _take_replay(bot: SimulatedBot) -> Fault | None:
    return bot.take_fault(POLL, "events", names=("replayed",))


def _with_fault(bot: SimulatedBot, method: str, response: Response) -> Response:
    fault = bot.take_fault(method, "response")
    return apply_fault(response, fault) if fault else response
