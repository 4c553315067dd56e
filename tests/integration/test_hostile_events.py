"""Every event is stored, or quarantined with its bytes. The rest of its batch is stored, and the cursor moves on."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.harness.hostile import FRAGMENTS, Hostile, hostile_events
from tests.harness.samples import ARRIVAL, MESSAGE, SAMPLES, body, event, message
from tests.harness.scale import drawn
from vkteams_daemon.botapi.events import Event, read
from vkteams_daemon.store.ingest.writer import Writer


@pytest.fixture
def writer(database_url: str) -> Iterator[Writer]:
    made = Writer(functools.partial(psycopg.connect, database_url, autocommit=True), "1000000001")
    assert made.acquire()
    yield made
    made.close()


def _stored(database_url: str) -> dict[int, tuple[str | None, object, bytes | None, str | None]]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT event_id, type, payload, raw, error FROM events").fetchall()
    return {row[0]: tuple(row[1:]) for row in rows}


def _check(database_url: str, events: list[Event]) -> None:
    stored = _stored(database_url)
    assert stored.keys() == {event.event_id for event in events}
    for event_ in events:
        kind, payload, raw, error = stored[event_.event_id]
        assert kind == event_.type
        assert payload is not None or raw is not None
        if event_.error or error:
            assert error
            assert raw == (event_.raw or event_.json.encode())


def test_every_sample_is_stored_as_it_came(writer: Writer, database_url: str) -> None:
    samples = [event(number, *sample) for number, sample in enumerate(SAMPLES.values(), 1)]
    outcome = writer.store(read(body(*samples), ARRIVAL))
    assert (outcome.saved, outcome.quarantined) == (len(samples), 0)
    stored = _stored(database_url)
    for sample in samples:
        assert stored[sample["eventId"]] == (sample["type"], sample["payload"], None, None)


@drawn(
    "columns of hostile values",
    ["text", "chatId", "firstName", "parts", "format", "payload", "type", "timestamp"],
    quick=4,
)
def test_hostile_value_in_any_column_spoils_no_other_event(writer: Writer, database_url: str, name: str) -> None:
    """Each lies between two good messages; all of them come in one batch."""
    elements: list[bytes] = []
    for number, fragment in enumerate(FRAGMENTS.values()):
        element = event(2 * number + 1, "newMessage", MESSAGE | {"msgId": f"h{number}", "text": "x"})
        payload = element["payload"]
        if name == "chatId":
            payload |= {"chat": {"chatId": "@@"}}
        elif name == "firstName":
            payload |= {"from": {"userId": f"u{number}", "firstName": "@@"}}
        elif name in ("parts", "format"):
            payload[name] = [{"type": "x", "payload": "@@"}] if name == "parts" else {"bold": "@@"}
        elif name in ("text", "timestamp"):
            payload[name] = "@@"
        else:
            element[name] = "@@"
        elements += [
            json.dumps(element).encode().replace(b'"@@"', fragment),
            json.dumps(message(2 * number + 2)).encode(),
        ]
    events = read(body(*elements), ARRIVAL)
    outcome = writer.store(events)
    assert outcome.saved == len(elements)
    _check(database_url, events)
    assert writer.cursor is not None
    assert writer.cursor.last_event_id == len(elements)
    with psycopg.connect(database_url) as connection:
        good = connection.execute("SELECT count(*) FROM messages WHERE msg_id !~ '^h' AND text = 'привет'").fetchone()
    assert good == (len(FRAGMENTS),)


@settings(
    max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(st.lists(hostile_events(0), min_size=1, max_size=6))
def test_hostile_events_are_stored_or_quarantined(writer: Writer, database_url: str, hostile: list[Hostile]) -> None:
    first = writer.cursor.last_event_id if writer.cursor else 0
    elements = [h.source.replace(b'"eventId": 0', b'"eventId": %d' % (first + n), 1) for n, h in enumerate(hostile, 1)]
    last = message(first + len(hostile) + 1)
    events = read(body(*elements, last), ARRIVAL)
    writer.store(events)
    assert writer.cursor is not None
    assert writer.cursor.last_event_id >= last["eventId"]
    stored = _stored(database_url)
    assert {event.event_id for event in events} <= stored.keys()
    for event_ in events:
        _, payload, raw, error = stored[event_.event_id]
        assert payload is not None or raw is not None
        if error:
            assert raw


def test_event_that_the_driver_refuses_is_quarantined(writer: Writer, database_url: str) -> None:
    """The reader lets no NUL through. If it did, the batch must not be offered again for ever."""
    good, bad = read(body(message(1), message(2)), ARRIVAL)
    outcome = writer.store([good, replace(bad, payload="a\0b")])
    assert (outcome.saved, outcome.quarantined) == (2, 1)
