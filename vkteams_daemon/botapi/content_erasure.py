"""Takes out of payloads what certain people have said, their names, and certain messages. The keys stay.

A payload holds a message, and perhaps others inside it: a reply or a forward repeats a message, which may forward
others again, and a pressed button brings its message. All functions are pure.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vkteams_daemon.botapi import message_parts
from vkteams_daemon.botapi.values import as_list, as_text, fold_id, parse_id, parse_time

_MESSAGE_KEYS = ("msgId", "timestamp", "editedTimestamp")
_CHAT_KEYS = ("chatId", "type", "messageId", "msgId")
_MEMBER_LISTS = ("newMembers", "leftMembers")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


@dataclass(frozen=True, slots=True)
class Erased:
    """What must not be kept.

    Attributes:
        people: by user id in any spelling, up to which moment what they have said is erased; None: also what they say
            from now on.
        messages: the keys of erased messages: chat_id, msg_id.
    """

    people: Mapping[str, datetime | None]
    messages: Collection[tuple[str, str]] = frozenset()
    _until: Mapping[str, datetime | None] = field(init=False)
    _msg_ids: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        until: dict[str, datetime | None] = {}
        for user_id, at in self.people.items():
            other = until.setdefault(fold_id(user_id), at)
            until[fold_id(user_id)] = None if at is None or other is None else max(at, other)
        object.__setattr__(self, "_until", until)
        object.__setattr__(self, "_msg_ids", frozenset(msg_id for _, msg_id in self.messages))

    def covers_person(self, user_id: str | None, at: datetime | None) -> bool:
        """Whether what this person said at a moment is erased. Without a moment, it is if anything of theirs is."""
        if not self.names(user_id):
            return False
        until = self._until[fold_id(user_id or "")]
        return until is None or at is None or at <= until

    def names(self, user_id: str | None) -> bool:
        """Whether anything of this person is erased."""
        return user_id is not None and fold_id(user_id) in self._until

    def covers_message(self, chat_id: str | None, msg_id: str | None) -> bool:
        """Whether this message is erased; a forward does not say in which chat the message was."""
        if msg_id not in self._msg_ids:
            return False
        return chat_id is None or (chat_id, msg_id) in self.messages


@dataclass(frozen=True, slots=True)
class EventContent:
    """What an event says, and how it is stored.

    Attributes:
        chat_id, subject: of the event.
        payload: its payload; None if it has none or cannot be read.
        source: its bytes, if they are stored beside the payload; otherwise "".
        quarantined: whether it could not be read.
        at: its own time, or its arrival.
    """

    chat_id: str | None
    subject: str | None
    payload: Any
    source: str
    quarantined: bool
    at: datetime


def erase_event(erased: Erased, event: EventContent) -> tuple[Any, bool]:
    """The payload of an event without what is erased, and whether anything was erased.

    None as the payload: nothing of the event may stay but its keys.
    """
    payload = event.payload
    in_source = any(
        erased.covers_person(user_id, event.at) and names_anybody(event.source, [user_id]) for user_id in erased.people
    )
    # Whatever kind it is: a reaction may repeat what the message says.
    if erased.covers_message(event.chat_id or "", event.subject):
        return None, True
    if event.quarantined or not isinstance(payload, dict):
        return (None, True) if in_source else (payload, False)
    if is_theirs(erased, payload, event.at):
        return None, True
    try:
        at = parse_time(payload.get("timestamp")) or event.at
        content = _Eraser(erased).fields(payload, event.chat_id, at)
    except RecursionError:
        return None, True
    return content, in_source or content != payload


def is_theirs(erased: Erased, payload: Any, at: datetime) -> bool:
    """Whether an event comes from a person whose words of that time are erased; `at` is its time, or its arrival."""
    if not isinstance(payload, dict):
        return False
    # The message's own time, also for an edit of it: what is erased stays so.
    return erased.covers_person(_user_id(payload.get("from")), parse_time(payload.get("timestamp")) or at)


@dataclass(slots=True)
class MessageContent:
    """The columns of a message, or of one of its versions, that hold what people say."""

    text: str | None
    format: Any
    parts: Any
    forward: Any = None
    thread: Any = None


def erase_message(erased: Erased, content: MessageContent, chat_id: str, sent_at: datetime) -> MessageContent:
    """The columns of a message of somebody else, without what is erased in its mentions, replies and forwards."""
    eraser = _Eraser(erased)
    parts = eraser.value(content.parts, chat_id, sent_at)
    text = _without(content.text, eraser.texts, parts)
    return MessageContent(
        text,
        content.format if text is not None or content.text is None else None,
        parts,
        _Eraser(erased).value(content.forward, None, sent_at),
        _Eraser(erased).value(content.thread, chat_id, sent_at),
    )


def message_ids(value: Any) -> set[str]:
    """The ids of all messages in a payload; those beyond any real depth are left out."""
    ids: set[str] = set()
    with contextlib.suppress(RecursionError):
        ids.update(_message_ids(value))
    return ids


def names_anybody(source: str, user_ids: Collection[str]) -> bool:
    """Whether one of these user ids, in any spelling, stands in the source text of an event that cannot be read."""
    text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), source).replace("\\/", "/")
    lower = text.lower()
    return any(fold_id(user_id) in (lower if "@" in user_id else text) for user_id in user_ids)


class _Eraser:
    """Copies values without what is erased.

    Attributes:
        texts: the texts of the messages that were taken out so far.
    """

    def __init__(self, erased: Erased) -> None:
        self._erased = erased
        self.texts: list[str] = []

    def value(self, value: Any, chat_id: str | None, at: datetime | None) -> Any:
        """A copy of any value; `chat_id` and `at` are the chat and the time of the message around it."""
        if isinstance(value, list):
            return [self.value(each, chat_id, at) for each in value]
        if not isinstance(value, dict):
            return value
        if "msgId" in value or "from" in value:
            chat = value.get("chat")
            chat_id = parse_id(chat.get("chatId")) if isinstance(chat, dict) else chat_id
            at = parse_time(value.get("timestamp"))
            author = _user_id(value.get("from"))
            if self._erased.covers_person(author, at) or self._erased.covers_message(
                chat_id, parse_id(value.get("msgId"))
            ):
                return self._message_keys(value, author)
        if self._erased.covers_person(_user_id(value), at):
            return {"userId": value["userId"]}
        return self.fields(value, chat_id, at)

    def fields(self, value: dict[str, Any], chat_id: str | None, at: datetime | None) -> dict[str, Any]:
        """A copy of an object that is not erased itself."""
        if self._erased.names(parse_id(value.get("chatId"))):
            # A private chat has the person's id, and the person's name as its title.
            return {key: value[key] for key in _CHAT_KEYS if key in value}
        first = len(self.texts)
        inner_chat = None if value.get("type") == "forward" else chat_id
        copy = {
            key: self._members(each, at) if key in _MEMBER_LISTS else self.value(each, inner_chat, at)
            for key, each in value.items()
        }
        if copy.get("text") and copy["text"] in self.texts[first:]:
            # The API may repeat the forwarded text as the message's own.
            copy.pop("text")
            copy.pop("format", None)
        return copy

    def _members(self, members: Any, at: datetime | None) -> list[Any]:
        return [
            self.value(each, None, at)
            for each in as_list(members)
            if not self._erased.covers_person(_user_id(each), at)
        ]

    def _message_keys(self, message: dict[str, Any], author: str | None) -> dict[str, Any]:
        parts = message.get("parts")
        texts = [as_text(message.get("text")), *message_parts.captions(parts), *message_parts.forwarded_texts(parts)]
        self.texts += filter(None, texts)
        keys = {key: message[key] for key in _MESSAGE_KEYS if key in message}
        chat = message.get("chat")
        if isinstance(chat, dict):
            keys["chat"] = {key: chat[key] for key in _CHAT_KEYS if key in chat}
        return keys if author is None else {**keys, "from": {"userId": author}}


def _user_id(value: Any) -> str | None:
    return parse_id(value.get("userId")) if isinstance(value, dict) else None


def _message_ids(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _message_ids(each)
    elif isinstance(value, dict):
        if (msg_id := parse_id(value.get("msgId"))) is not None:
            yield msg_id
        for each in value.values():
            yield from _message_ids(each)


def _without(text: str | None, erased_texts: Collection[str], parts: Any) -> str | None:
    """The column `text` of a message without the texts of the forwards that were taken out of its parts."""
    if text is None or not erased_texts:
        return text
    for each in erased_texts:
        if text == each:
            text = ""
        else:
            before, found, after = f"\n{text}\n".rpartition(f"\n{each}\n")
            text = "\n".join(filter(None, (before.strip("\n"), after.strip("\n")))) if found else text
    kept = [each for each in message_parts.forwarded_texts(parts) if f"\n{each}\n" not in f"\n{text}\n"]
    return "\n".join(filter(None, (text, *kept))) or None
