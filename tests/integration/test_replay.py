"""Deriving again from the stored events gives the same rows."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from tests.harness.batches import (
    DERIVED,
    batch,
    deleted,
    derived_rows,
    edited,
    event,
    ghost,
    members,
    new,
    pinned,
    rows,
    unpinned,
)
from tests.harness.scale import scaled
from vkteams_daemon.botapi.facts import MessageFact
from vkteams_daemon.store.derive import message_fold
from vkteams_daemon.store.derive.message_fold import Message
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import replay
from vkteams_daemon.store.rebuild.replay import ReplayResult

MODEL = "INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')"


class Archive:
    """A database with the writers of two bots, and replay on it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bots = [Writer(self.connect, bot) for bot in ("bot1", "bot2")]
        for writer in self.bots:
            assert writer.acquire()

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def store(self, *items: Any, bot: int = 0) -> None:
        self.bots[bot].store(batch(*items))

    def execute(self, statement: str, *values: Any) -> list[Any]:
        with self.connect() as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def everything(self, *, erase: bool = False, **options: Any) -> ReplayResult:
        with self.connect() as connection:
            return replay.everything(connection, erase=erase, **options)

    def quarantined(self, *, erase: bool = False) -> ReplayResult:
        with self.connect() as connection:
            return replay.quarantined(connection, erase=erase)

    def wipe(self) -> None:
        self.execute(f"TRUNCATE {', '.join(DERIVED)} CASCADE")


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    archive = Archive(database_url)
    yield archive
    for writer in archive.bots:
        writer.close()


def story(chance: random.Random, count: int, first: int = 1) -> list[Any]:
    """Events of every kind about few messages, people and chats, so that they meet."""
    made: list[Callable[[int, str, str], Any]] = [
        lambda n, m, c: new(n, m, chance.choice(["one", "two", None]), c, parts=[{"type": "x", "payload": {"n": 1.5}}]),
        lambda n, m, c: edited(n, m, chance.choice(["a", "b", ""]), chance.randint(1, 90), c),
        lambda n, m, c: deleted(n, m, c),
        lambda n, m, c: ghost(n, m, c),
        lambda n, m, c: pinned(n, m, chance.choice(["one", "p"]), c),
        lambda n, m, c: unpinned(n, m, c),
        lambda n, m, c: members(n, "newChatMembers", chance.choice("uvw"), by=chance.choice([None, "x"]), chat=c),
        lambda n, m, c: members(n, "leftChatMembers", chance.choice("uvw"), chat=c),
        lambda n, m, c: event(n, "changedChatInfo", chat={"chatId": c}, title=chance.choice(["A", "B", "Ops"])),
        lambda n, m, c: new(n, m, "hi", c, **{"from": {"userId": "u", "firstName": chance.choice("PQ")}}),
        lambda n, m, c: event(n, "newMessage", msgId=m),  # unreadable
    ]
    return [
        chance.choice(made)(first + n, f"m{chance.randint(1, 12)}", chance.choice(["c1", "c2"])) for n in range(count)
    ]


