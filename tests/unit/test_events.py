from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.hostile import Hostile, hostile_events
from tests.harness.samples import ARRIVAL, MESSAGE, SAMPLES, body, event, message
from tests.harness.scale import scaled
from vkteams_daemon.botapi.events import Event, hashed_id, read
from vkteams_daemon.errors import ApiError, ApiProtocolError, ApiRefused, RateLimited, Unauthorised

EXAMPLES = scaled("examples of a property of events and messages", full=300, quick=100)


def _one(element: dict[str, Any] | bytes) -> Event:
    (only,) = read(body(element), ARRIVAL)
    return only


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_is_read_and_kept_unchanged(name: str) -> None:
    kind, payload = SAMPLES[name]
    result = _one(event(7, kind, payload))
    assert (result.event_id, result.numbered, result.type, result.error, result.raw) == (7, True, kind, None, None)
    assert json.loads(result.json) == event(7, kind, payload)
    assert result.received_at == ARRIVAL
    assert (result.chat_id, result.user_id) == (result.facts.chat_id, result.facts.user_id)
    assert result.occurred_at == (result.facts.occurred_at or ARRIVAL)


def test_events_come_in_the_order_of_arrival() -> None:
    assert [e.event_id for e in read(body(message(3), message(1), message(2)), ARRIVAL)] == [3, 1, 2]


def test_an_answer_may_have_no_events() -> None:
    assert read(b'{"ok":true,"events":[]}', ARRIVAL) == []
    assert read(b'{"events":[]}', ARRIVAL) == []


def test_subject_distinguishes_events_with_one_id() -> None:
    assert _one(message(7)).subject == "7"
    assert _one(event(7, *SAMPLES["a button"])).subject == "SVR:7:12-1764000090"
    assert _one(event(7, *SAMPLES["members who go"])).subject == "p.petrov@corp.example"
    assert _one(event(7, *SAMPLES["a new title"])).subject is None


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("Invalid token", Unauthorised), ("invalid TOKEN", Unauthorised),
        ("Missing required parameter 'token'", Unauthorised), ("Ratelimit", RateLimited),
        ("RATELIMIT exceeded", RateLimited), ("rate limit", RateLimited), ("Bad request", ApiRefused),
        ("Permission denied", ApiRefused), ("Server error: id=0x1f", ApiRefused), (None, ApiRefused), (5, ApiRefused),
        ({"a": 1}, ApiRefused), ("x" * 10**6, ApiRefused),
    ],
)  # fmt: skip
def test_a_refusal_raises_a_typed_error(description: Any, expected: type[ApiError]) -> None:
    with pytest.raises(expected) as refused:
        read(json.dumps({"ok": False, "description": description, "events": [message(1)]}).encode(), ARRIVAL)
    assert type(refused.value) is expected
    assert len(str(refused.value)) < 300


def test_the_text_of_a_refusal_is_printable() -> None:
    with pytest.raises(ApiRefused) as refused:
        read(rb'{"ok":false,"description":"a\ud800\u0000\n\u001b[31mb"}', ARRIVAL)
    assert str(refused.value).isprintable()


def test_an_answer_without_events_is_refused() -> None:
    for source in (b'{"ok":true}', b'{"ok":true,"events":null}', b"{}"):
        with pytest.raises(ApiProtocolError, match="no events"):
            read(source, ARRIVAL)


@pytest.mark.parametrize("event_id", [1, "1", "0001", 2**63 - 1, str(2**63 - 1)])
def test_ids_that_move_the_cursor(event_id: Any) -> None:
    result = _one(event(event_id, "newMessage", MESSAGE))
    assert (result.event_id, result.numbered, result.error) == (int(event_id), True, None)


@pytest.mark.parametrize(
    "event_id", [0, -1, 2**63, 10**30, "9" * 19, "1" * 5000, "-5", "x", "", "٣", "²", 1.0, True, None, [], {}]
)
def test_ids_that_do_not_move_the_cursor(event_id: Any) -> None:
    result = _one(event(event_id, "newMessage", MESSAGE))
    assert not result.numbered
    assert -(2**63) <= result.event_id < 0
    assert result.error is None
    assert result == _one(event(event_id, "newMessage", MESSAGE))
    assert result.event_id != _one(event(event_id, "newMessage", MESSAGE | {"text": "other"})).event_id


