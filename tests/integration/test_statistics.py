"""Statistics of the archive: right counts by chat, author and day, for the whole and for a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date
from zoneinfo import ZoneInfo

import pytest

from tests.harness.batches import count_vectors
from tests.harness.talk import ANNA, DEV, OPS, PETR, Talk, moment
from vkteams_daemon import times
from vkteams_daemon.ctl.commands.database.stats import bar
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store.admin.maintenance import TABLES


@pytest.fixture
def archive(talk: Talk) -> Iterator[Archive]:
    with Archive(talk.url) as opened:
        yield opened


@pytest.fixture
def conversation(talk: Talk) -> Talk:
    """Five messages in two chats on two days: one edited, one deleted, one without author; a quarantined event."""
    talk.say("1", "one")
    talk.say("2", "two", at=1, who=PETR)
    talk.edit("2", "two and a half", at=2, who=PETR)
    talk.say("3", "three", at=24 * 60, chat=DEV)
    talk.say("4", "four", at=24 * 60 + 1, who=PETR)
    talk.delete("4")
    talk.say("5", "five", at=24 * 60 + 2, who=None)
    talk.event("newMessage", text="no chat")
    return talk


def test_whole_archive_is_counted(conversation: Talk, archive: Archive) -> None:
    s = archive.statistics()
    assert (s.events, s.quarantined, s.messages, s.edited, s.deleted, s.versions) == (8, 1, 5, 1, 1, 1)
    assert (s.chats, s.users) == (2, 2)
    assert (s.first_message_at, s.last_message_at) == (moment(0), moment(24 * 60 + 2))
    assert [(c.chat_id, c.title, c.messages, c.edited, c.deleted) for c in s.busiest] == [
        (OPS, "Эксплуатация", 4, 1, 1), (DEV, "Development", 1, 0, 0),
    ]  # fmt: skip
    assert [(u.user_id, u.name, u.messages, u.edited, u.deleted) for u in s.authors] == [
        (ANNA, "Анна Иванова", 2, 0, 0), (PETR, "Пётр", 2, 1, 1),
    ]  # fmt: skip
    assert [(d.day, d.messages, d.edited, d.deleted) for d in s.days] == [
        (date(2026, 11, 24), 2, 1, 0), (date(2026, 11, 25), 3, 0, 1),
    ]  # fmt: skip
    assert {table.name for table in s.tables} == set(TABLES)
    messages = next(table for table in s.tables if table.name == "messages")
    assert {"messages_pkey", "messages_search", "messages_time"} <= {index.name for index in messages.indexes}
    assert messages.octets == s.sizes["messages"] > sum(index.octets for index in messages.indexes)
    assert s.sizes["database"] > sum(octets for name, octets in s.sizes.items() if name != "database")


def test_part_of_the_archive_is_counted(conversation: Talk, archive: Archive) -> None:
    one = archive.statistics(chat_ids=[OPS])
    assert (one.messages, one.users, one.busiest, one.sizes, one.tables) == (4, 2, [], {}, [])
    assert one.events == 6
    late = archive.statistics(since=moment(24 * 60))
    assert (late.messages, late.chats, late.deleted, len(late.days)) == (3, 2, 1, 1)
    both = archive.statistics(chat_ids=[DEV], since=moment(24 * 60 + 1))
    assert (both.messages, both.days, both.authors) == (0, [], [])
    assert archive.statistics(chat_ids=[]).messages == 0


def test_empty_archive_has_zeros(archive: Archive) -> None:
    s = archive.statistics()
    assert (s.events, s.messages, s.chats, s.busiest, s.days, s.models) == (0, 0, 0, [], [], [])
    assert (s.last_message_at, s.lag.sent_to_stored_p50, s.lag.stored_to_vector_p50) == (None, None, None)


def test_lag_is_measured_on_the_newest_messages(conversation: Talk, archive: Archive) -> None:
    conversation.execute("INSERT INTO embedding_models (name, fingerprint, dims, state, created_at)"
                 " VALUES ('m', 'f', 2, 'active', '2020-01-01')")  # fmt: skip
    conversation.execute("UPDATE messages SET received_at = sent_at + interval '3 seconds'")
    conversation.execute("UPDATE messages SET received_at = sent_at + interval '33 seconds' WHERE msg_id = '1'")
    conversation.execute(
        "INSERT INTO embeddings SELECT chat_id, msg_id, 1, 'message', 0, 'h', '[1,0]',"
        " received_at + CASE msg_id WHEN '2' THEN interval '1 day' ELSE interval '0.5 seconds' END FROM messages"
    )
    conversation.execute("INSERT INTO embedding_models (name, fingerprint, dims, state, created_at)"
                 " VALUES ('next', 'g', 2, 'building', '2020-01-01')")  # fmt: skip
    conversation.execute(
        "INSERT INTO embeddings SELECT chat_id, msg_id, 2, 'message', 0, 'h', '[1,0]', now() FROM messages"
    )
    lag = archive.statistics().lag
    assert lag.sent_to_stored_p50 == 3
    assert lag.sent_to_stored_p99 is not None
    assert 30 < lag.sent_to_stored_p99 <= 33
    assert lag.stored_to_vector_p50 == lag.stored_to_vector_p99 == 0.5  # an edited text was embedded again
    assert archive.statistics(since=moment(60)).lag.sent_to_stored_p99 == 3
    conversation.execute("UPDATE embedding_models SET created_at = now() + interval '1 day'")
    assert archive.statistics().lag.stored_to_vector_p50 is None  # a new model embeds what is long there


def test_models_and_queue_are_counted(conversation: Talk, archive: Archive) -> None:
    conversation.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')")
    kinds = "(VALUES ('message', 0), ('message', 1), ('window', 0)) AS v (kind, chunk)"
    conversation.execute("INSERT INTO embeddings SELECT chat_id, msg_id, 1, kind, chunk, 'h', '[1,0]'"
                 f" FROM messages, {kinds} WHERE msg_id < '3'")  # fmt: skip
    count_vectors(conversation.url)
    conversation.execute("INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind, not_before)"
                 " SELECT chat_id, msg_id, 1, 'message', CASE msg_id WHEN '3' THEN 'infinity' ELSE '-infinity' END"
                 "::timestamptz FROM messages WHERE msg_id >= '3'")  # fmt: skip
    (model,) = archive.statistics().models
    assert (model.vectors, model.messages, model.indexed) == (6, 2, False)
    assert (archive.statistics().queued, archive.statistics().parked) == (3, 1)
    late = archive.statistics(since=moment(60))
    assert (late.models[0].vectors, late.queued) == (0, 3)
    assert archive.statistics(chat_ids=[DEV]).queued == 1


def test_lists_are_bounded(talk: Talk, archive: Archive) -> None:
    for n in range(40):
        talk.say(f"{n}", "x", at=n * 24 * 60, who=f"user{n:02}", chat=f"{n}@chat.agent")
    s = archive.statistics()
    assert (s.chats, s.users) == (40, 40)
    assert (len(s.busiest), len(s.authors), len(s.days)) == (20, 20, 30)
    assert s.days[-1].day == date(2027, 1, 2)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Moscow", "America/St_Johns"])
def test_a_day_is_one_of_the_readers_zone(talk: Talk, archive: Archive, zone: str) -> None:
    """Whether the hours of the archive are added up, or its messages counted: some zones begin a day within an hour."""
    local = ZoneInfo(zone)
    minutes = (0, 15 * 60 + 10, 18 * 60 + 40, 21 * 60 + 5, 23 * 60 + 50, 26 * 60, 5 * 24 * 60)
    for n, at in enumerate(minutes):
        talk.say(f"{n}", "x", at=at)
    wanted = Counter(moment(at).astimezone(local).date() for at in minutes)
    with times.in_zone(local):
        for found in (archive.statistics(), archive.statistics(since=moment(-1)), archive.statistics(chat_ids=[OPS])):
            assert {day.day: day.messages for day in found.days} == wanted
            assert [day.day for day in found.days] == sorted(wanted)


@pytest.mark.parametrize(
    ("value", "shown"), [(0, ""), (0.001, "▏"), (50, "█" * 6), (100, "█" * 12), (99, "█" * 11 + "▉")]
)
def test_bar_is_drawn_in_eighths(value: float, shown: str) -> None:
    assert bar(value, 100) == shown


def test_bar_without_a_maximum_is_empty() -> None:
    assert bar(0, 0) == ""
