"""Reads the answer of events/get into events. A bad event raises nothing.

An event that cannot be read becomes an `Event` with `error`. It is stored and counted as quarantined, and after an
upgrade it can be read again.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from msgspec import Struct

from vkteams_daemon.botapi.body import Element, split
from vkteams_daemon.botapi.facts import Facts, Unreadable, derive, subject_of
from vkteams_daemon.botapi.failures import refusal
from vkteams_daemon.botapi.values import parse_id, parse_time
from vkteams_daemon.errors import ApiProtocolError

MAX_EVENT_ID = 2**63 - 1
_ENVELOPE = {"eventId", "type", "payload"}


class Event(Struct, frozen=True, gc=False):
    """One event as it is stored.

    Attributes:
        event_id: the API's id, above zero. If that cannot be used, a negative hash of the event.
        type: the API's name of its type; None if it has none.
        chat_id, user_id: its chat and its author; None if unknown.
        subject: distinguishes it from another event with the same id: its msgId, its queryId, or the members' ids.
        occurred_at: its own time, or its arrival.
        json: the whole event as text that jsonb accepts; "" if there is no such text.
        payload: the part of `json` that is its payload; None if it has none.
        raw: its bytes as received, if `json` lacks something of them; otherwise None.
        error: why it is quarantined, or None.
        facts: the facts that are derived from it.
    """

    event_id: int
    type: str | None
    chat_id: str | None
    user_id: str | None
    subject: str | None
    occurred_at: datetime
    received_at: datetime
    json: str
    payload: str | None
    raw: bytes | None
    error: str | None
    facts: Facts

    @property
    def numbered(self) -> bool:
        """Whether its id comes from the API. Only such an event moves the cursor."""
        return self.event_id > 0


def read(body: bytes, received_at: datetime) -> list[Event]:
    """The events of one answer, in the order of arrival.

    Raises:
        ApiProtocolError: the answer is incomplete. No part of it may be used.
        ApiRefused, Unauthorised, RateLimited: the answer has `ok: false`.
    """
    answer = split(body)
    if answer.fields.get("ok") is False:
        raise refusal(answer.fields.get("description"))
    if answer.elements is None:
        raise ApiProtocolError("the answer to events/get has no events")
    return [_event(element, received_at) for element in answer.elements]


def _event(element: Element, received_at: datetime) -> Event:
    value, raw, error = element.value, element.raw, element.error
    source = raw or element.json.encode()
    if error is None and not isinstance(value, dict):
        error = "it is not an object"
    envelope: dict[str, Any] = value if isinstance(value, dict) else {}
    kind, error = _name(envelope.get("type"), error)
    facts, subject = Facts(), None
    payload = envelope.get("payload")
    if error is None:
        try:
            if not isinstance(payload, dict):
                raise Unreadable("its payload is not an object")
            facts = derive(kind, payload, received_at)
            subject = subject_of(payload)
        except Unreadable as unreadable:
            error = str(unreadable)
        except RecursionError:
            error = "it is nested too deeply"
    if raw is None and (error or not envelope.keys() <= _ENVELOPE):
        raw = source
    return Event(
        event_id=_event_id(envelope.get("eventId"), source),
        type=kind,
        chat_id=facts.chat_id,
        user_id=facts.user_id,
        subject=subject,
        occurred_at=facts.occurred_at or _own_time(payload) or received_at,
        received_at=received_at,
        json=element.json,
        payload=element.payload,
        raw=raw,
        error=error,
        facts=facts,
    )


def _name(value: Any, error: str | None) -> tuple[str | None, str | None]:
    if isinstance(value, str) and len(value) <= 200:
        return value, error
    return None, error or "its type is not a name"


def _own_time(payload: Any) -> datetime | None:
    """The time of an event that cannot be read otherwise: of the edit, or else of the message."""
    if not isinstance(payload, dict):
        return None
    return parse_time(payload.get("editedTimestamp")) or parse_time(payload.get("timestamp"))


def _event_id(value: Any, source: bytes) -> int:
    """The API's id, if a bigint can store it and a cursor can pass it; otherwise the hash of the event."""
    text = parse_id(value)
    if text is not None and text.isascii() and text.isdigit() and len(text) <= 19 and 0 < int(text) <= MAX_EVENT_ID:
        return int(text)
    return hashed_id(source)


def hashed_id(source: bytes) -> int:
    """A negative id of 63 bits for an event whose own id cannot be used. The same bytes give the same id."""
    return -1 - (int.from_bytes(hashlib.sha256(source).digest()[:8], "big") >> 1)
