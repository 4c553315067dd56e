"""A message that changes while a worker has claimed it: no stale vector, none for a deleted message, no waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.embedding import ROOM, Chat, WatchedModel
from tests.harness.waiting import until
from vkteams_daemon.embedding.model import Chunk, Model
from vkteams_daemon.store import embedding_models, queue, vector_counts
from vkteams_daemon.store.derive import chat_locks

Meanwhile = Callable[[Callable[[], None]], WatchedModel]


@pytest.fixture
def meanwhile(tiny_model_dir: Path) -> Meanwhile:
    """Makes a model during whose first run something happens to the archive."""

    def make(what: Callable[[], None]) -> WatchedModel:
        left = [what]

        def before(chunks: Sequence[Chunk]) -> None:
            if left:
                left.pop()()

        return WatchedModel(Model.load(tiny_model_dir), before)

    return make


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer fails instead of waiting for a worker's locks: everything here runs in one thread."""
    monkeypatch.setenv("PGOPTIONS", "-c lock_timeout=2s")


def test_edited_while_being_embedded_is_embedded_again(chat: Chat, meanwhile: Meanwhile) -> None:
    model = meanwhile(lambda: chat.edit("m1", "restart the proxy"))
    chat.register(model)
    chat.say("the printer is broken", "still here")
    at_work = chat.worker(model)
    at_work.round()
    assert chat.queued() == {"m1": 0} and set(chat.chunks()) == {"m2"}, "no vector of a text it no longer has"
    at_work.round()
    assert chat.queued() == {}
    assert chat.likeness(model, "m1", "restart the proxy") == pytest.approx(1, abs=1e-3)


def test_edited_again_and_again_ends_with_the_last_text(chat: Chat, tiny_model_dir: Path) -> None:
    edits = iter(f"edit number {n}" for n in range(5))

    def before(chunks: Sequence[Chunk]) -> None:
        text = next(edits, None)
        if text:
            chat.edit("m1", text)

    model = WatchedModel(Model.load(tiny_model_dir), before)
    chat.register(model)
    chat.say("first")
    at_work = chat.worker(model)
    while at_work.round():
        pass
    assert chat.queued() == {}
    assert chat.likeness(model, "m1", "edit number 4") == pytest.approx(1, abs=1e-3)


def test_deleted_while_being_embedded_has_no_vector(chat: Chat, meanwhile: Meanwhile) -> None:
    model = meanwhile(lambda: chat.delete("m1"))
    chat.register(model)
    chat.say("gone in a moment", "stays")
    chat.embed(model)
    assert chat.queued() == {} and set(chat.chunks()) == {"m2"}


def test_cleaned_up_while_being_embedded_has_no_vector(chat: Chat, meanwhile: Meanwhile) -> None:
    model = meanwhile(lambda: chat.execute("DELETE FROM messages WHERE msg_id = 'm1'") and None)
    chat.register(model)
    chat.say("gone in a moment", "stays")
    chat.embed(model)
    assert chat.queued() == {} and set(chat.chunks()) == {"m2"}


def test_message_that_comes_back_while_its_queue_row_is_claimed_is_embedded(chat: Chat, model: Model) -> None:
    stored = chat.register(model)
    chat.say("cleaned up")
    chat.execute("DELETE FROM messages")  # as the clean-up does, which passes by what a worker has in hand
    with chat.connection() as at_work:
        queue.prepare_connection(at_work)
        with at_work.transaction():
            claims = queue.claim(at_work, stored.model_id, 10)
            assert [claim.text for claim in claims] == [None]
            chat.say("here again")
            queue.finish(at_work, stored.model_id, [queue.EmbeddingResult(claim, ()) for claim in claims])
    assert chat.queued() == {"m1": 0}
    chat.embed(model)
    assert chat.likeness(model, "m1", "here again") == pytest.approx(1, abs=1e-3)


def test_queue_row_without_message_stays_while_its_chat_is_locked(chat: Chat, model: Model) -> None:
    stored = chat.register(model)
    chat.say("cleaned up")
    chat.execute("DELETE FROM messages")
    with chat.connection() as writing, chat.connection() as at_work:
        queue.prepare_connection(at_work)
        for left in ({"m1": 0}, {}):
            with writing.transaction(), at_work.transaction():
                if left:
                    chat_locks.lock_chats(writing, {ROOM})  # it may be about to bring the message again
                claims = queue.claim(at_work, stored.model_id, 10)
                queue.finish(at_work, stored.model_id, [queue.EmbeddingResult(claim, ()) for claim in claims])
            assert chat.queued() == left


