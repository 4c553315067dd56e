"""The trial write: when an event cannot be written, harmless events are written and rolled back.

If such an event cannot be written either, the fault is this program's or the database's, and not the event's.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from vkteams_daemon.botapi import events
from vkteams_daemon.botapi.events import Event

CHAT = "vkteams-trial"
MESSAGE = "vkteams-trial"
_SENT = 1_700_000_000  # Unix seconds
_USER = {"userId": "vkteams-trial", "firstName": "Trial"}
_CHAT = {"chatId": CHAT, "type": "group", "title": "Trial"}
_ORIGINAL: dict[str, Any] = {"msgId": MESSAGE, "chat": _CHAT, "from": _USER, "timestamp": _SENT, "text": "trial"}
_EDIT = _ORIGINAL | {"text": "trial, edited", "editedTimestamp": _SENT + 60}
_SECOND_EDIT = _ORIGINAL | {"text": "trial, edited again", "editedTimestamp": _SENT + 120}
_MESSAGE_KEY: dict[str, Any] = {"msgId": MESSAGE, "chat": _CHAT, "timestamp": _SENT}
_NEW, _EDITED = ("newMessage", _ORIGINAL), ("editedMessage", _EDIT)
# An event about a message reads the stored row, so the events that make that row come first.
_SEQUENCES: dict[str | None, tuple[tuple[str, dict[str, Any]], ...]] = {
    "newMessage": (_NEW,),
    "editedMessage": (_NEW, _EDITED, ("editedMessage", _SECOND_EDIT)),
    "deletedMessage": (_NEW, _EDITED, ("deletedMessage", _MESSAGE_KEY)),
    "pinnedMessage": (_NEW, ("pinnedMessage", _ORIGINAL)),
    "unpinnedMessage": (_NEW, ("pinnedMessage", _ORIGINAL), ("unpinnedMessage", _MESSAGE_KEY)),
    "newChatMembers": (("newChatMembers", {"chat": _CHAT, "newMembers": [_USER], "addedBy": _USER}),),
    "leftChatMembers": (("leftChatMembers", {"chat": _CHAT, "leftMembers": [_USER], "removedBy": _USER}),),
    "changedChatInfo": (("changedChatInfo", {"chat": _CHAT, "new": "Trial", "old": "trial", "changedBy": _USER}),),
    "callbackQuery": (
        ("callbackQuery", {"queryId": MESSAGE, "from": _USER, "callbackData": "trial", "message": _ORIGINAL}),
    ),
}
_ANY: tuple[tuple[str, dict[str, Any]], ...] = (("vkteamsTrial", {"chat": _CHAT}),)


def events_like(event_type: str | None) -> list[Event]:
    """Harmless events, the last of this type. Each is to be written by itself, in this order.

    They have no id of the API, so they take no id of an event.
    """
    answer = {"events": [{"type": kind, "payload": payload} for kind, payload in _SEQUENCES.get(event_type, _ANY)]}
    return events.read(json.dumps(answer).encode(), datetime.now(UTC))
