"""A half memory: a person, a chat, a kind of file or a time in a query lifts messages, and excludes none."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.harness.postgres import PostgresServer
from vkteams_daemon.access import Access
from vkteams_daemon.botapi import events
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store.ingest.writer import Writer

NOW = datetime.now(UTC)
_CHATS = {"buh": "Бухгалтерия и оплаты", "ops": "Эксплуатация"}
_PEOPLE = {"vera": ("Вера", "Мальцева"), "petr": ("Пётр", "Чижов")}


def _event(number: int, chat: str, user: str, days: int, text: str, file: dict[str, str] | None) -> dict[str, object]:
    payload: dict[str, object] = {
        "msgId": str(number),
        "chat": {"chatId": f"{chat}@chat.agent", "type": "group", "title": _CHATS[chat]},
        "from": {"userId": user, "firstName": _PEOPLE[user][0], "lastName": _PEOPLE[user][1]},
        "timestamp": int((NOW - timedelta(days=days)).timestamp()),
    }
    if file is None:
        payload["text"] = text
    else:
        payload["parts"] = [{"type": "file", "payload": {"fileId": f"f{number}", "caption": text, **file}}]
    return {"eventId": number, "type": "newMessage", "payload": payload}


_MESSAGES = (
    ("ops", "petr", 40, "отчёт готов", None),  # 1
    ("buh", "vera", 30, "отчёт за месяц", None),  # 2
    ("ops", "vera", 20, "отчёт за неделю", {"name": "отчёт.xlsx"}),  # 3
    ("ops", "petr", 1, "отчёт по сбою", None),  # 4
    ("ops", "petr", 15, "", {"type": "video"}),  # 5: nothing to find it by, neither a word nor a vector
    ("ops", "vera", 10, "отчёт в картинках", {"type": "image"}),  # 6
)


@pytest.fixture(scope="module")
def archive(postgres_server: PostgresServer) -> Iterator[Archive]:
    with postgres_server.fresh() as url:
        body = {"ok": True, "events": [_event(n, *message) for n, message in enumerate(_MESSAGES, 1)]}
        writer = Writer(functools.partial(psycopg.connect, url, autocommit=True), "1000000001")
        assert writer.acquire()
        writer.store(events.read(json.dumps(body).encode(), NOW))
        writer.close()
        with Archive(url) as archive:
            yield archive


def found(archive: Archive, query: str) -> list[str]:
    return [hit.msg_id for hit in archive.search(query, mode="hybrid").hits]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("отчёт из бухгалтерии", ["2"]),
        ("отчёт от Чижова", ["1", "4"]),
        ("отчёт от Пети", ["1", "4"]),
        ("отчёт таблицей", ["3"]),
        ("отчёт, фото", ["6"]),
        ("вчерашний отчёт, вчера", ["4"]),
        ("отчёт, Мальцева, таблица", ["3"]),
    ],
)
def test_wish_lifts_and_excludes_nothing(archive: Archive, query: str, first: list[str]) -> None:
    ids = found(archive, query)
    assert sorted(ids[: len(first)]) == first
    assert set(ids) == {"1", "2", "3", "4", "6"}


def test_kind_of_file_alone_counts_half(archive: Archive) -> None:
    def wish(query: str) -> float:
        [hit] = [hit for hit in archive.search(query, mode="hybrid").hits if hit.msg_id == "3"]
        return next(leg.score for leg in hit.legs if leg.name == "wish")

    assert (wish("отчёт таблицей"), wish("отчёт, Мальцева, таблица")) == (0.5, 2.0)


def test_file_without_a_text_is_found_by_its_sender_and_kind(archive: Archive) -> None:
    assert found(archive, "видео от Чижова") == ["5"]


def test_filters_exclude(archive: Archive) -> None:
    hits = archive.search("отчёт из бухгалтерии", mode="hybrid", has=["image"]).hits
    assert [hit.msg_id for hit in hits] == ["6"]


def test_confined_reader_gets_no_wish_by_what_only_hidden_chats_know(archive: Archive) -> None:
    buh = archive.seen_by(Access("x", frozenset({"buh@chat.agent"})))
    hits = buh.search("отчёт от Чижова из эксплуатации", mode="hybrid").hits
    assert [[leg.name for leg in hit.legs] for hit in hits] == [["text"]]
    hits = buh.search("отчёт из бухгалтерии", mode="hybrid").hits
    assert [[leg.name for leg in hit.legs] for hit in hits] == [["text", "wish"]]
