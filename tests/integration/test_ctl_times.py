"""Times on the command line: read and shown in the person's own zone, and UTC in JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.talk import Talk

Ask = Callable[..., Any]


@pytest.fixture
def evening(talk: Talk) -> Talk:
    """A message at 21:30 UTC on Tuesday, which is 00:30 on Wednesday in Moscow, and one at noon before it."""
    talk.say("1", "обед в полдень", at=4 * 60)
    talk.say("2", "поздно ночью упал сервер", at=13.5 * 60)
    return talk


@pytest.fixture(params=["TZ", "option"])
def in_moscow(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "TZ":
        monkeypatch.setenv("TZ", "Europe/Moscow")
    else:
        monkeypatch.delenv("TZ")
        monkeypatch.setenv("VKTEAMS_SEARCH_TIMEZONE", "Europe/Moscow")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_date_is_a_day_of_the_persons_zone(ask: Ask, evening: Talk, in_moscow: None) -> None:
    for verb in (("search", "text", "сервер OR обед"), ("search", "hybrid", "сервер обед")):
        on_tuesday = ask(*verb, "--since", "24.11.2026", "--until", "24.11.2026")["hits"]
        assert [hit["msg_id"] for hit in on_tuesday] == ["1"], verb
        assert [hit["msg_id"] for hit in ask(*verb, "--since", "25.11.2026")["hits"]] == ["2"], verb
    assert ask("search", "text", "сервер")["hits"][0]["sent_at"] == "2026-11-24T21:30:00Z"
    assert ask("database", "stats", "--since", "2026-11-25")["messages"] == 1
    assert [chat["messages"] for chat in ask("context", "chats", "--since", "2026-11-25")["rows"]] == [1]


def test_people_see_times_of_their_zone_and_what_was_understood(ask: Ask, evening: Talk, in_moscow: None) -> None:
    out = ask("search", "text", "сервер", "--since", "2026-11-24", "--until", "с 25 по 27 ноября", mode="table")
    assert out.startswith("since Tue 2026-11-24 00:00 MSK, until Sat 2026-11-28 00:00 MSK\n")
    assert "2026-11-25 00:30" in out
    assert "2026-11-25 00:30:00" in ask("context", "chats", mode="table")
    conversation = ask("context", "message", "2", mode="table")
    assert "Wed 2026-11-25" in conversation
    assert "00:30" in conversation


def test_an_unclear_time_is_refused_with_what_to_write(ask: Ask, talk: Talk) -> None:
    sentence = ask("search", "text", "x", "--since", "11/24/2026", code=64)["error"]
    assert sentence.startswith("--since: '11/24/2026' is not clear: there is no month 24")
    assert "Write 24.11.2026" in sentence


def test_a_configured_zone_that_does_not_exist_is_a_mistake_of_the_configuration(
    ask: Ask, talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VKTEAMS_SEARCH_TIMEZONE", "Moscow Time")
    assert "search.timezone: 'Moscow Time' is not a time zone" in ask("search", "text", "x", code=78)["error"]
