"""Derives facts about chats, users, messages and members from the payload of an event.

`derive` is a pure function of type, payload and arrival, so that all facts can be derived again from stored events. It
ignores values of a wrong type. An event is `Unreadable` only if it lacks a field that it needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from msgspec import Struct

from vkteams_daemon.botapi import message_parts
from vkteams_daemon.botapi.message_parts import quoted_messages
from vkteams_daemon.botapi.values import as_list, as_text, known_name, parse_id, parse_time

MAX_ID = 255  # characters; far above any real id, and far below the limit of an index row


class Unreadable(ValueError):
    """The event lacks a field without which it cannot be read."""


class Chat(Struct, frozen=True, gc=False):
    """A chat as this event shows it. None: the event does not say."""

    chat_id: str
    type: str | None = None
    title: str | None = None
    parent_chat_id: str | None = None
    parent_msg_id: str | None = None


class User(Struct, frozen=True, gc=False):
    """A user as this event shows them. None: the event does not say."""

    user_id: str
    first_name: str | None = None
    last_name: str | None = None
    nick: str | None = None
    is_bot: bool | None = None


class Content(Struct, frozen=True, gc=False):
    """The content of a message from `edited_at` on; None means from the beginning."""

    user_id: str | None
    edited_at: datetime | None
    text: str | None
    format: Any = None
    parts: Any = None
    reply_to_msg_id: str | None = None
    forward: Any = None
    thread: Any = None


class MessageFact(Struct, frozen=True, gc=False):
    """One thing that happened to one message.

    Attributes:
        at: the arrival of the event.
        sent_at: the message's own time, or `at`.
        content: set by newMessage, editedMessage and pinnedMessage; otherwise None.
        quoted: the content is the copy in a pinnedMessage. It fills in what is missing, and never makes a version.
    """

    chat_id: str
    msg_id: str
    at: datetime
    sent_at: datetime
    content: Content | None = None
    deleted: bool = False
    pinned: bool | None = None
    quoted: bool = False


class Membership(Struct, frozen=True, gc=False):
    """Someone joined a chat (`joined`) or left it. `at` is the event's arrival, since these events have no time."""

    chat_id: str
    user_id: str
    joined: bool
    at: datetime
    by: str | None


class Facts(Struct, frozen=True, gc=False):
    """All facts of one event."""

    chat_id: str | None = None
    user_id: str | None = None
    occurred_at: datetime | None = None
    chats: tuple[Chat, ...] = ()
    users: tuple[User, ...] = ()
    message: MessageFact | None = None
    members: tuple[Membership, ...] = ()


def subject_of(payload: dict[str, Any]) -> str | None:
    """Distinguishes two events with one id: the id of the message, of the query, or of the members."""
    subject = parse_id(payload.get("msgId")) or parse_id(payload.get("queryId"))
    if subject:
        return subject[:MAX_ID]
    members = [m.user_id for key in ("newMembers", "leftMembers") for m in _users(payload.get(key))]
    return ",".join(sorted(members))[:MAX_ID] or None


def derive(kind: str | None, payload: dict[str, Any], received_at: datetime) -> Facts:
    """The facts of an event of type `kind`.

    Raises:
        Unreadable: an event of a known type lacks its chat or its message, or an id is longer than MAX_ID.
    """
    carrier = _carrier(kind, payload)
    chat = _chat(carrier)
    author = read_user(payload.get("from"))
    users = tuple(dict.fromkeys(_people(author, payload, carrier)))
    message: MessageFact | None = None
    members: tuple[Membership, ...] = ()
    if kind in MESSAGE_EVENTS:
        if chat is None:
            raise Unreadable(f"{kind} without a chat")
        message = _message(kind, payload, chat, author, received_at)
    elif kind in ("newChatMembers", "leftChatMembers"):
        if chat is None:
            raise Unreadable(f"{kind} without a chat")
        members = tuple(_memberships(kind, payload, chat.chat_id, received_at))
    elif kind == "changedChatInfo" and chat is not None:
        title = known_name(payload.get("title")) or known_name(payload.get("newTitle"))
        chat = Chat(chat.chat_id, chat.type, title or chat.title, chat.parent_chat_id, chat.parent_msg_id)
    facts = Facts(
        chat_id=chat.chat_id if chat else None,
        user_id=author.user_id if author else None,
        occurred_at=parse_time(payload.get("editedTimestamp")) or parse_time(payload.get("timestamp")),
        chats=(chat,) if chat else (),
        users=users,
        message=message,
        members=members,
    )
    _check_lengths(facts)
    return facts


MESSAGE_EVENTS = {"newMessage", "editedMessage", "deletedMessage", "pinnedMessage", "unpinnedMessage"}


_WITH_CONTENT = {"newMessage", "editedMessage", "pinnedMessage"}


