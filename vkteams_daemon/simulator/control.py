"""What is under /simulator/: how a test, or a curious person with curl, steers the simulator and looks into it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from vkteams_daemon.simulator.answer import Answer, ok, refused
from vkteams_daemon.simulator.bot import SimulatedBot
from vkteams_daemon.simulator.event_log import Draft
from vkteams_daemon.simulator.parameters import Parameters, Refused

MOST = 1000  # log entries in one answer, where the request does not say


def answer(bot: SimulatedBot, command: str, path: str, given: Parameters, body: bytes) -> Answer:
    """Do what is asked; 400 with a description where that makes no sense."""
    action = ACTIONS.get(f"{command} {path.rstrip('/')}")
    if action is None:
        return refused(f"there are {', '.join(ACTIONS)}", 404)
    try:
        return ok(action(bot, given, _json(body) if body else None))
    except (Refused, ValueError) as error:
        return refused(str(error), 400)
    except RecursionError:
        return refused("what is asked for is nested too deeply", 400)


def _state(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    return {"url": bot.url, **bot.state()}


def _say(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    return bot.speak(_object(body))


def _issue(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    """One event, or a list of them; how many, and the first and the last id."""
    events = bot.issue([_draft(one) for one in (body if isinstance(body, list) else [body])])
    ids = [event.number for event in events]
    return {"issued": len(ids), "firstEventId": ids[0], "lastEventId": ids[-1]} if ids else {"issued": 0}


def _draft(value: Any) -> Draft:
    fields = _object(value)
    if unknown := fields.keys() - {"type", "payload", "eventId", "raw"}:
        raise ValueError(f"an event has no {', '.join(sorted(unknown))}")
    if "raw" in fields:
        if not isinstance(fields["raw"], str) or len(fields) > 1:
            raise ValueError("raw is text, and stands alone")
        return Draft(raw=fields["raw"].encode("utf-8", "surrogatepass"))
    if "type" not in fields or "payload" not in fields:
        raise ValueError("an event has a type and a payload, or raw")
    return Draft(fields["type"], fields["payload"], fields.get("eventId"))


def _log(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    since = given.count("since", 0)
    entries = bot.events.entries(since, given.count("limit", MOST))
    return {"entries": [entry.shown() for entry in entries], "next": since + len(entries)}


def _faults(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    return {"faults": bot.fault_list.shown()}


def _add_faults(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    bot.add_faults([_object(one) for one in (body if isinstance(body, list) else [body])])
    return _faults(bot, given, None)


def _clear_faults(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    bot.clear_faults()
    return {}


def _quirks(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    if body is not None:
        bot.quirks.change(_object(body))
    return bot.quirks.shown()


def _restart(bot: SimulatedBot, given: Parameters, body: Any) -> dict[str, Any]:
    first = _object(body or {}).get("firstId", 1)
    if type(first) is not int or first < 1:
        raise ValueError("firstId is a whole number from 1 on")
    bot.restart_ids(first)
    return bot.state()


ACTIONS: dict[str, Callable[[SimulatedBot, Parameters, Any], dict[str, Any]]] = {
    "GET /simulator": _state,
    "POST /simulator/messages": _say,
    "POST /simulator/events": _issue,
    "GET /simulator/log": _log,
    "GET /simulator/faults": _faults,
    "POST /simulator/faults": _add_faults,
    "DELETE /simulator/faults": _clear_faults,
    "GET /simulator/traits": _quirks,
    "POST /simulator/traits": _quirks,
    "POST /simulator/restart": _restart,
}


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the body is not JSON") from error


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("the body is not a JSON object")
    return value
