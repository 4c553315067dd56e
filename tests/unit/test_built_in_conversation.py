"""The simulator's built-in conversation: it is as large and varied as the demo promises, and consistent."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest

from bench.half_memories import HALF_MEMORIES, LATER_HALF_MEMORIES
from tests.harness.built_in_conversation import all_events, last_texts
from vkteams_daemon.simulator.script import CONVERSATION, Line, read_script

OPS, OFFICE = "681869378@chat.agent", "684120415@chat.agent"


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return read_script(CONVERSATION)


def _messages(lines: list[Line]) -> list[Line]:
    """New messages, without the ghosts that follow deletions."""
    return [line for line in lines if line.type == "newMessage" and not _is_ghost(line)]


def _is_ghost(line: Line) -> bool:
    return line.type == "newMessage" and not {"text", "parts"} & line.payload.keys()


def _parts(line: Line, kind: str) -> list[Any]:
    return [part["payload"] for part in line.payload.get("parts", []) if part["type"] == kind]


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object in the value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(inner)


@functools.cache
def _said(played: float) -> list[tuple[datetime, str]]:
    """When each text is said, played to its end at this time of the system clock."""
    with mock.patch("vkteams_daemon.simulator.script.time.time", lambda: played):
        events = [event for event in all_events() if event.type in ("newMessage", "editedMessage")]
    return [(event.occurred_at, str(json.loads(event.payload or "{}").get("text"))) for event in events]


def test_size_and_variety_are_as_promised(lines: list[Line]) -> None:
    messages = _messages(lines)
    by_chat = Counter(line.payload["chat"]["chatId"] for line in messages)
    assert len(messages) >= 240
    assert len(by_chat) == 4
    assert min(by_chat.values()) >= 20
    assert len({line.payload["from"]["userId"] for line in messages}) >= 10


def test_both_languages_occur(lines: list[Line]) -> None:
    texts = list(last_texts().values())
    russian = [text for text in texts if re.search(r"[а-яё]{3}", text)]
    english = [text for text in texts if not re.search(r"[а-яё]", text, re.I) and len(re.findall(r"[a-z]+", text)) > 4]
    assert len(russian) >= 120
    assert len(english) >= 60


def test_every_type_of_event_and_of_part_occurs(lines: list[Line]) -> None:
    assert {line.type for line in lines} == {
        "newMessage", "editedMessage", "deletedMessage", "pinnedMessage", "unpinnedMessage",
        "newChatMembers", "leftChatMembers", "changedChatInfo", "callbackQuery",
    }  # fmt: skip
    assert {part["type"] for line in lines for part in line.payload.get("parts", [])} == {
        "file", "sticker", "voice", "mention", "reply", "forward", "inlineKeyboardMarkup"
    }  # fmt: skip
    assert {line.payload["chat"]["type"] for line in _messages(lines)} == {"group", "private"}


def test_formats_come_in_both_spellings(lines: list[Line]) -> None:
    formats = [line.payload["format"] for line in lines if "format" in line.payload]
    assert {key for each in formats for key in each} >= {"bold", "link", "pre", "mention", "inline_code", "inlineCode"}
    assert {key for each in formats for block in each.get("pre", []) for key in block} >= {"code", "language"}


def test_formats_lie_within_their_texts(lines: list[Line]) -> None:
    for line in lines:
        text = line.payload.get("text", "").encode("utf-16-le")
        for kind, places in line.payload.get("format", {}).items():
            for place in places:
                begin, end = 2 * place["offset"], 2 * (place["offset"] + place["length"])
                marked = text[begin:end].decode("utf-16-le")
                assert end <= len(text)
                assert marked == marked.strip() != ""
                assert kind != "mention" or marked in {f"@[{user['userId']}]" for user in _parts(line, "mention")}


def test_time_never_goes_back(lines: list[Line]) -> None:
    assert all(earlier.ago >= later.ago for earlier, later in pairwise(lines))
    assert 6 * 86400 < lines[0].ago < 9 * 86400
    assert 0 < lines[-1].ago <= 180


@pytest.mark.parametrize(
    ("words", "weekday", "hours"),
    [
        ("сертификат истекает через 4 дня", "Wed", (7.7, 7.72)), ("всё ушло к 09:32", "Wed", (9.53, 9.55)),
        ("табели сегодня до обеда", "Wed", (8, 12)), ("lands around seven this evening", "Wed", (12, 15)),
        ("Landed at 19:04", "Wed", (19.06, 19.5)), ("Сегодня в 12:00 собеседование", "Thu", (8, 12)),
        ("still to do", "Thu", (11, 12)), ("в 15:00 у меня", "Thu", (14, 15)),
        ("с 22:00 завтра база только на чтение", "Fri", (9, 18)), ("в пятницу только герои", "Fri", (9, 18)),
        # 14:00 in Lisbon is 17:00 in Moscow.
        ("узел недоступен, failover", "Fri", (17, 17.1)), ("Всем хороших выходных", "Fri", (17, 19)),
        ("22:00, writes are frozen", "Sat", (22, 22.02)), ("on Thursday and didn't", "Sat", (22, 23)),
        ("сертификат истёк (notAfter 23:59:00)", "Sun", (23.98, 24)),
        ("from home this morning", "Mon", (6, 9)), ("Первый день", "Mon", (8, 10)), ("день второй!", "Tue", (8, 18)),
        ("Нужны к 16:00", "Mon", (14, 16)), ("Отчёт отправлен в 17:58", "Mon", (17.97, 18.5)),
        ("Call at 10:30: accepted", "Tue", (10.5, 12)), ("ночь без единого алерта", "Wed", (7, 10)),
        ("Окна закрываю", "Wed", (16, 19)),
    ],
)  # fmt: skip
def test_what_is_said_of_the_hour_and_the_weekday_is_true(words: str, weekday: str, hours: tuple[float, float]) -> None:
    # Whenever it is played: at this very end of its week, a second before, on a Sunday night, in another year.
    for now in (
        "2026-11-25T16:51:41+03:00",
        "2026-11-25T16:51:40+03:00",
        "2026-11-29T23:10+03:00",
        "2027-03-01T00:00Z",
    ):
        played = datetime.fromisoformat(now).timestamp()
        moments = [at.astimezone(ZoneInfo("Europe/Moscow")) for at, text in _said(played) if words in text]
        assert moments, words
        clocks = [(f"{at:%a}", at.hour + at.minute / 60 + at.second / 3600) for at in moments]
        assert any(day == weekday and hours[0] <= clock <= hours[1] for day, clock in clocks), (words, clocks)
        assert all(played - 15 * 86400 < at.timestamp() <= played for at in moments)


def test_script_leaves_event_ids_and_times_to_the_simulator(lines: list[Line]) -> None:
    """Ids of events and times depend on the moment of the start."""
    for line in lines:
        for each in _objects(line.payload):
            assert not {"eventId", "timestamp", "editedTimestamp"} & each.keys()


def test_ids_are_unique_ascending_decimal_strings_beyond_a_double(lines: list[Line]) -> None:
    ids = [line.payload["msgId"] for line in _messages(lines)]
    assert all(isinstance(i, str) and 2**53 < int(i) < 2**63 for i in ids)
    assert [int(i) for i in ids] == sorted({int(i) for i in ids})
    queries = [line.payload["queryId"] for line in lines if line.type == "callbackQuery"]
    assert len(queries) == len(set(queries))


def test_replies_forwards_and_threads_refer_to_earlier_messages(lines: list[Line]) -> None:
    chat_of_message: dict[str, str] = {}
    for line in lines:
        chat_id = (line.payload.get("chat") or line.payload["message"]["chat"])["chatId"]
        same_chat = [quoted["message"]["msgId"] for quoted in _parts(line, "reply")]
        if line.type == "callbackQuery":
            same_chat.append(line.payload["message"]["msgId"])
        elif line.type == "newMessage" and not _is_ghost(line):
            chat_of_message[line.payload["msgId"]] = chat_id
        elif "msgId" in line.payload:
            same_chat.append(line.payload["msgId"])
        assert all(chat_of_message.get(msg_id) == chat_id for msg_id in same_chat)
        assert all(quoted["message"]["msgId"] in chat_of_message for quoted in _parts(line, "forward"))
        if "parent_topic" in line.payload:
            topic = line.payload["parent_topic"]
            assert chat_of_message.get(str(topic["messageId"])) == topic["chatId"] == OPS


def test_a_ghost_follows_a_deletion(lines: list[Line]) -> None:
    ghosts = [at for at, line in enumerate(lines) if _is_ghost(line)]
    assert ghosts
    for at in ghosts:
        assert lines[at - 1].type == "deletedMessage"
        assert lines[at - 1].payload["msgId"] == lines[at].payload["msgId"]


def test_an_edit_changes_the_text(lines: list[Line]) -> None:
    texts: dict[str, str] = {}
    for line in lines:
        if line.type == "editedMessage":
            assert line.payload["text"] != texts[line.payload["msgId"]]
        if line.type == "editedMessage" or line in _messages([line]):
            texts[line.payload["msgId"]] = line.payload.get("text", "")


def test_nobody_speaks_before_joining_or_after_leaving(lines: list[Line]) -> None:
    away = {
        (line.payload["chat"]["chatId"], user["userId"])
        for line in lines
        if line.type == "newChatMembers"
        for user in line.payload["newMembers"]
    }
    assert away
    for line in lines:
        for user in line.payload.get("newMembers", []):
            away.remove((line.payload["chat"]["chatId"], user["userId"]))
        for user in line.payload.get("leftMembers", []):
            away.add((line.payload["chat"]["chatId"], user["userId"]))
        if line.type == "newMessage":
            assert (line.payload["chat"]["chatId"], line.payload["from"]["userId"]) not in away


def test_every_event_has_the_newest_title_of_its_chat(lines: list[Line]) -> None:
    titles: dict[str, str] = {}
    changes = 0
    for line in lines:
        chat = line.payload.get("chat", {})
        if line.type == "changedChatInfo":
            assert line.payload["title"] != titles[chat["chatId"]]
            titles[chat["chatId"]] = line.payload["title"]
            changes += 1
        if "title" in chat:
            assert titles.setdefault(chat["chatId"], chat["title"]) == chat["title"]
    assert titles.keys() == {OPS, OFFICE}
    assert changes


def test_a_person_has_one_name(lines: list[Line]) -> None:
    names: dict[str, dict[str, Any]] = {}
    for line in lines:
        for each in _objects(line.payload):
            if "userId" in each:
                assert names.setdefault(each["userId"], each) == each
    assert all(user["firstName"] for user in names.values())


def test_every_event_is_readable_and_every_message_says_something(lines: list[Line]) -> None:
    for line, event in zip(lines, all_events(), strict=True):
        assert event.error is None
        assert event.chat_id
        if event.facts.message and line.type == "newMessage":
            content = event.facts.message.content
            assert content is None if _is_ghost(line) else content and (content.text or content.parts)


def test_what_half_memories_are_of_is_said() -> None:
    texts = list(last_texts().values())
    assert len(dict(HALF_MEMORIES)) == len(HALF_MEMORIES) == 40
    for memory, wanted in (*HALF_MEMORIES, *LATER_HALF_MEMORIES):
        for words in wanted:
            assert any(words in text for text in texts), (memory, words)


def test_only_short_texts_are_repeated(lines: list[Line]) -> None:
    texts = Counter(line.payload["text"] for line in _messages(lines) if "text" in line.payload)
    assert [text for text, count in texts.items() if count > 1 and len(text) > 10] == []


def test_file_has_one_object_a_line_and_no_escaped_letters() -> None:
    content = CONVERSATION.read_text(encoding="utf-8")
    assert content.endswith("}\n")
    assert "\\u" not in content
    assert "\n\n" not in content
