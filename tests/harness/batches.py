"""Batches of events as the Bot API sends them, for tests that write them straight into the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from vkteams_daemon.botapi import events
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.store import vector_counts
from vkteams_daemon.store.backup import verification
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive import kept_counts, message_rows

CHAT = "681869378@chat.agent"
ANNA = {"userId": "a.ivanova@corp.example", "firstName": "Anna", "lastName": "Ivanova"}
SENT = 1_764_000_000  # Unix seconds; the time in the events
_clock = iter(range(1, 10_000_000))

Json = dict[str, Any]


def arrival() -> datetime:
    """A moment later than every one that it has returned before."""
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(_clock))


def batch(*items: Json | str, at: datetime | None = None) -> list[Event]:
    """The events of one answer; a string is an event's JSON as it comes over the wire."""
    body = ",".join(item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items)
    return events.read(f'{{"ok":true,"events":[{body}]}}'.encode("utf-8", "surrogateescape"), at or arrival())


def event(event_id: Any, kind: str, **payload: Any) -> Json:
    """One event."""
    return {"eventId": event_id, "type": kind, "payload": payload}


def new(event_id: Any, msg_id: str | None = None, text: str | None = "hello", chat: str = CHAT, **more: Any) -> Json:
    """A newMessage; its msgId is `m` and the event's id by default."""
    content = {} if text is None else {"text": text}
    payload = {
        "msgId": msg_id or f"m{event_id}",
        "chat": _chat(chat),
        "from": ANNA,
        "timestamp": SENT,
        **content,
        **more,
    }
    return event(event_id, "newMessage", **payload)


def edited(event_id: Any, msg_id: str, text: str, after: int = 30, chat: str = CHAT, **more: Any) -> Json:
    """An editedMessage, `after` seconds after the message was sent."""
    return event(
        event_id, "editedMessage", msgId=msg_id, chat=_chat(chat), text=text, timestamp=SENT,
        editedTimestamp=SENT + after, **{"from": ANNA, **more},
    )  # fmt: skip


def deleted(event_id: Any, msg_id: str, chat: str = CHAT) -> Json:
    """A deletedMessage."""
    return event(event_id, "deletedMessage", msgId=msg_id, chat=_chat(chat), timestamp=SENT)


def ghost(event_id: Any, msg_id: str, chat: str = CHAT) -> Json:
    """The empty newMessage that the API sends after a deletion."""
    return event(
        event_id, "newMessage", msgId=msg_id, chat=_chat(chat), timestamp=SENT, editedTimestamp=SENT, **{"from": ANNA}
    )


def pinned(event_id: Any, msg_id: str, text: str, chat: str = CHAT) -> Json:
    """A pinnedMessage, with the copy of the message that it carries."""
    return event(event_id, "pinnedMessage", msgId=msg_id, chat=_chat(chat), text=text, timestamp=SENT, **{"from": ANNA})


def unpinned(event_id: Any, msg_id: str, chat: str = CHAT) -> Json:
    """An unpinnedMessage."""
    return event(event_id, "unpinnedMessage", msgId=msg_id, chat=_chat(chat), timestamp=SENT)


def members(event_id: Any, kind: str, *user_ids: str, by: str | None = None, chat: str = CHAT) -> Json:
    """A newChatMembers or leftChatMembers."""
    joined = kind == "newChatMembers"
    named = {"newMembers" if joined else "leftMembers": [{"userId": user_id} for user_id in user_ids]}
    other = {"addedBy" if joined else "removedBy": {"userId": by}} if by else {}
    return event(event_id, kind, chat=_chat(chat), **named, **other)


def _chat(chat_id: str) -> Json:
    return {"chatId": chat_id, "type": "group", "title": "Ops"}


DERIVED = (
    "messages", "message_versions", "chats", "users", "chat_members", "chat_user_counts", "chat_hour_counts"
)  # fmt: skip


def rows(url: str, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    """The table's rows as text, in an order that does not depend on how they were written."""
    with psycopg.connect(url) as connection:
        cursor = connection.execute(f"SELECT t::text FROM (SELECT {columns} FROM {table}) AS t ORDER BY 1".encode())
        return cursor.fetchall()


def derived_rows(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that is derived from events."""
    return {table: rows(url, table) for table in DERIVED}


def wrong_counts(connection: psycopg.Connection[Any]) -> list[str]:
    """The tables of counts that do not agree with `messages`."""
    checks = verification.verify(connection)
    return [check.name for check in checks if check.name.startswith("counts") and check.wrong]


def count_vectors(url: str) -> None:
    """Count the vectors again, after a test has written some by hand."""
    with psycopg.connect(url, autocommit=True) as connection:
        for chat_id in kept_counts.chats_to_count(connection):
            vector_counts.recount(connection, chat_id)


def chunks(items: list[Any], sizes: Iterator[int]) -> Iterator[list[Any]]:
    """The items in parts of these sizes."""
    at = 0
    while at < len(items):
        size = next(sizes)
        yield items[at : at + size]
        at += size


def record_lookups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each batch looks up in the database, from now on."""
    counts: list[int] = []
    load = message_rows.load_messages

    def recording(connection: Connection, keys: Any, since: Any) -> Any:
        counts.append(len(keys))
        return load(connection, keys, since)

    monkeypatch.setattr(message_rows, "load_messages", recording)
    return counts