@pytest.mark.parametrize("seed", range(scaled("seeds of a replay of everything", full=4, quick=2)))
def test_rebuilding_everything_gives_the_same_rows(
    archive: Archive, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    events = {0: story(chance, 220), 1: story(chance, 220)}
    while any(events.values()):
        bot = chance.choice([bot for bot, left in events.items() if left])
        size = chance.choice([1, 1, 5, 30, 210])
        part, events[bot] = events[bot][:size], events[bot][size:]
        chance.shuffle(part)
        archive.store(*part, bot=bot)
    archive.store(new(3, "late", chat="c1"), new(None, "nameless", chat="c2"))
    live = derived_rows(archive.url)
    monkeypatch.setattr(replay, "_PAGE", chance.choice([7, 50, 500]))

    untouched = archive.everything()
    assert derived_rows(archive.url) == live
    assert untouched.messages == 0, "rows that are right are not written"

    archive.wipe()
    rebuilt = archive.everything()
    assert derived_rows(archive.url) == live
    assert rebuilt.messages == len(live["messages"])


@pytest.mark.parametrize("seed", range(scaled("seeds of a replay after an erasure", full=6, quick=2)))
def test_replay_after_an_erasure_changes_nothing(archive: Archive, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    archive.bots[0].erase = seed % 2 == 0
    events = story(chance, 150)
    while events:
        size = chance.choice([1, 2, 5, 30])
        archive.store(*events[:size])
        events = events[size:]
    # Age erases the oldest events, and an erased message takes its events at any age with it.
    archive.execute(
        "UPDATE events SET payload = NULL, raw = NULL WHERE event_id < %s OR subject = ANY(%s)",
        chance.choice([1, 40, 100]), [f"m{chance.randint(1, 12)}" for _ in range(chance.choice([0, 4, 12]))],
    )  # fmt: skip
    live = derived_rows(archive.url)
    monkeypatch.setattr(replay, "_PAGE", chance.choice([7, 500]))
    archive.everything(erase=archive.bots[0].erase)
    assert derived_rows(archive.url) == live


def test_replay_after_an_erasure_fills_what_the_rows_lack_and_corrects_what_was_said_since(archive: Archive) -> None:
    archive.store(new(1, "m1", chat="old"), new(2, "m2", chat="c"))
    archive.store(members(3, "newChatMembers", "u", by="x", chat="c"))
    archive.execute("UPDATE events SET payload = NULL WHERE event_id = 2")
    live = derived_rows(archive.url)
    archive.execute("UPDATE chats SET title = NULL WHERE chat_id = 'old'")
    archive.execute("UPDATE chats SET title = 'wrong' WHERE chat_id = 'c'")
    archive.execute("DELETE FROM users WHERE user_id = 'u'")
    archive.everything()
    assert archive.execute("SELECT chat_id, title FROM chats ORDER BY 1") == [("c", "Ops"), ("old", "Ops")]
    assert rows(archive.url, "users") == live["users"]


def test_replay_knows_since_when_a_name_is_known_where_an_event_came_late(archive: Archive) -> None:
    """Another process had gone on, and what waited in a spool came after it."""
    person, early = {"userId": "u", "firstName": "P"}, datetime(2020, 1, 1, tzinfo=UTC)
    archive.store(new(2, "m2", chat="c", **{"from": person}))
    archive.bots[0].store_late(batch(new(1, "m1", chat="c", **{"from": person}), at=early), 1)
    assert archive.execute("SELECT seen_at > %s FROM users", early) == [(True,)], "a late event takes no newer one back"
    archive.everything()
    assert archive.execute("SELECT seen_at FROM users") == [(early,)]
    assert archive.execute("SELECT DISTINCT seen_at, first_seen_at FROM chats") == [(early, early)]


def test_damage_is_repaired(archive: Archive) -> None:
    archive.store(new(1, "m1"), edited(2, "m1", "two"), new(3, "m2"), members(4, "newChatMembers", "u", by="x"))
    live = derived_rows(archive.url)
    archive.execute("UPDATE messages SET text = 'wrong', version = 9 WHERE msg_id = 'm1'")
    archive.execute(
        "INSERT INTO message_versions SELECT chat_id, msg_id, 7, now(), 'odd', NULL, NULL, now() FROM messages"
    )
    archive.execute("UPDATE chats SET title = NULL")
    archive.execute("UPDATE users SET first_name = 'Nobody'")
    archive.execute("UPDATE chat_members SET added_by = NULL")
    archive.execute("DELETE FROM messages WHERE msg_id = 'm2'")
    assert archive.everything().messages == 2
    assert derived_rows(archive.url) == live


def test_vectors_of_unchanged_texts_stay_and_changed_ones_are_queued(archive: Archive) -> None:
    archive.execute(MODEL)
    archive.store(new(1, "same"), new(2, "changed"))
    archive.execute("DELETE FROM embedding_queue")
    archive.execute("INSERT INTO embeddings SELECT chat_id, msg_id, 1, 'message', 0, 'h', '[1,0]' FROM messages")
    archive.execute("UPDATE messages SET text = 'what an older version made of it' WHERE msg_id = 'changed'")
    assert archive.everything().queued == 1
    assert archive.execute("SELECT msg_id FROM embeddings ORDER BY 1") == [("changed",), ("same",)]
    assert archive.execute("SELECT msg_id FROM embedding_queue") == [("changed",)]


def test_erased_messages_stay_erased(archive: Archive) -> None:
    archive.bots[0].erase = True
    archive.store(new(1, "m", "secret"), new(2, "n", "public"))
    archive.store(edited(3, "m", "secret two"), deleted(4, "m"))
    live = derived_rows(archive.url)
    done = archive.everything()
    assert (done.erased, done.messages) == (1, 0)
    assert derived_rows(archive.url) == live
    assert "secret" not in str(live)


def test_erasing_replay_erases_what_another_bot_delivered_again(archive: Archive) -> None:
    archive.bots[0].erase = True
    archive.store(new(1, "m", "secret"), new(2, "n", "secret"), deleted(3, "m"), deleted(4, "n"))
    # The second bot tells all of one message again, of the other only what was pinned: that says nothing to its row.
    archive.store(new(1, "m", "secret"), edited(2, "m", "secret two"), deleted(3, "m"), pinned(4, "n", "secret"), bot=1)
    assert archive.execute("SELECT msg_id, text FROM messages ORDER BY 1") == [("m", "secret two"), ("n", None)]
    kept = rows(archive.url, "messages"), rows(archive.url, "message_versions")
    assert archive.everything().erased == 2
    assert (rows(archive.url, "messages"), rows(archive.url, "message_versions")) == kept
    done = archive.everything(erase=True)
    assert (done.erased, done.messages) == (1, 1)
    assert archive.execute("SELECT msg_id FROM messages WHERE deleted_at IS NOT NULL ORDER BY 1") == [("m",), ("n",)]
    assert "secret" not in str(derived_rows(archive.url))
    assert archive.execute("SELECT count(*) FROM events WHERE payload IS NOT NULL OR raw IS NOT NULL") == [(0,)]
    assert archive.everything(erase=True).messages == 0


def _quarantine(archive: Archive, event_id: int) -> None:
    """Quarantine a stored event, as an older version would that cannot read it."""
    archive.execute(
        "UPDATE events SET error = 'unknown', chat_id = NULL, user_id = NULL, subject = NULL, payload = NULL,"
        " raw = convert_to((jsonb_build_object('eventId', event_id, 'type', type, 'payload', payload))::text, 'UTF8')"
        " WHERE event_id = %s",
        event_id,
    )
    archive.execute("UPDATE bot_chat_counts SET events = events - 1")


def test_quarantined_event_that_has_become_readable_is_derived(archive: Archive) -> None:
    archive.execute(MODEL)
    archive.store(new(1, "m", "Привет"), edited(2, "m", "two"), event(3, "newMessage", msgId="hopeless"))
    live, stored = derived_rows(archive.url), rows(archive.url, "events", "event_id, chat_id, subject, payload")
    _quarantine(archive, 1)
    archive.wipe()
    archive.store(edited(4, "m", "two"))
    done = archive.quarantined()
    assert (done.events, done.readable, done.unreadable) == (2, 1, 1)
    assert archive.execute("SELECT event_id FROM events WHERE error IS NOT NULL") == [(3,)]
    assert rows(archive.url, "events WHERE event_id < 4", "event_id, chat_id, subject, payload") == stored
    assert rows(archive.url, "message_versions") == live["message_versions"]
    assert archive.execute("SELECT text, version FROM messages") == [("two", 2)]
    assert archive.quarantined() == ReplayResult(events=1, unreadable=1)
    assert archive.execute("SELECT events FROM bot_chat_counts") == [(3,)]


def test_replay_of_the_quarantine_obeys_the_erasure(archive: Archive) -> None:
    archive.bots[0].erase = True
    archive.store(new(1, "m", "secret"))
    _quarantine(archive, 1)
    archive.wipe()
    archive.store(deleted(2, "m"))
    assert archive.quarantined(erase=True).readable == 1
    assert archive.execute("SELECT text, deleted_at IS NOT NULL FROM messages") == [(None, True)]
    assert archive.execute("SELECT count(*) FROM events WHERE payload IS NOT NULL OR raw IS NOT NULL") == [(0,)]


def test_replay_keeps_chat_columns_known_only_from_an_erased_event(archive: Archive) -> None:
    archive.bots[0].erase = True
    topic = {"chatId": "parent", "messageId": "root"}
    archive.store(new(1, "m1", chat="thread", parent_topic=topic), new(2, "m2", chat="thread"))
    archive.store(deleted(3, "m1", chat="thread"))
    live = rows(archive.url, "chats")
    assert archive.execute("SELECT parent_chat_id FROM chats WHERE chat_id = 'thread'") == [("parent",)]
    archive.everything(erase=True)
    assert rows(archive.url, "chats") == live


@pytest.mark.parametrize("size", [1, 300])
def test_event_that_a_program_fault_fails_on_is_quarantined_until_the_next_version(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    add = message_fold.fold

    def faulty(message: Message, fact: MessageFact, *, erase: bool) -> None:
        if fact.msg_id == "poison":
            raise TypeError("no such thing\x00\ud800")
        add(message, fact, erase=erase)

    with monkeypatch.context() as patched:
        patched.setattr(message_fold, "fold", faulty)
        archive.store(*(new(n) for n in range(1, size + 1)), new(1000, "poison"), new(1001))
    assert archive.execute("SELECT last_event_id FROM bots WHERE bot_id = 'bot1'") == [(1001,)]
    assert archive.execute("SELECT count(*) FROM messages") == [(size + 1,)]
    found = archive.execute("SELECT event_id, error FROM events WHERE error IS NOT NULL")
    assert found == [(1000, "internal error: TypeError: no such thing\ufffd?")]
    assert archive.quarantined().readable == 1
    assert archive.execute("SELECT text FROM messages WHERE msg_id = 'poison'") == [("hello",)]


def test_event_that_the_database_refuses_stays_in_quarantine_and_its_page_is_derived(archive: Archive) -> None:
    archive.store(new(1, "a"), new(2, "b"), new(3, "c"))
    for event_id in (1, 2, 3):
        _quarantine(archive, event_id)
    archive.wipe()
    archive.execute("ALTER TABLE messages ADD CHECK (msg_id <> 'b')")
    done = archive.quarantined()
    assert (done.readable, done.unreadable) == (2, 1)
    assert archive.execute("SELECT msg_id FROM messages ORDER BY 1") == [("a",), ("c",)]


def test_replay_beside_a_running_writer_loses_nothing(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_PAGE", 20)
    chance = random.Random(5)
    for n in range(0, 400, 40):
        archive.store(*story(chance, 40, 1 + n))
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for n in range(60):
                archive.store(*story(chance, 5, 1000 + 5 * n))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    writing = threading.Thread(target=write)
    writing.start()
    while writing.is_alive():
        archive.everything()
    writing.join()
    assert not failures
    after = derived_rows(archive.url)
    archive.wipe()
    archive.everything()
    assert derived_rows(archive.url) == after


def test_progress_counts_up_to_the_end(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_PAGE", 3)
    archive.store(*(new(n) for n in range(1, 11)))
    seen: list[tuple[int, int]] = []
    archive.everything(progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (20, 20)
    assert len(seen) > 5
