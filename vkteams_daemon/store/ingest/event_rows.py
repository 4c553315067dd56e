"""The table `events`: rows of events, and the rules for when two events are the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from vkteams_daemon.botapi.events import Event, hashed_id
from vkteams_daemon.botapi.facts import Facts
from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection

EVENTS = ColumnSet((
    ("bot_id", "text"), ("generation", "int4"), ("event_id", "int8"), ("type", "text"), ("chat_id", "text"),
    ("user_id", "text"), ("subject", "text"), ("occurred_at", "timestamptz"), ("received_at", "timestamptz"),
    ("payload", "jsonb"), ("raw", "bytea"), ("error", "text"),
))  # fmt: skip

_INSERT = (
    "INSERT INTO events (bot_id, generation, event_id, type, chat_id, user_id, subject, occurred_at, received_at,"
    " payload, raw, error)"
    " SELECT bot_id, generation, event_id, type, chat_id, user_id, subject, occurred_at, received_at,"
    " payload::jsonb, raw, error FROM {incoming}"
)
_RESTORE = (
    "UPDATE events e SET type = i.type, chat_id = i.chat_id, user_id = i.user_id, subject = i.subject,"
    " occurred_at = i.occurred_at, payload = i.payload::jsonb, raw = i.raw, error = NULL"
    " FROM (SELECT * FROM {incoming}) AS i WHERE e.bot_id = i.bot_id AND e.generation = i.generation"
    " AND e.event_id = i.event_id AND e.error IS NOT NULL AND e.raw IS NOT NULL"
)
_SELECT_IDENTITIES = (
    "SELECT event_id, type, chat_id, subject, error IS NOT NULL, CASE WHEN error IS NOT NULL THEN raw END FROM events"
    " WHERE bot_id = %s AND generation = %s AND event_id = ANY(%s)"
)

Key = tuple[str, int, int]  # bot_id, generation, event_id
GenerationEvent = tuple[int, Event]  # an event with its generation


@dataclass(frozen=True, slots=True)
class StoredIdentity:
    """What identifies a stored event beside its id.

    Attributes:
        identity: type, chat_id and subject.
        raw: the bytes of a quarantined event; None for other events and after erasure.
    """

    identity: tuple[str | None, str | None, str | None]
    quarantined: bool
    raw: bytes | None

    def matches(self, event: Event) -> bool:
        """Whether the event is the stored one."""
        # Compare the bytes of a quarantined event: another version of this program may read other fields from them.
        if self.quarantined and self.raw is not None:
            return _same_json(self.raw, source_bytes(event))
        return self.identity == _identity(event)


def _same_json(one: bytes, other: bytes) -> bool:
    """Whether both are the same JSON value, even if the API has formatted them differently."""
    if one == other:
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False


def insert(connection: Connection, bot_id: str, batch: Iterable[GenerationEvent], copy: bool) -> Any:
    """Insert events that are not stored yet; returns the cursor.

    With `copy` the connection must not be in a pipeline.
    """
    rows = (_row((bot_id, generation, event.event_id), event) for generation, event in batch)
    if copy:
        return EVENTS.copy(connection, "events", rows)
    return EVENTS.execute(connection, _INSERT, rows)


def restore(connection: Connection, events: Sequence[tuple[Key, Event]]) -> None:
    """Fill the rows of quarantined events that this program can read now, and end their quarantine."""
    EVENTS.execute(connection, _RESTORE, [_row(key, event) for key, event in events])


def _row(key: Key, e: Event) -> tuple[Any, ...]:
    return (
        *key, e.type, e.chat_id, e.user_id, e.subject, e.occurred_at, e.received_at, e.payload, e.raw, e.error,
    )  # fmt: skip


def stored_identities(
    connection: Connection, bot_id: str, generation: int, ids: Sequence[int]
) -> dict[int, StoredIdentity]:
    """The stored events of this generation that have one of these ids, by id."""
    if not ids:
        return {}
    rows = connection.execute(_SELECT_IDENTITIES.encode(), (bot_id, generation, list(ids))).fetchall()
    return {row[0]: StoredIdentity(tuple(row[1:4]), *row[4:]) for row in rows}


def highest_id(connection: Connection, bot_id: str, generation: int) -> int:
    """The highest stored id of this generation; 0 if there is none."""
    row = connection.execute(
        "SELECT pg_catalog.max(event_id) FROM events WHERE bot_id = %s AND generation = %s", (bot_id, generation)
    ).fetchone()
    return row[0] or 0 if row else 0


def deduplicate(events: Sequence[Event]) -> tuple[list[Event], dict[int, int]]:
    """Drop repetitions within a batch. A different event with an id that the batch has used gets the key `hash_key`.

    Returns:
        The events, and the id of the API by the hash key that replaces it.
    """
    events_by_key: dict[int, Event] = {}
    api_ids: dict[int, int] = {}
    for event in events:
        first = events_by_key.setdefault(event.event_id, event)
        if first is not event and not is_same_event(first, event):
            key = hash_key(event)
            api_ids[key] = event.event_id
            events_by_key.setdefault(key, replace(event, event_id=key))
    return list(events_by_key.values()), api_ids


def is_same_event(one: Event, other: Event) -> bool:
    """Whether two events with one id are the same event."""
    if one.error or other.error:
        return source_bytes(one) == source_bytes(other)
    return _identity(one) == _identity(other)


def hash_key(event: Event) -> int:
    """The key of an event that cannot keep its id: the negative hash of its bytes."""
    return hashed_id(source_bytes(event))


def source_bytes(event: Event) -> bytes:
    """The event's bytes as they arrived."""
    return event.raw or event.json.encode()


def _identity(event: Event) -> tuple[str | None, str | None, str | None]:
    return event.type, event.chat_id, event.subject


def as_quarantined(event: Event, reason: str) -> Event:
    """The event reduced to its bytes, without the fields that the database may have refused."""
    return replace(event, json="", payload=None, facts=Facts(), raw=source_bytes(event), error=reason)