def test_a_hashed_id_is_a_negative_bigint() -> None:
    for number in range(2000):
        assert -(2**63) <= hashed_id(str(number).encode()) < 0


@pytest.mark.parametrize(
    ("element", "error"),
    [
        (b"5", "it is not an object"), (b'"x"', "it is not an object"), (b"[]", "it is not an object"),
        (b"null", "it is not an object"), (b"{}", "its type is not a name"),
        (b'{"eventId":7,"payload":{}}', "its type is not a name"),
        (b'{"eventId":7,"type":5,"payload":{}}', "its type is not a name"),
        (b'{"eventId":7,"type":"' + b"x" * 201 + b'","payload":{}}', "its type is not a name"),
        (b'{"eventId":7,"type":"newMessage"}', "its payload is not an object"),
        (b'{"eventId":7,"type":"newMessage","payload":[]}', "its payload is not an object"),
        (b'{"eventId":7,"type":"newMessage","payload":{}}', "newMessage without a chat"),
        (b'{"eventId":7,"type":"newMessage","payload":{"chat":{"chatId":"c"}}}', "newMessage without a msgId"),
        (b'{"eventId":7,"type":"newMessage","payload":' + b"[" * 1000 + b"]" * 1000 + b"}", "nested too deeply"),
        (b'{"eventId":7,"type":"newMessage","payload":undefined}', "cannot be read as JSON"),
    ],
)  # fmt: skip
def test_an_unreadable_event_keeps_its_bytes_and_its_error(element: bytes, error: str) -> None:
    before, result, after = read(body(message(6), element, message(8)), ARRIVAL)
    assert error in (result.error or "")
    assert result.raw == element
    assert result.numbered == (b'"eventId":7' in element)
    assert (before, after) == (_one(message(6)), _one(message(8)))


def test_an_unreadable_event_keeps_its_own_time() -> None:
    result = _one(event(7, "newMessage", {"timestamp": 1764000000}))
    assert result.error is not None
    assert result.occurred_at == datetime.fromtimestamp(1764000000, ARRIVAL.tzinfo)
    edit = _one(event(7, "editedMessage", {"timestamp": 1764000000, "editedTimestamp": 1764000060}))
    assert edit.error is not None
    assert edit.occurred_at == datetime.fromtimestamp(1764000060, ARRIVAL.tzinfo)


def test_unknown_fields_are_not_lost() -> None:
    inside = _one(event(7, "newMessage", MESSAGE | {"novel": {"a": [1]}}))
    assert json.loads(inside.json)["payload"]["novel"] == {"a": [1]}
    beside = _one(message(7) | {"novel": 1})
    assert beside.error is None
    assert beside.raw is not None
    assert json.loads(beside.raw)["novel"] == 1


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _texts(getattr(value, field))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *_texts(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


@settings(
    max_examples=scaled("hostile events in a batch", full=300, quick=100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(hostile_events(7))
def test_hostile_events_do_not_damage_their_batch(hostile: Hostile) -> None:
    source = body(message(6), hostile.source, message(8))
    before, result, after = read(source, ARRIVAL)
    assert (before, after) == (_one(message(6)), _one(message(8)))
    assert (before, result, after) == tuple(read(source, ARRIVAL)), "the same bytes give another event"
    assert result == _one(hostile.source), "its batch changes it"
    if hostile.numbered:
        assert result.event_id == 7
    for text in _texts(result):
        assert "\0" not in text
        text.encode()  # no half of a pair
    if result.json:
        assert json.loads(result.json, parse_constant=lambda name: pytest.fail(name)).keys()
    if result.error or not result.json:
        assert result.error
        assert result.raw == hostile.source


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=200) | st.text(st.sampled_from('{}[]",:\\u0a1 \x00'), max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(source: bytes) -> None:
    try:
        events = read(b'{"events":[' + source + b"]}", ARRIVAL)
    except ApiProtocolError:
        return
    assert all(-(2**63) <= event.event_id < 2**63 for event in events)
