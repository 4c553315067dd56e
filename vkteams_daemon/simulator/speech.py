"""Makes a person of the simulated installation send a message, or edit one."""

from __future__ import annotations

import time
from typing import Any

from vkteams_daemon.simulator.event_log import Draft
from vkteams_daemon.simulator.methods import quote
from vkteams_daemon.simulator.parameters import Refused
from vkteams_daemon.simulator.world import World

# The fields of POST /simulator/messages.
TEXT_FIELDS = {
    "chatId", "userId", "text", "firstName", "lastName", "nick", "chatType", "title", "msgId",
    "replyMsgId", "forwardChatId", "forwardMsgId",
}  # fmt: skip
JSON_FIELDS = {"format": dict, "parts": list}


def draft_message(world: World, body: dict[str, Any]) -> Draft:
    """The event of a message that a person sends.

    Args:
        world: learns of the chat and the person, unless the message is refused.
        body: the body of POST /simulator/messages. With a msgId it edits that message.

    Raises:
        Refused: a field is missing, unknown or of the wrong type.
    """
    _check(body)
    quotes = _quotes(world, body)
    original = world.message(body["chatId"], body["msgId"]) if body.get("msgId") else None
    # Nothing is refused from here on.
    chat = world.chat(body["chatId"], body.get("chatType", ""), body.get("title", ""))
    person = world.user(body["userId"], **{key: body.get(key) for key in ("firstName", "lastName", "nick")})
    now = int(time.time())
    payload: dict[str, Any] = {"msgId": body.get("msgId"), "chat": chat.to_json(), "from": dict(person)}
    if original is not None:
        payload |= {"timestamp": original.get("timestamp", now), "editedTimestamp": now}
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
    return Draft("newMessage" if original is None else "editedMessage", payload)


def _check(body: dict[str, Any]) -> None:
    if unknown := body.keys() - TEXT_FIELDS - JSON_FIELDS.keys():
        raise Refused(f"Bad request: unknown {', '.join(sorted(unknown))}")
    for name, value in body.items():
        if not isinstance(value, JSON_FIELDS.get(name, str)):
            raise Refused(f"Bad request: {name} is of the wrong type")
    for name in ("chatId", "userId"):
        if not body.get(name):
            raise Refused(f"Missing required parameter '{name}'")
    if not any(name in body for name in ("text", "parts", "forwardMsgId")):
        raise Refused("Missing required parameter 'text'")


def _quotes(world: World, body: dict[str, Any]) -> list[dict[str, Any]]:
    parts = []
    if reply := body.get("replyMsgId"):
        parts.append(quote("reply", world.message(body["chatId"], reply)))
    if forward := body.get("forwardMsgId"):
        parts.append(quote("forward", world.message(body.get("forwardChatId") or body["chatId"], forward)))
    return parts
