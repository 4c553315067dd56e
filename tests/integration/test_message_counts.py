"""Counts of messages are kept, and agree with what counting the messages says."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tests.harness.batches import count_vectors, wrong_counts
from tests.harness.old_schema import make_archive_before
from tests.harness.talk import ANNA, DEV, OPS, PETR, VERA, Talk, moment
from vkteams_daemon import times
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.history import activity, directory
from vkteams_daemon.search.scope import Period, Scope
from vkteams_daemon.search.visibility import Visible
from vkteams_daemon.store import embedding_models, schema
from vkteams_daemon.store.admin import person_erasure
from vkteams_daemon.store.connections import Connection
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
    for model in (1, 2):
        talk.execute(
            "INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES (%s, %s, 2, 'active')",
            f"m{model}", f"f{model}",
        )  # fmt: skip
        talk.execute(
            "INSERT INTO embeddings SELECT chat_id, msg_id, %s, 'message', chunk, 'h', '[1,0]' FROM messages"
            " CROSS JOIN generate_series(0, 1) AS chunk WHERE deleted_at IS NULL",
            model,
        )
    count_vectors(talk.url)
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
                         "busiest", "authors", "days", "models", "events", "last_event_at"):  # fmt: skip
                assert getattr(kept, name) == getattr(counted, name), (chats, name)
            kept_chats, counted_chats = archive.chats(chat_ids=chats), archive.chats(chat_ids=chats, since=BEGINNING)
            assert kept_chats == counted_chats
            assert archive.users(chat_ids=chats) == archive.users(chat_ids=chats, since=BEGINNING)


def test_the_pulse_counts_each_message_that_the_reader_sees_once(told: Talk) -> None:
    limited = (Period(DEV, moment(-26_100.5), moment(-1)), Period(DEV, moment(10), None))
    readers = (
        None, Visible(frozenset([OPS])), Visible(frozenset([OPS, DEV]), periods=limited),
        Visible(frozenset([OPS, DEV]), since=moment(-30_000.5)),
    )  # fmt: skip
    with told.connection() as connection:
        for visible, zone in itertools.product(readers, ("UTC", "Europe/Moscow", "Asia/Kolkata")):
            with times.in_zone(ZoneInfo(zone)), connection.transaction():
                _check_activity(connection, visible, ZoneInfo(zone))


def _check_activity(connection: Connection, visible: Visible | None, zone: ZoneInfo) -> None:
    days, end = activity.last_days(30, moment(6000))
    assert (len(days.dates), days.dates[-1]) == (30, date(2026, 11, 28))
    scope = Scope(since=days.starts[0], until=end)
    scope = visible.narrow(scope) if visible else scope
    shown = activity.activity(connection, scope, days)
    messages = [
        (chat, user, sent.astimezone(zone))
        for chat, user, sent in connection.execute(
            f"SELECT chat_id, user_id, sent_at FROM messages m WHERE {scope.condition}".encode(), scope.parameters
        )
    ]
    assert len(messages) > 5
    by_day = Counter(sent.date() for *_, sent in messages)
    assert shown.days == [by_day[day] for day in shown.dates]
    assert sum(map(sum, shown.hours)) == shown.messages == len(messages)
    assert all(shown.hours[sent.weekday()][sent.hour] for *_, sent in messages)
    assert {chat.chat_id: chat.messages for chat in shown.chats} == Counter(chat for chat, *_ in messages)
    assert all(sum(chat.days) == chat.messages for chat in shown.chats)
    assert {each.user_id: each.messages for each in shown.people} == Counter(user for _, user, _ in messages if user)


def test_the_pulse_says_how_soon_others_answered(talk: Talk) -> None:
    talk.say("1", "who has the key?")
    talk.say("2", "I ask again", at=1, answers="1")
    talk.say("3", "here", at=3, who=PETR, answers="1")
    talk.say("4", "and here", at=500, who=VERA, answers="1")
    talk.say("5", "nobody knows", at=10, who=PETR, chat=DEV)
    talk.say("6", "an answer", at=11, who=VERA, chat=DEV, answers="5")
    talk.say("7", "it is gone", at=12, chat=DEV, answers="5")
    talk.delete("6", chat=DEV)
    with times.in_zone(UTC), talk.connection() as connection, connection.transaction():
        days, end = activity.last_days(7, moment(0))
        scope = Scope(since=days.starts[0], until=end)
        shown = activity.activity(connection, scope, days)
        confined = Visible(frozenset([DEV]), since=moment(10.5)).narrow(scope)
        assert activity.activity(connection, confined, days).answers.messages == 0, "the question is not seen"
    assert (shown.answers.messages, shown.answers.median, shown.answers.waits) == (2, 150.0, [0, 2, 0, 0, 0, 0])
    assert {chat: answers.median for chat, answers in shown.answers_by_chat.items()} == {OPS: 180.0, DEV: 120.0}


def test_lists_of_chats_and_people_read_no_messages(told: Talk) -> None:
    with told.connection() as connection, connection.transaction(force_rollback=True):
        connection.execute("ALTER TABLE messages RENAME TO hidden")
        for chats in (None, [OPS]):
            scope = Scope(chats)
            assert len(directory.chats(connection, scope)) == len(chats or (OPS, DEV))
            people = directory.users(connection, scope, 2)
            assert all(person.first_message_at and person.last_message_at for person in people), people


def test_erasure_and_retention_lower_the_counts(told: Talk) -> None:
    before = dict(_counts(told))
    with told.connection() as connection:
        person_erasure.erase(connection, [PETR], by="dpo")
        assert PETR in before
        assert PETR not in dict(_counts(told))
        told.execute("UPDATE events SET received_at = sent_at FROM messages m WHERE m.msg_id = subject")
        told.execute("UPDATE messages SET received_at = sent_at")
        told.execute("UPDATE bot_chat_counts c SET last_at = (SELECT max(received_at) FROM events e"
                     " WHERE e.bot_id = c.bot_id AND e.chat_id = c.chat_id)")  # fmt: skip
        erasure.erase(connection, moment(-26_000))
        after = dict(_counts(told))
        assert 0 < after[ANNA] < before[ANNA]
        told.delete("2", chat=DEV)
        told.execute("UPDATE embedding_models SET state = 'retired' WHERE name = 'm1'")
        embedding_models.delete_retired(connection, batch=7)
    _counts(told)
    assert told.rows("SELECT DISTINCT model_id FROM chat_vector_counts") == [(2,)]


def test_replay_counts_again_what_a_hand_has_changed(told: Talk) -> None:
    right = _counts(told)
    told.execute("UPDATE chat_user_counts SET messages = messages + 5")
    told.execute("DELETE FROM chat_hour_counts")
    told.execute("UPDATE chat_vector_counts SET vectors = vectors - 1")
    told.execute("DELETE FROM bot_chat_counts WHERE chat_id = %s", DEV)
    told.execute("UPDATE bot_chat_counts SET events = 7")
    with told.connection() as connection:
        assert wrong_counts(connection) == [
            "counts of events by chat", "counts of people", "counts of hours", "counts of vectors"
        ]  # fmt: skip
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
        for chunk in (0, 1):
            connection.execute("INSERT INTO embeddings VALUES (%s, '1', 1, 'message', %s, 'h', '[1,0]')", (OPS, chunk))
        for number, chat in enumerate([OPS, OPS, None]):
            connection.execute(
                "INSERT INTO events (bot_id, generation, event_id, chat_id, occurred_at, received_at)"
                " VALUES ('b', 1, %s, %s, now(), now())", (number, chat)
            )  # fmt: skip
        schema.migrate(empty_database_url)
        assert wrong_counts(connection) == []
        people = connection.execute("SELECT user_id, messages, edited FROM chat_user_counts ORDER BY 1").fetchall()
        assert people == [("", 1, 0), (ANNA, 2, 1), (PETR, 1, 1)]
        assert connection.execute("SELECT messages, vectors FROM chat_vector_counts").fetchall() == [(1, 2)]
        assert connection.execute("SELECT chat_id, events FROM bot_chat_counts").fetchall() == [(OPS, 2)]
