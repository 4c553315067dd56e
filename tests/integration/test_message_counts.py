"""Counts of messages are kept, and agree with what counting the messages says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.harness.batches import wrong_counts
from tests.harness.old_schema import make_archive_before
from tests.harness.talk import ANNA, DEV, OPS, PETR, VERA, Talk, moment
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store import schema
from vkteams_daemon.store.admin import person_erasure
from vkteams_daemon.store.rebuild import erasure, replay

BEGINNING = datetime(1980, 1, 1, tzinfo=UTC)


@pytest.fixture
def told(talk: Talk) -> Iterator[Talk]:
    """Three people in two chats over more than thirty days, with edits, deletions, and messages without an author."""
    for number in range(40):
        who = [ANNA, PETR, VERA, None][number % 7 % 4]
        talk.say(str(number), f"text {number}", at=-number * 1300, who=who, chat=DEV if number % 3 else OPS)
    talk.many(["at the hour", "between", "at the next hour", "between"], seconds=1800, chat=DEV)
    for number in range(0, 40, 4):
        talk.edit(str(number), "another text", at=5000 + number, chat=DEV if number % 3 else OPS)
    talk.edit("4", "a third text", at=5100, chat=DEV)
    for number in range(0, 40, 5):
        talk.delete(str(number), chat=DEV if number % 3 else OPS)
    yield talk


def _counts(talk: Talk) -> list[Any]:
    with talk.connection() as connection:
        assert wrong_counts(connection) == []
    return talk.rows("SELECT user_id, sum(messages)::int FROM chat_user_counts GROUP BY user_id ORDER BY user_id")


def test_kept_counts_answer_as_counting_does(told: Talk) -> None:
    with Archive(told.url) as archive:
        for chats in (None, [OPS], [OPS, DEV], []):
            kept, counted = archive.statistics(chat_ids=chats), archive.statistics(chat_ids=chats, since=BEGINNING)
            for name in ("messages", "edited", "deleted", "chats", "users", "first_message_at", "last_message_at",
                         "busiest", "authors", "days"):  # fmt: skip
                assert getattr(kept, name) == getattr(counted, name), (chats, name)
            kept_chats, counted_chats = archive.chats(chat_ids=chats), archive.chats(chat_ids=chats, since=BEGINNING)
            assert kept_chats == counted_chats
            assert archive.users(chat_ids=chats) == archive.users(chat_ids=chats, since=BEGINNING)


def test_erasure_and_retention_lower_the_counts(told: Talk) -> None:
    before = dict(_counts(told))
    with told.connection() as connection:
        person_erasure.erase(connection, [PETR], by="dpo")
        assert PETR in before
        assert PETR not in dict(_counts(told))
        told.execute("UPDATE events SET received_at = sent_at FROM messages m WHERE m.msg_id = subject")
        told.execute("UPDATE messages SET received_at = sent_at")
        erasure.erase(connection, moment(-26_000))
    after = dict(_counts(told))
    assert 0 < after[ANNA] < before[ANNA]


def test_replay_counts_again_what_a_hand_has_changed(told: Talk) -> None:
    right = _counts(told)
    told.execute("UPDATE chat_user_counts SET messages = messages + 5")
    told.execute("DELETE FROM chat_hour_counts")
    with told.connection() as connection:
        assert wrong_counts(connection) == ["counts of people", "counts of hours"]
        replay.everything(connection, erase=False)
    assert _counts(told) == right


def test_upgrade_counts_what_is_stored(empty_database_url: str) -> None:
    make_archive_before(empty_database_url, "chat_hour_counts")
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("SET timezone = 'Asia/Kolkata'")  # half an hour beside the hours
        for number, author in enumerate([ANNA, ANNA, None, PETR]):
            sent_at = moment(50 * number)
            connection.execute(
                "INSERT INTO messages (chat_id, msg_id, user_id, sent_at, received_at, edited_at, text)"
                " VALUES (%s, %s, %s, %s, %s, %s, 'x')",
                (OPS, str(number), author, sent_at, sent_at, sent_at + timedelta(hours=1) if number % 2 else None),
            )
        schema.migrate(empty_database_url)
        assert wrong_counts(connection) == []
        people = connection.execute("SELECT user_id, messages, edited FROM chat_user_counts ORDER BY 1").fetchall()
        assert people == [("", 1, 0), (ANNA, 2, 1), (PETR, 1, 1)]
