"""Events as the Bot API sends them: every type, every part, and the known variations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

ARRIVAL = datetime(2026, 11, 24, 12, 0, 0, 250000, tzinfo=UTC)

GROUP = {"chatId": "681869378@chat.agent", "type": "group", "title": "Ops"}
ANNA = {"userId": "a.ivanova@corp.example", "firstName": "Anna", "lastName": "Ivanova"}
PETR = {"userId": "p.petrov@corp.example", "firstName": "Petr"}
BOT = {"userId": "1000000001", "nick": "opsbot", "firstName": "OpsBot"}
KEYBOARD = {
    "type": "inlineKeyboardMarkup",
    "payload": [[{"text": "Ack", "callbackData": "ack:7", "style": "primary"}]],
}
MESSAGE = {"msgId": "7576322310144000017", "chat": GROUP, "from": ANNA, "timestamp": 1764000000}
QUOTED = {"msgId": "7576322052445962243", "from": BOT, "text": "Alert #7", "timestamp": 1763999940}
REPLY = {"type": "reply", "payload": {"message": QUOTED}}
FORWARD = {"type": "forward", "payload": {"message": QUOTED}}
TOPIC = {"chatId": "681869378@chat.agent", "messageId": 7576322310144000017, "type": "message"}
FILE = {"type": "file", "payload": {"fileId": "0dC7", "type": "image", "caption": "the rack"}}

SAMPLES: dict[str, tuple[str, dict[str, Any]]] = {
    "a message with formats, a mention and a reply": ("newMessage", MESSAGE | {
        "text": "Docs here @[p.petrov@corp.example]",
        "format": {
            "bold": [{"offset": 0, "length": 4}],
            "link": [{"offset": 5, "length": 4, "url": "https://corp.example/d"}],
            "mention": [{"offset": 10, "length": 24}],
        },
        "parts": [{"type": "mention", "payload": PETR}, REPLY],
    }),
    "a message in a thread": ("newMessage", {
        "msgId": "7576322735345762309", "chat": {"chatId": "693938330@chat.agent", "type": "group"}, "from": ANNA,
        "timestamp": 1764000099, "text": "in thread", "parent_topic": TOPIC,
    }),
    "a private message": ("newMessage", MESSAGE | {
        "chat": {"chatId": "a.ivanova@corp.example", "type": "private"}, "text": "hello",
    }),
    "a message with formats in snake_case and camelCase": ("newMessage", MESSAGE | {
        "text": "a b c", "format": {
            "inline_code": [{"offset": 0, "length": 1}], "inlineCode": [{"offset": 2, "length": 1}],
            "pre": [{"offset": 4, "length": 1, "code": "py", "language": "py"}], "ordered_list": "odd",
        },
    }),
    "a file with a caption and no text": ("newMessage", MESSAGE | {"parts": [FILE]}),
    "a sticker": ("newMessage", MESSAGE | {"parts": [{"type": "sticker", "payload": {"fileId": "2b"}}]}),
    "a voice message": ("newMessage", MESSAGE | {"parts": [{"type": "voice", "payload": {"fileId": "3c"}}]}),
    "a forward without text": ("newMessage", MESSAGE | {"parts": [FORWARD]}),
    "a forward of two messages": ("newMessage", MESSAGE | {
        "text": "look", "parts": [FORWARD, {"type": "forward", "payload": {"message": QUOTED | {"text": "Alert #8"}}}],
    }),
    "a message with a keyboard": ("newMessage", MESSAGE | {"text": "choose", "parts": [KEYBOARD]}),
    "a part of an unknown type": ("newMessage", MESSAGE | {"text": "x", "parts": [{"type": "poll", "payload": [1]}]}),
    "a message without an author": ("newMessage", {k: v for k, v in MESSAGE.items() if k != "from"} | {"text": "x"}),
    "a message whose msgId is a number": ("newMessage", MESSAGE | {"msgId": 7576322310144000017, "text": "x"}),
    "a message whose msgId is no number": ("newMessage", MESSAGE | {"msgId": "dC-7", "text": "x"}),
    "an edit": ("editedMessage", MESSAGE | {"editedTimestamp": 1764000030, "text": "Docs moved"}),
    "an edit with parts": ("editedMessage", MESSAGE | {
        "editedTimestamp": 1764000031, "text": "Docs moved", "parts": [REPLY],
    }),
    "a deletion": ("deletedMessage", {
        "msgId": "7576322310144000017", "chat": {"chatId": "a.ivanova@corp.example", "type": "private"},
        "timestamp": 1764000000,
    }),
    "the ghost after a deletion": ("newMessage", MESSAGE | {"editedTimestamp": 1764000040}),
    "a pin": ("pinnedMessage", MESSAGE | {"text": "Docs moved"}),
    "an unpin": ("unpinnedMessage", {"msgId": "7576322310144000017", "chat": GROUP, "timestamp": 1764000000}),
    "members who come": ("newChatMembers", {"chat": GROUP, "newMembers": [PETR, ANNA], "addedBy": ANNA}),
    "members who come by themselves": ("newChatMembers", {"chat": GROUP, "newMembers": [PETR]}),
    "members who go": ("leftChatMembers", {"chat": GROUP, "leftMembers": [PETR], "removedBy": ANNA}),
    "members who go by themselves": ("leftChatMembers", {"chat": GROUP, "leftMembers": [PETR]}),
    "a new title": ("changedChatInfo", {"chat": GROUP, "title": "Operations"}),
    "a new title by another name": ("changedChatInfo", {"chat": GROUP, "newTitle": "Operations"}),
    "a new description": ("changedChatInfo", {"chat": GROUP, "newAbout": "all of it"}),
    "a button": ("callbackQuery", {
        "queryId": "SVR:7:12-1764000090", "callbackData": "ack:7", "from": ANNA,
        "message": {
            "msgId": "7576322310144000018", "chat": GROUP, "from": BOT, "text": "Alert #7", "timestamp": 1764000040,
            "parts": [KEYBOARD],
        },
    }),
    "a button whose message is wrapped": ("callbackQuery", {
        "queryId": "SVR:7:12-1764000091", "callbackData": "ack:7", "from": ANNA,
        "message": {"eventId": 6, "type": "newMessage", "payload": MESSAGE | {"from": BOT, "text": "Alert #7"}},
    }),
    "an unknown type": ("chatArchived", {"chat": GROUP, "from": ANNA, "timestamp": 1764000000, "why": ["x"]}),
}  # fmt: skip


def event(event_id: Any, kind: Any, payload: Any) -> dict[str, Any]:
    """One element of `events`."""
    return {"eventId": event_id, "type": kind, "payload": payload}


def body(*elements: dict[str, Any] | bytes) -> bytes:
    """An answer of events/get with these elements; bytes are inserted as they are."""
    return joined([e if isinstance(e, bytes) else json.dumps(e, ensure_ascii=False).encode() for e in elements])


def joined(elements: Sequence[bytes]) -> bytes:
    """An answer of events/get with these raw elements."""
    return b'{"ok": true, "events": [' + b", ".join(elements) + b"]}"


def message(event_id: int, text: str = "привет", **payload: Any) -> dict[str, Any]:
    """A plain newMessage whose msgId is its eventId."""
    return event(event_id, "newMessage", MESSAGE | {"msgId": str(event_id), "text": text} | payload)
