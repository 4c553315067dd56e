"""The table `events`: how an event becomes its row, and what tells one event from another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
_STORED = (
    "SELECT event_id, type, chat_id, subject, error IS NOT NULL, CASE WHEN error IS NOT NULL THEN raw END FROM events"
    " WHERE bot_id = %s AND generation = %s AND event_id = ANY(%s)"
)

Key = tuple[str, int, int]  # bot_id, generation, event_id
Keyed = tuple[int, Event]  # an event and its generation


@dataclass(frozen=True, slots=True)
class Known:
    """What tells a stored event from another under its id; `raw` of a quarantined one, where it was not erased."""

    identity: tuple[str | None, str | None, str | None]
    quarantined: bool
    raw: bytes | None

    def is_of(self, event: Event) -> bool:
        """Whether the event is the one that is stored."""
        # Of a quarantined event only what came is certain: another version of this program may read more of it.
        if self.quarantined and self.raw is not None:
            return _says_the_same(self.raw, source(event))
        return self.identity == _identity(event)


def _says_the_same(one: bytes, other: bytes) -> bool:
    """Whether it is the same event, however the API has written it."""
    if one == other:
        return True
    try:
        return bool(json.loads(one) == json.loads(other))
    except (ValueError, RecursionError):
        return False


def insert(connection: Connection, bot_id: str, batch: Iterable[Keyed], copy: bool) -> None:
    """Insert events that are not stored yet; with `copy` a pipeline will not do."""
    rows = (_row((bot_id, generation, event.event_id), event) for generation, event in batch)
    if copy:
        EVENTS.copy(connection, "events", rows)
    else:
        EVENTS.execute(connection, _INSERT, rows)


def restore(connection: Connection, readable: Sequence[tuple[Key, Event]]) -> None:
    """Put events that could not be read before in their rows, and end their quarantine."""
    EVENTS.execute(connection, _RESTORE, [_row(key, event) for key, event in readable])


def _row(key: Key, e: Event) -> tuple[Any, ...]:
    return (
        *key, e.type, e.chat_id, e.user_id, e.subject, e.occurred_at, e.received_at, e.payload, e.raw, e.error,
    )  # fmt: skip


def stored(connection: Connection, bot_id: str, generation: int, ids: Sequence[int]) -> dict[int, Known]:
    """What is stored under these ids of this generation."""
    if not ids:
        return {}
    rows = connection.execute(_STORED.encode(), (bot_id, generation, list(ids))).fetchall()
    return {row[0]: Known(tuple(row[1:4]), *row[4:]) for row in rows}


def highest(connection: Connection, bot_id: str, generation: int) -> int:
    """The highest id that is stored of this generation; 0 without one."""
    row = connection.execute(
        "SELECT max(event_id) FROM events WHERE bot_id = %s AND generation = %s", (bot_id, generation)
    ).fetchone()
    return row[0] or 0 if row else 0


def distinct(events: Sequence[Event]) -> tuple[list[Event], dict[int, int]]:
    """Without an event's repetitions in its own batch; a second event under a used id gets a key of its own.

    Returns:
        The events, and for each key that was given the id that it stands for.
    """
    kept: dict[int, Event] = {}
    ids: dict[int, int] = {}
    for event in events:
        first = kept.setdefault(event.event_id, event)
        if first is not event and not same(first, event):
            key = own_key(event)
            ids[key] = event.event_id
            kept.setdefault(key, replace(event, event_id=key))
    return list(kept.values()), ids


def same(one: Event, other: Event) -> bool:
    """Whether two events under one id are one event."""
    if one.error or other.error:
        return source(one) == source(other)
    return _identity(one) == _identity(other)


def own_key(event: Event) -> int:
    """The key of an event that cannot have its id: the negative hash of its bytes."""
    return hashed_id(source(event))


def source(event: Event) -> bytes:
    """Its bytes as they came."""
    return event.raw or event.json.encode()


def _identity(event: Event) -> tuple[str | None, str | None, str | None]:
    return event.type, event.chat_id, event.subject


def quarantined(event: Event, reason: str) -> Event:
    """The event as bytes, without what the database may have refused of it."""
    return replace(event, json="", payload=None, facts=Facts(), raw=source(event), error=reason)
