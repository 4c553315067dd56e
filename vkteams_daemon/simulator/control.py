"""The paths under /simulator: a test, or a person with curl, controls the simulator and inspects it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from vkteams_daemon.simulator.bot import SimulatedBot
from vkteams_daemon.simulator.event_log import Draft
from vkteams_daemon.simulator.parameters import Parameters, Refused
from vkteams_daemon.simulator.response import Response, refusal, success

LOG_LIMIT = 1000  # log entries in one answer, if the request has no `limit`


def respond(bot: SimulatedBot, command: str, path: str, parameters: Parameters, body: bytes) -> Response:
    """Carry out a request; status 400 with a description if it makes no sense."""
    action = ACTIONS.get(f"{command} {path.rstrip('/')}")
    if action is None:
        return refusal(f"there are {', '.join(ACTIONS)}", 404)
    try:
        return success(action(bot, parameters, _json(body) if body else None))
    except (Refused, ValueError) as error:
        return refusal(str(error), 400)
    except RecursionError:
        return refusal("the body is nested too deeply", 400)


def _state(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
    return {"url": bot.url, **bot.state()}


def _say(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
    return bot.speak(_object(body))


def _issue(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
    """Issue one event or a list of them; the answer has how many, and the first and the last id."""
    events = bot.issue([_draft(value) for value in _list(body)])
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


def _log(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
    since = parameters.count("since", 0)
    entries = bot.events.entries(since, parameters.count("limit", LOG_LIMIT))
    after = entries[-1].number if entries else since
    return {"entries": [entry.to_json() for entry in entries], "first": bot.events.first, "next": after}


def _faults(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
    return {"faults": bot.fault_list.to_json()}


def _add_faults(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
    bot.add_faults([_object(value) for value in _list(body)])
    return _faults(bot, parameters, None)


def _clear_faults(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
    bot.clear_faults()
    return {}


def _quirks(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
    if body is not None:
        bot.quirks.change(_object(body))
    return bot.quirks.to_json()


def _restart(bot: SimulatedBot, parameters: Parameters, body: Any) -> dict[str, Any]:
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


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
