"""The writer fills the embedding queue, in small batches and by COPY; a new model gets the messages it lacks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest

from tests.harness.batches import CHAT, batch, deleted, edited, new
from tests.harness.waiting import until
from vkteams_daemon.store import embedding_models, queue
from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive import chat_locks, message_rows
from vkteams_daemon.store.ingest.writer import Writer


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def other(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def writer(database_url: str) -> Iterator[Writer]:
    writer = Writer(lambda: psycopg.connect(database_url, autocommit=True), "b1")
    until(writer.acquire, 30, "the lock")
    yield writer
    writer.close()


@pytest.mark.parametrize("size", [100, 500])
def test_a_batch_is_queued_for_every_model_in_use(connection: Connection, writer: Writer, size: int) -> None:
    first = embedding_models.register(connection, "a", "fa", 3)
    connection.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('r', 'fr', 3, 'retired')")
    writer.store(batch(new(1, "old")))
    second = embedding_models.register(connection, "b", "fb", 3)
    connection.execute("DELETE FROM embedding_queue")
    stored = writer.store(
        batch(
            *(new(n) for n in range(2, size)), edited(size, "old", "new text"), deleted(size + 1, "m2"),
            edited(size + 2, "m3", "x"), new(size + 3, text=None),
        )
    )  # fmt: skip
    assert stored.queued == size - 2
    queued = connection.execute(
        "SELECT model_id, count(*), bool_or(msg_id = 'old'), bool_or(msg_id = 'm2') FROM embedding_queue"
        " GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert queued == [(model.model_id, stored.queued, True, False) for model in (first, second)]


def test_model_registered_while_a_batch_is_queued_misses_nothing(
    connection: Connection, other: Connection, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = threading.Event(), threading.Event()
    copy = ColumnSet.copy

    def slow(self: ColumnSet, connection: Connection, table: str, rows: Any, **more: Any) -> None:
        if table == "embedding_queue":
            reached.set()
            assert go.wait(30)
        copy(self, connection, table, rows, **more)

    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(ColumnSet, "copy", slow)
        storing = pool.submit(writer.store, batch(*(new(n) for n in range(1, 501))))
        assert reached.wait(30)
        model = embedding_models.register(connection, "a", "fa", 3)
        looking = pool.submit(embedding_models.enqueue_missing, connection, model.model_id)
        try:
            until(
                lambda: looking.done() or other.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall(),
                what="the wait for the writer",
            )
        finally:
            go.set()
        looking.result(30)
        storing.result(30)
    assert other.execute("SELECT count(*) FROM embedding_queue").fetchone() == (500,)


def test_remaining_queue_row_does_not_halve_a_batch(
    connection: Connection, other: Connection, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = embedding_models.register(connection, "a", "fa", 3)
    writer.store(batch(new(1, "old")))
    copied: list[str] = []
    copy = ColumnSet.copy

    def counted(self: ColumnSet, connection: Connection, table: str, rows: Any, **more: Any) -> Any:
        copied.append(table)
        return copy(self, connection, table, rows, **more)

    monkeypatch.setattr(ColumnSet, "copy", counted)
    with other.transaction():
        assert len(queue.claim(other, model.model_id, 10)) == 1
        with connection.transaction():
            chat_locks.lock_chats(connection, {CHAT})
            message_rows.delete_messages(connection, [(CHAT, "old")])
        stored = writer.store(batch(edited(2, "old", "again"), *(new(n) for n in range(3, 503))))
    assert copied == ["events", "messages", "embedding_queue"]
    assert stored.queued == 501
    assert connection.execute("SELECT count(*) FROM embedding_queue").fetchone() == (501,)


def test_missing_vectors_are_queued_page_by_page(
    connection: Connection, other: Connection, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.store(batch(*(new(n) for n in range(1, 6)), new(6, text=None), new(7), deleted(8, "m7")))
    model = embedding_models.register(connection, "a", "fa", 3)
    monkeypatch.setattr(embedding_models, "_PAGE", 2)
    with ThreadPoolExecutor(1) as pool:
        with other.transaction():
            other.execute(
                "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind) VALUES (%s, 'm5', %s, 'message')",
                (CHAT, model.model_id),
            )
            # The lock that keeps writers from being overlooked would wait for this one as a whole.
            monkeypatch.setattr(embedding_models, "_WAIT_FOR_WRITERS", "SELECT 1")
            looking = pool.submit(embedding_models.enqueue_missing, connection, model.model_id)
            until(
                lambda: other.execute("SELECT count(*) FROM embedding_queue").fetchone() == (5,),
                what="the pages before the one that waits",
            )
            assert not looking.done()
        assert looking.result(30) == 4
    assert connection.execute("SELECT count(*) FROM embedding_queue").fetchone() == (5,)


def test_message_that_a_worker_embeds_meanwhile_is_not_queued_again(
    connection: Connection, other: Connection, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = embedding_models.register(connection, "a", "fa", 3)
    writer.store(batch(new(1), new(2)))
    monkeypatch.setattr(embedding_models, "_WAIT_FOR_WRITERS", "SELECT 1")  # the worker's claims come after it
    queue.prepare_connection(other)
    with ThreadPoolExecutor(1) as pool:
        with other.transaction():
            claims = queue.claim(other, model.model_id, 1)
            vector = np.array([1, 0, 0], np.float16)
            queue.finish(other, model.model_id, [queue.EmbeddingResult(claims[0], ((b"hash", vector),))])
            looking = pool.submit(embedding_models.enqueue_missing, connection, model.model_id)
            until(
                lambda: looking.done() or other.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall(),
                what="the wait for the worker",
            )
            assert not looking.done()
        assert looking.result(30) == 0
    assert len(connection.execute("SELECT FROM embedding_queue").fetchall()) == 1


def test_only_foreign_key_checks_use_a_generic_plan(connection: Connection, writer: Writer) -> None:
    """A plan that is kept for anything else may be one that was made while the table was empty."""
    model = embedding_models.register(connection, "a", "fa", 3)
    writer.store(batch(new(1)))
    queue.prepare_connection(connection)
    with connection.transaction():
        claims = queue.claim(connection, model.model_id, 10)
        vector = np.array([1, 0, 0], np.float16)
        done = [queue.EmbeddingResult(claim, ((b"hash", vector),)) for claim in claims]
        assert queue.finish(connection, model.model_id, done) == 1
        assert connection.execute("SHOW plan_cache_mode").fetchone() == ("force_custom_plan",)
    assert connection.execute("SHOW plan_cache_mode").fetchone() == ("auto",)


@pytest.mark.parametrize("size", [1, 300])
def test_missing_json_columns_are_null(connection: Connection, writer: Writer, size: int) -> None:
    bold = {"bold": [{"offset": 0, "length": 5}]}
    writer.store(batch(*(new(n, format=bold) for n in range(1, size + 1))))
    rows = connection.execute("SELECT format, parts IS NULL, forward IS NULL, thread IS NULL FROM messages").fetchall()
    assert rows == [(bold, True, True, True)] * size
