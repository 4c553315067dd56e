"""What is taken out of a payload, and what of it stays."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from vkteams_daemon.botapi import content_erasure
from vkteams_daemon.botapi.content_erasure import Erased, EventContent, MessageContent

ANNA, PETR = "a@corp.example", "p@corp.example"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
ERASED = Erased({"A@Corp.example": NOON}, {("c", "1")})  # as somebody has typed it


def _event(payload: Any, **more: Any) -> EventContent:
    fields = {"chat_id": "c", "subject": "9", "source": "", "quarantined": False, "at": NOON} | more
    return EventContent(payload=payload, **fields)


def _quote(kind: str, text: str, author: str | None, hour: int = 11, **more: Any) -> dict[str, Any]:
    message = {"msgId": "5", "timestamp": int(NOON.replace(hour=hour).timestamp()), "text": text, **more}
    return {"type": kind, "payload": {"message": message | ({"from": {"userId": author}} if author else {})}}


def test_what_is_not_theirs_is_not_changed() -> None:
    payload = {"msgId": "9", "from": {"userId": PETR}, "text": "x", "parts": [_quote("forward", "y", PETR)]}
    assert content_erasure.erase_event(ERASED, _event(payload)) == (payload, False)


@pytest.mark.parametrize("hour", [11, 13])
def test_only_what_was_said_up_to_the_moment_is_taken(hour: int) -> None:
    sent = int(NOON.replace(hour=hour).timestamp())
    theirs = {"msgId": "9", "from": {"userId": ANNA, "firstName": "A"}, "text": "x", "timestamp": sent}
    assert content_erasure.erase_event(ERASED, _event(theirs)) == ((None, True) if hour == 11 else (theirs, False))
    payload = {"msgId": "9", "from": {"userId": PETR}, "text": "x", "timestamp": int(NOON.timestamp()) + 9999,
               "parts": [_quote("forward", "y", ANNA, hour)]}  # fmt: skip
    content, changed = content_erasure.erase_event(ERASED, _event(payload))
    assert changed is (hour == 11)
    assert ("text" in content["parts"][0]["payload"]["message"]) is (hour == 13)


def test_a_text_that_repeats_the_forward_goes_with_it() -> None:
    payload = {"msgId": "9", "text": "y", "format": {}, "parts": [_quote("forward", "y", ANNA)]}
    content, _ = content_erasure.erase_event(ERASED, _event(payload))
    assert "text" not in content and "format" not in content


@pytest.mark.parametrize(
    "source", [f'{{"from":"{ANNA}"', '{"from":"a\\u0040corp.example"', f'"{ANNA}"'.replace("/", "\\/")]
)
def test_a_quarantined_event_that_names_them_goes_as_a_whole(source: str) -> None:
    assert content_erasure.erase_event(ERASED, _event(None, source=source, quarantined=True)) == (None, True)
    assert content_erasure.erase_event(ERASED, _event(None, source="{}", quarantined=True)) == (None, False)


def test_every_kind_of_event_about_an_erased_message_goes() -> None:
    assert content_erasure.erase_event(ERASED, _event({"reaction": "x"}, subject="1")) == (None, True)


def test_an_event_that_is_nested_too_deeply_goes() -> None:
    payload: dict[str, Any] = {"msgId": "9"}
    for _ in range(100_000):
        payload = {"x": payload}
    assert content_erasure.erase_event(ERASED, _event(payload)) == (None, True)
    assert content_erasure.message_ids(payload) == set()


@pytest.mark.parametrize(
    ("text", "parts", "left"),
    [
        ("own\ny", [_quote("forward", "y", ANNA)], "own"),
        ("y", [_quote("forward", "y", ANNA)], None),
        ("y\nown", [_quote("forward", "y", PETR)], "y\nown"),
        ("own\ny\nz", [_quote("forward", "y", ANNA), _quote("forward", "z", PETR)], "own\nz"),
        ("y", [_quote("forward", "y", ANNA), _quote("forward", "y", PETR)], "y"),
        ("ay\nby", [_quote("forward", "y", ANNA)], "ay\nby"),
        ("own", [_quote("reply", "y", ANNA)], "own"),
    ],
)
def test_the_text_of_a_row_loses_the_forwards_that_are_taken_out(text: str, parts: Any, left: str | None) -> None:
    content = content_erasure.erase_message(ERASED, MessageContent(text, None, parts), "c", NOON)
    assert content.text == left