def test_emptied_while_being_embedded_has_no_vector(chat: Chat, meanwhile: Meanwhile) -> None:
    model = meanwhile(lambda: chat.edit("m1", ""))
    chat.register(model)
    chat.say("only a sticker in a moment")
    chat.embed(model)
    assert chat.queued() == {} and chat.chunks() == {}


def test_message_that_gets_a_text_while_claimed_as_empty_is_embedded(chat: Chat, meanwhile: Meanwhile) -> None:
    model = meanwhile(lambda: chat.edit("m1", "words after all"))
    chat.register(model)
    chat.say("words", "another")
    chat.execute("UPDATE messages SET text = '' WHERE msg_id = 'm1'")
    chat.embed(model)
    assert chat.queued() == {} and set(chat.chunks()) == {"m1", "m2"}


def test_embedded_then_deleted_loses_its_vector(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    chat.say("here", "there")
    chat.embed(model)
    chat.delete("m1")
    assert set(chat.chunks()) == {"m2"}


def test_another_text_of_the_same_version_is_embedded_again(chat: Chat, meanwhile: Meanwhile) -> None:
    """As when two pins show different copies of a message that nobody has seen itself, or a replay reads it anew."""
    model = meanwhile(
        lambda: chat.execute("UPDATE messages SET text = 'restart the proxy' WHERE msg_id = 'm1'") and None
    )
    chat.register(model)
    chat.say("the printer is broken")
    at_work = chat.worker(model)
    at_work.round()
    assert chat.queued() == {"m1": 0} and chat.chunks() == {}
    at_work.round()
    assert chat.likeness(model, "m1", "restart the proxy") == pytest.approx(1, abs=1e-3)


def test_worker_does_not_wait_for_an_uncommitted_edit(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    chat.say("one", "two")
    with chat.connection() as editor, editor.transaction():
        editor.execute("UPDATE messages SET version = version + 1, text = 'uno' WHERE msg_id = 'm1'")
        chat.worker(model).round()
        assert set(chat.chunks()) == {"m2"} and chat.queued() == {"m1": 0}
    chat.embed(model)
    assert chat.likeness(model, "m1", "uno") == pytest.approx(1, abs=1e-3)


def test_an_edit_waits_until_the_vector_is_stored_and_is_then_queued(chat: Chat, model: WatchedModel) -> None:
    stored = chat.register(model)
    chat.say("one")
    with chat.connection() as connection, ThreadPoolExecutor(1) as pool:
        queue.prepare_connection(connection)
        with connection.transaction():
            (claim,) = queue.claim(connection, stored.model_id, 10)
            vector = model.embed(model.chunks("one"))[0].astype("float16")
            assert queue.finish(connection, stored.model_id, [queue.EmbeddingResult(claim, ((b"h", vector),))]) == 1
            edit = pool.submit(chat.edit, "m1", "two")
            until(lambda: chat.rows("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), what="the wait")
        edit.result(30)
    assert chat.queued() == {"m1": 0}
    chat.embed(model)
    assert chat.likeness(model, "m1", "two") == pytest.approx(1, abs=1e-3)


def test_edit_does_not_wait_while_the_index_is_updated(
    chat: Chat, model: WatchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = queue._copy_vectors

    def meanwhile(*arguments: Any) -> None:
        copy(*arguments)
        chat.edit("m1", "two")
        chat.delete("m2")

    chat.register(model)
    chat.say("one", "deleted soon", "stays")
    with monkeypatch.context() as patched:
        patched.setattr(queue, "_copy_vectors", meanwhile)
        assert chat.worker(model).round() == 3
    assert set(chat.chunks()) == {"m3"}, "what had been stored of the old texts is gone again"
    assert chat.queued() == {"m1": 0, "m2": 0}
    chat.embed(model)
    assert chat.queued() == {} and set(chat.chunks()) == {"m1", "m3"}
    assert chat.likeness(model, "m1", "two") == pytest.approx(1, abs=1e-3)


def test_claims_belong_to_one_transaction_and_are_free_after_it(chat: Chat, model: WatchedModel) -> None:
    stored = chat.register(model)
    chat.say(*(f"text {n}" for n in range(10)))
    with chat.connection() as first, chat.connection() as second:
        with first.transaction():
            held = {claim.msg_id for claim in queue.claim(first, stored.model_id, 6)}
            with second.transaction():
                others = {claim.msg_id for claim in queue.claim(second, stored.model_id, 100)}
            assert len(held) == 6 and len(others) == 4 and not held & others
        with second.transaction():
            assert len(queue.claim(second, stored.model_id, 100)) == 10


def test_message_committed_while_the_model_is_registered_is_queued(chat: Chat, model: WatchedModel) -> None:
    """The writer asked for the models before there was one, and commits after the archive was looked through."""
    chat.say("before")
    with chat.connection() as writer, ThreadPoolExecutor(1) as pool:
        with writer.transaction():
            writer.execute("INSERT INTO messages SELECT chat_id, 'm2', user_id, sent_at, NULL, NULL, NULL, 1, 'late',"
                           " NULL, NULL, NULL, NULL, NULL, received_at FROM messages")  # fmt: skip
            writer.execute(
                "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind)"
                " SELECT 'x', 'm2', model_id, 'message' FROM embedding_models"
            )
            at_work = chat.worker(model)
            assert at_work.round() == 0
            looking = pool.submit(at_work.maintain, idle=True)
            until(lambda: chat.rows("SELECT FROM pg_locks WHERE NOT granted"), what="the wait for the writer")
        assert looking.result(30)
    assert chat.queued() == {"m1": 0, "m2": 0}


def test_enqueue_missing_twice_queues_nothing_twice(chat: Chat, model: WatchedModel) -> None:
    chat.say("one", "two", "three")
    stored = chat.register(model)
    with chat.connection() as connection:
        assert embedding_models.enqueue_missing(connection, stored.model_id) == 3
        assert embedding_models.enqueue_missing(connection, stored.model_id) == 0
    chat.embed(model)
    with chat.connection() as connection:
        assert embedding_models.enqueue_missing(connection, stored.model_id) == 0


def test_server_frees_the_claims_of_a_stopped_worker(chat: Chat, model: WatchedModel) -> None:
    stored = chat.register(model)
    chat.say("one")
    stuck = chat.connection()
    queue.prepare_connection(stuck)
    assert stuck.execute("SHOW idle_in_transaction_session_timeout").fetchone() == ("10s",)
    stuck.execute("SET idle_in_transaction_session_timeout = '50ms'")
    stuck.execute("BEGIN")
    assert len(queue.claim(stuck, stored.model_id, 10)) == 1
    with chat.connection() as other:

        def free() -> bool:
            with other.transaction():
                return len(queue.claim(other, stored.model_id, 10)) == 1

        until(free, 30, "the end of the claim")
    with pytest.raises(psycopg.Error, match="idle-in-transaction"):
        stuck.execute("SELECT 1")


def test_nobody_waits_for_the_count_of_vectors(chat: Chat, model: Model) -> None:
    chat.register(model)
    chat.say("first", "second", "third", "fourth")
    assert chat.worker(model, claim=1).round() == 1
    with chat.connection() as other, other.transaction():
        other.execute("SELECT FROM chat_vector_counts FOR UPDATE")  # as a worker in the same chat does
        assert chat.worker(model, claim=2).round() == 2
        chat.delete(min(chat.chunks()))
    counts = "SELECT count(*)::int, sum(messages)::int, sum(vectors)::int FROM chat_vector_counts"
    assert chat.rows(counts) == [(2, 2, 2)]
    chat.embed(model)
    with chat.connection() as connection:
        vector_counts.recount(connection, ROOM)
    assert chat.rows(counts) == [(1, 3, 3)]


def test_vectors_are_counted_again_beside_a_worker(chat: Chat, model: Model) -> None:
    stored = chat.register(model)
    chat.say("first", "second")
    assert chat.worker(model, claim=1).round() == 1
    with chat.connection() as at_work, chat.connection() as counting, ThreadPoolExecutor(1) as pool:
        counting.execute("SET lock_timeout = 0")
        queue.prepare_connection(at_work)
        with at_work.transaction():
            (claim,) = queue.claim(at_work, stored.model_id, 10)
            vector = model.embed(model.chunks(claim.text or ""))[0]
            queue.finish(at_work, stored.model_id, [queue.EmbeddingResult(claim, ((b"h", vector),))])
            counted = pool.submit(vector_counts.recount, counting, ROOM)
            until(
                lambda: chat.rows("SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
                                  counting.info.backend_pid),
                30, "a recount that waits for the worker's part",
            )  # fmt: skip
        counted.result(30)
    assert chat.rows("SELECT messages, vectors FROM chat_vector_counts") == [(2, 2)]
