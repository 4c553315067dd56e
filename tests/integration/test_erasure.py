"""Erasure by age: old messages go with their versions, vectors and queue rows, and never come back."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from tests.harness.talk import ANNA, DEV, OPS, PETR, Talk, moment
from tests.harness.waiting import until
from vkteams_daemon.store.derive import chat_locks
from vkteams_daemon.store.rebuild import erasure, replay

CUT = moment(100)


@pytest.fixture
def told(talk: Talk) -> Talk:
    """Before the cut three messages (edited, deleted, plain), an unreadable event, a member; after it two."""
    talk.say("1", "old")
    talk.edit("1", "old, mended", at=1)
    talk.say("2", "old and deleted", at=2)
    talk.delete("2")
    talk.say("3", "old elsewhere", at=3, chat=DEV)
    talk.event("newChatMembers", chat={"chatId": OPS}, newMembers=[{"userId": PETR}])
    talk.event("newMessage", text="secret, but no chat")
    talk.execute("UPDATE events SET received_at = %s", moment(5))
    talk.say("4", "new", at=200)
    talk.say("5", "new elsewhere", at=201, chat=DEV)
    # An edit that arrived after the cut, of a message from before it.
    talk.edit("1", "old, mended again", at=202)
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')")
    talk.execute("INSERT INTO embeddings SELECT chat_id, msg_id, 1, 'message', 0, 'h', '[1,0]' FROM messages")
    talk.execute("INSERT INTO embedding_queue SELECT chat_id, msg_id, 1, 'message' FROM messages")
    return talk


def _erase(talk: Talk, *chats: str) -> erasure.ErasureResult:
    with talk.connection() as connection:
        return erasure.erase(connection, CUT, list(chats) or None)


def _left(talk: Talk, table: str, columns: str = "msg_id") -> list[str]:
    return [row[0] for row in talk.rows(f"SELECT {columns} FROM {table} ORDER BY 1")]


def test_old_messages_go_with_versions_vectors_and_queue_rows(told: Talk) -> None:
    keys = told.rows("SELECT bot_id, generation, event_id, type, chat_id, subject FROM events ORDER BY 3")
    done = _erase(told)
    assert (done.messages, done.events) == (3, 2)
    for table in ("messages", "embeddings", "embedding_queue"):
        assert _left(told, table) == ["4", "5"]
    assert _left(told, "message_versions") == []
    assert told.rows("SELECT bot_id, generation, event_id, type, chat_id, subject FROM events ORDER BY 3") == keys
    full = told.rows("SELECT subject FROM events WHERE payload IS NOT NULL OR raw IS NOT NULL ORDER BY event_id")
    assert full == [("4",), ("5",)]
    assert _left(told, "chat_members", "user_id") == [PETR]
    assert _left(told, "chats", "chat_id") == [OPS, DEV]
    assert (_erase(told).messages, _erase(told).events) == (0, 0)


def test_nothing_comes_back_by_replay_or_from_the_api(told: Talk) -> None:
    _erase(told)
    before = told.rows("SELECT * FROM messages ORDER BY 2"), told.rows("SELECT * FROM events ORDER BY 3")
    with told.connection() as connection:
        done = replay.everything(connection, erase=False)
        replay.quarantined(connection, erase=False)
        assert replay.everything(connection, erase=True).messages == 0
    assert done.messages == 0
    assert (told.rows("SELECT * FROM messages ORDER BY 2"), told.rows("SELECT * FROM events ORDER BY 3")) == before
    again = told.writer.store(told.written)
    assert (again.saved, again.duplicate) == (0, len(told.written))
    assert _left(told, "messages") == ["4", "5"]


def test_erasure_of_one_chat_leaves_the_others(told: Talk) -> None:
    done = _erase(told, DEV)
    assert (done.messages, done.events) == (1, 0)
    assert _left(told, "messages") == ["1", "2", "4", "5"]
    # What belongs to no chat stays.
    assert told.rows("SELECT count(*) FROM events WHERE error IS NOT NULL AND raw IS NOT NULL") == [(1,)]


def test_count_expired_changes_nothing(told: Talk) -> None:
    with told.connection() as connection:
        found = erasure.count_expired(connection, CUT)
        one = erasure.count_expired(connection, CUT, [DEV])
    assert (found.messages, found.versions, found.vectors, found.events) == (3, 2, 3, 7)
    assert (one.messages, one.versions, one.vectors, one.events) == (1, 0, 1, 1)
    assert len(_left(told, "messages")) == 5


def test_erasure_can_be_stopped_between_batches_and_continued(talk: Talk) -> None:
    talk.many([f"text {n}" for n in range(1800)], seconds=1)
    seen: list[tuple[int, int]] = []
    with talk.connection() as connection:
        erasure.erase(connection, CUT, progress=lambda *news: seen.append(news), stopped=lambda: len(seen) >= 2)
        assert [done for done, _ in seen] == [500, 1000]
        assert len(_left(talk, "messages")) == 800
        done = erasure.erase(connection, CUT, progress=lambda *news: seen.append(news))
    assert done.messages == 800
    assert _left(talk, "messages") == []
    assert talk.rows("SELECT count(*) FROM events WHERE payload IS NOT NULL") == [(0,)]


def test_more_messages_of_one_second_than_a_batch(talk: Talk) -> None:
    talk.many(["x"] * 1200, seconds=0)
    assert _erase(talk).messages == 1200


def test_arrival_counts_for_a_message_from_the_future(told: Talk) -> None:
    far = 70 * 365 * 24 * 60
    told.say("6", "old, from the future", at=far)
    told.say("7", "old elsewhere, from the future", at=far, chat=DEV)
    told.say("8", "new, from the future", at=far)
    told.execute("UPDATE messages SET received_at = %s WHERE msg_id IN ('6', '7')", moment(5))
    with told.connection() as connection:
        assert (
            erasure.count_expired(connection, CUT).messages,
            erasure.count_expired(connection, CUT, [DEV]).messages,
        ) == (5, 2)
    assert _erase(told, DEV).messages == 2
    assert _left(told, "messages") == ["1", "2", "4", "5", "6", "8"]
    assert _erase(told).messages == 3
    assert _left(told, "messages") == ["4", "5", "8"]
    assert told.rows("SELECT subject FROM events WHERE payload IS NOT NULL ORDER BY event_id") == [
        ("4",),
        ("5",),
        ("8",),
    ]


LOCKS = {
    "chat": "SELECT pg_advisory_xact_lock(7691, hashtext(chat_id) & 1023) FROM messages WHERE msg_id = '1'",
    "message": "SELECT FROM messages WHERE msg_id IN ('1', '2') FOR KEY SHARE",
    "vector": "SELECT FROM embeddings WHERE msg_id IN ('1', '2') FOR UPDATE",
    "events": "SELECT FROM events WHERE subject IN ('1', '2') FOR UPDATE",
}


@pytest.mark.parametrize("lock", LOCKS.values(), ids=LOCKS)
def test_erasure_never_waits_for_what_others_have_locked(told: Talk, lock: str) -> None:
    """It holds locks of chats that the writer needs, so it leaves the rows out and takes them the next time."""
    with told.connection() as holder, told.connection() as eraser:
        eraser.execute("SET lock_timeout = '1ms'")
        with holder.transaction():
            holder.execute(lock.encode())
            left_out = erasure.erase(eraser, CUT, retry_for=0)
            assert left_out.messages == 1 and left_out.locked >= 2
            assert _left(told, "messages") == ["1", "2", "4", "5"]
        assert erasure.erase(eraser, CUT, retry_for=0).locked == 0
    assert _left(told, "messages") == ["4", "5"]


def test_erasure_comes_back_to_what_was_locked(told: Talk) -> None:
    with told.connection() as holder, holder.transaction():
        chat_locks.lock_chats(holder, [OPS])
        thread = threading.Thread(target=_erase, args=(told,))
        thread.start()
        until(lambda: len(_left(told, "messages")) == 4, 30, "the erasure in the other chat")
    thread.join(30)
    assert _left(told, "messages") == ["4", "5"]


def test_locked_events_are_skipped(told: Talk) -> None:
    with told.connection() as holder, holder.transaction(), told.connection() as eraser:
        holder.execute("SELECT FROM events WHERE error IS NOT NULL FOR UPDATE")
        assert erasure.erase(eraser, CUT, retry_for=0).events == 1
    assert _erase(told).events == 1


def test_later_edit_of_an_erased_message_is_stored(told: Talk) -> None:
    _erase(told)
    told.edit("1", "and once more", at=300, who=ANNA)
    assert told.rows("SELECT text, sent_at FROM messages WHERE msg_id = '1'") == [("and once more", moment(0))]
    assert _erase(told).messages == 1


def test_message_sent_at_the_moment_stays(talk: Talk) -> None:
    talk.say("1", "a", at=100 - 1 / 60)
    talk.say("2", "b", at=100)
    assert _erase(talk).messages == 1
    assert _left(talk, "messages") == ["2"]
    with talk.connection() as connection:
        assert erasure.count_expired(connection, CUT + timedelta(seconds=1)).messages == 1