def _carrier(kind: str | None, payload: dict[str, Any]) -> dict[str, Any]:
    """The object that has the chat. A callbackQuery has it in its message, itself perhaps wrapped as an event."""
    if kind != "callbackQuery" or "chat" in payload:
        return payload
    message = payload.get("message")
    inner = message.get("payload") if isinstance(message, dict) and "chat" not in message else message
    return inner if isinstance(inner, dict) else payload


def _message(kind: str, payload: dict[str, Any], chat: Chat, author: User | None, received_at: datetime) -> MessageFact:
    msg_id = parse_id(payload.get("msgId"))
    if msg_id is None:
        raise Unreadable(f"{kind} without a msgId")
    with_content = kind in _WITH_CONTENT and _has_content(payload)
    return MessageFact(
        chat_id=chat.chat_id,
        msg_id=msg_id,
        at=received_at,
        sent_at=parse_time(payload.get("timestamp")) or received_at,
        content=_content(kind, payload, author, received_at) if with_content else None,
        deleted=kind == "deletedMessage",
        pinned={"pinnedMessage": True, "unpinnedMessage": False}.get(kind),
        quoted=kind == "pinnedMessage",
    )


def _has_content(payload: dict[str, Any]) -> bool:
    """False for the ghost that follows a deletion: an edited newMessage without text and parts."""
    return bool(payload.get("text") or payload.get("parts") or "editedTimestamp" not in payload)


def _content(kind: str, payload: dict[str, Any], author: User | None, received_at: datetime) -> Content:
    edited_at = parse_time(payload.get("editedTimestamp"))
    parts = as_list(payload.get("parts")) or None
    topic = payload.get("parent_topic")
    return Content(
        user_id=author.user_id if author else None,
        edited_at=edited_at or (received_at if kind == "editedMessage" else None),
        text=_searchable_text(payload, parts),
        format=payload.get("format") if isinstance(payload.get("format"), dict) else None,
        parts=parts,
        reply_to_msg_id=next((parse_id(message.get("msgId")) for message in quoted_messages(parts, "reply")), None),
        forward=list(quoted_messages(parts, "forward")) or None if parts else None,
        thread=topic if isinstance(topic, dict) else None,
    )


def _searchable_text(payload: dict[str, Any], parts: list[Any] | None) -> str | None:
    """The message's own text, then the captions and the forwarded texts that it does not repeat."""
    texts = [as_text(payload.get("text"))]
    if not parts:
        return texts[0] or None
    texts += message_parts.captions(parts)
    texts += message_parts.forwarded_texts(parts)
    return "\n".join(dict.fromkeys(filter(None, texts))) or None


def _memberships(kind: str, payload: dict[str, Any], chat_id: str, at: datetime) -> Iterator[Membership]:
    joined = kind == "newChatMembers"
    by = read_user(payload.get("addedBy" if joined else "removedBy"))
    for user in _users(payload.get("newMembers" if joined else "leftMembers")):
        yield Membership(chat_id, user.user_id, joined, at, by.user_id if by else None)


def _chat(carrier: dict[str, Any]) -> Chat | None:
    value = carrier.get("chat")
    chat_id = parse_id(value.get("chatId")) if isinstance(value, dict) else None
    if chat_id is None or not isinstance(value, dict):
        return None
    topic = carrier.get("parent_topic")
    parent = topic if isinstance(topic, dict) else {}
    return Chat(chat_id, as_text(value.get("type")), known_name(value.get("title")),
                parse_id(parent.get("chatId")), parse_id(parent.get("messageId")))  # fmt: skip


def read_user(value: Any) -> User | None:
    """The user whom a value of a payload describes; None if it has no user id."""
    user_id = parse_id(value.get("userId")) if isinstance(value, dict) else None
    if user_id is None:
        return None
    bot = value.get("isBot")
    return User(
        user_id,
        known_name(value.get("firstName")),
        known_name(value.get("lastName")),
        known_name(value.get("nick")),
        bot if isinstance(bot, bool) else None,
    )


def _users(values: Any) -> list[User]:
    return [user for user in map(read_user, as_list(values)) if user]


def _people(author: User | None, payload: dict[str, Any], carrier: dict[str, Any]) -> Iterator[User]:
    """Every person whom the event names, the author first."""
    if author:
        yield author
    values = [payload[key] for key in ("addedBy", "removedBy") if key in payload]
    if carrier is not payload:
        values.append(carrier.get("from"))
    for key in ("newMembers", "leftMembers"):
        values += as_list(payload.get(key))
    parts = carrier.get("parts")
    if parts and isinstance(parts, list):
        values += message_parts.people(parts)
    yield from _users(values)


def _check_lengths(facts: Facts) -> None:
    ids = [facts.chat_id, facts.user_id]
    ids += [user.user_id for user in facts.users]
    for chat in facts.chats:
        ids += (chat.parent_chat_id, chat.parent_msg_id)
    if facts.message:
        ids.append(facts.message.msg_id)
    if max(map(len, filter(None, ids)), default=0) > MAX_ID:
        raise Unreadable(f"an id is longer than {MAX_ID} characters")
