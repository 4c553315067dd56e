"""Makes a person of the simulated installation say something, or edit what was said."""

from __future__ import annotations

import time
from typing import Any

from vkteams_daemon.simulator.event_log import Draft
from vkteams_daemon.simulator.methods import quote
from vkteams_daemon.simulator.parameters import Refused
from vkteams_daemon.simulator.world import World

_TEXTS = {
    "chatId", "userId", "text", "firstName", "lastName", "nick", "chatType", "title", "msgId",
    "replyMsgId", "forwardChatId", "forwardMsgId",
}  # fmt: skip
_OTHERS = {"format": dict, "parts": list}


def said(world: World, body: dict[str, Any]) -> Draft:
    """The event of what is said.

    Args:
        world: what is known; it learns of the chat and the person, unless it is refused.
        body: as POST /simulator/messages takes it; with a msgId that message is edited.

    Raises:
        Refused: something is missing, unknown or of the wrong type.
    """
    _check(body)
    quotes = _quotes(world, body)
    edited = world.message(body["chatId"], body["msgId"]) if body.get("msgId") else None
    # Nothing is refused from here on.
    chat = world.chat(body["chatId"], body.get("chatType", ""), body.get("title", ""))
    person = world.user(body["userId"], **{key: body.get(key) for key in ("firstName", "lastName", "nick")})
    now = int(time.time())
    payload: dict[str, Any] = {"msgId": body.get("msgId"), "chat": chat.shown(), "from": dict(person)}
    if edited is not None:
        payload |= {"timestamp": edited.get("timestamp", now), "editedTimestamp": now}
    else:
        payload |= {"msgId": world.new_msg_id(), "timestamp": now}
    if chat.topic:
        payload["parent_topic"] = chat.topic
    if "text" in body:
        payload["text"] = body["text"]
    if body.get("format"):
        payload["format"] = body["format"]
    if parts := [*body.get("parts", ()), *quotes]:
        payload["parts"] = parts
    return Draft("newMessage" if edited is None else "editedMessage", payload)


def _check(body: dict[str, Any]) -> None:
    if unknown := body.keys() - _TEXTS - _OTHERS.keys():
        raise Refused(f"Bad request: unknown {', '.join(sorted(unknown))}")
    for name, value in body.items():
        if not isinstance(value, _OTHERS.get(name, str)):
            raise Refused(f"Bad request: {name} is of the wrong type")
    for name in ("chatId", "userId"):
        if not body.get(name):
            raise Refused(f"Missing required parameter '{name}'")
    if not any(name in body for name in ("text", "parts", "forwardMsgId")):
        raise Refused("Missing required parameter 'text'")


def _quotes(world: World, body: dict[str, Any]) -> list[dict[str, Any]]:
    quoted = []
    if reply := body.get("replyMsgId"):
        quoted.append(quote("reply", world.message(body["chatId"], reply)))
    if forward := body.get("forwardMsgId"):
        quoted.append(quote("forward", world.message(body.get("forwardChatId") or body["chatId"], forward)))
    return quoted
