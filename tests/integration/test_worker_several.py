"""Several workers on one queue, in threads and in processes, and what a killed one leaves: nothing doubled or lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.embedding import Chat, WatchedModel, WorkerProcess
from tests.harness.scale import scaled
from tests.harness.waiting import until
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.model import Chunk

Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(chat: Chat, tiny_model_dir: Path) -> Iterator[Start]:
    """Starts workers in processes of their own."""
    started: list[WorkerProcess] = []

    def make(**settings: object) -> WorkerProcess:
        started.append(WorkerProcess(chat.url, tiny_model_dir, **settings))  # type: ignore[arg-type]
        return started[-1]

    yield make
    for process in started:
        process.close()


def complete(chat: Chat, count: int) -> None:
    """Every message has its vector, once, and nothing waits."""
    assert chat.queued() == {}
    assert chat.chunks() == {f"m{number}": 1 for number in range(1, count + 1)}


def test_threads_embed_each_message_once(chat: Chat, model: WatchedModel) -> None:
    count = scaled("messages for several workers", full=2000, quick=400)
    chat.register(model)
    chat.say(*(f"message number {n}" for n in range(count)))
    tally = WorkerStats()

    def work(number: int) -> int:
        worker = chat.worker(model, tally, claim=16, is_leader=False)
        return sum(iter(worker.round, 0))

    with ThreadPoolExecutor(4) as pool:
        claimed = list(pool.map(work, range(4)))
    complete(chat, count)
    assert tally.embedded == count == sum(claimed)
    assert all(claimed), "they worked side by side"


def test_workers_share_the_threads_that_the_model_runs_in(chat: Chat, model: WatchedModel) -> None:
    count, poison = scaled("messages for several workers", full=2000, quick=400), "poison poison poison"
    chat.register(model)
    chat.say(*(f"message number {n}" for n in range(count)), poison)
    (chunk,) = model.chunks(poison)
    tally = WorkerStats()
    ran_in: set[str] = set()

    def refuse(batch: Sequence[Chunk]) -> None:
        ran_in.add(threading.current_thread().name.split("_")[0])
        if chunk in batch:
            raise RuntimeError("poison")

    def work(number: int) -> int:
        worker = chat.worker(
            WatchedModel(model, refuse),
            tally,
            model_threads=runs,
            claim=64,
            token_budget=64,
            max_attempts=1,
            is_leader=False,
        )
        return sum(iter(worker.round, 0))

    with ThreadPoolExecutor(2, "worker") as pool, ThreadPoolExecutor(2, "model") as runs:
        list(pool.map(work, range(2)))
    assert set(chat.queued()) == {f"m{count + 1}"}, "one is parked"
    assert chat.chunks() == {f"m{number}": 1 for number in range(1, count + 1)}
    assert ran_in == {"model", "worker"}, "what a failing batch holds is tried one by one by whoever has asked for it"
    assert tally.embedded == count


def test_plan_of_an_empty_archive_is_not_kept_for_a_full_one(chat: Chat, model: WatchedModel) -> None:
    """The plan of a prepared statement is kept, and over an empty table a scan of everything is the cheapest one."""
    chat.register(model)
    worker = chat.worker(model, claim=50, is_leader=False)
    for number in range(1, 21):
        chat.say("one more", first=number)
        assert worker.round() == 1
    for table in ("embeddings", "chat_vector_counts", "embedding_queue", "messages", "events"):
        chat.execute(f"TRUNCATE {table} CASCADE")
        chat.execute(f"ANALYZE {table}")
    before = _read(chat)
    chat.say(*(f"message number {n}" for n in range(100)), first=1001)
    while worker.round():
        pass
    chat.say(*(f"message number {n}" for n in range(1000)), first=2001)
    while worker.round():
        pass
    assert _read(chat) - before < 250_000, "it would be three times that"


def _read(chat: Chat) -> int:
    """How many rows and index entries the server has read of what is derived."""
    tables = ["embeddings", "embedding_queue", "messages"]
    with chat.database.connection() as connection:  # the sessions' figures arrive when they have been idle for a while
        connection.execute("SELECT pg_stat_force_next_flush()")
    ((rows,),) = chat.rows("SELECT sum(seq_tup_read)::int FROM pg_stat_user_tables WHERE relname = ANY(%s)", tables)
    ((entries,),) = chat.rows("SELECT sum(idx_tup_read)::int FROM pg_stat_user_indexes WHERE relname = ANY(%s)", tables)
    return int(rows + entries)


def test_processes_embed_each_message_once(chat: Chat, model: WatchedModel, start: Start) -> None:
    count = scaled("messages for several workers", full=2000, quick=400)
    chat.register(model)
    chat.say(*(f"message number {n}" for n in range(count)))
    workers = [start(claim=8) for _ in range(2)]
    for worker in workers:
        worker.go()
    for worker in workers:
        worker.wait_for("empty")
    complete(chat, count)


def test_writer_is_not_blocked_by_workers(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)
    with ThreadPoolExecutor(2) as pool:
        stop = False

        def work(_: int) -> None:
            worker = chat.worker(model, claim=4, is_leader=False)
            while worker.round() or not stop:
                pass

        running = [pool.submit(work, number) for number in range(2)]
        for batch in range(10):
            first = 1 + 20 * batch
            chat.say(*(f"batch {batch} message {n}" for n in range(20)), first=first)
            chat.edit(f"m{first}", f"edited {batch}")
            chat.edit(f"m{first + 1}", f"edited {batch}")
            chat.delete(f"m{first + 2}")
        until(lambda: not chat.queued(), 60, "the end of the queue")
        stop = True
        for future in running:
            future.result(30)
    assert set(chat.chunks()) == {f"m{n}" for n in range(1, 201) if n % 20 != 3}
    for batch in range(10):
        assert chat.likeness(model, f"m{1 + 20 * batch}", f"edited {batch}") == pytest.approx(1, abs=1e-3)


def test_claims_of_a_killed_worker_are_free_at_once(chat: Chat, model: WatchedModel, start: Start) -> None:
    chat.register(model)
    chat.say(*(f"message number {n}" for n in range(30)))
    killed = start(held=True)
    killed.go()
    killed.wait_for("in the model")
    assert chat.worker(model).round() == 0, "it holds them all"
    killed.process.kill()
    until(lambda: chat.worker(model, is_leader=False).round(), 30, "claims that are free")
    complete(chat, 30)


def test_killed_workers_embed_each_message_once(chat: Chat, model: WatchedModel, start: Start) -> None:
    kills = scaled("kills of an embedding worker", full=50, quick=3)
    chat.register(model)
    chat.say(*(f"message number {n}" for n in range(4 * kills)))
    survivor = start(claim=3)
    for turn in range(kills):
        victim = start(held=True, claim=4)
        for _ in range(1 + turn % 3):  # in its first, second or third run of the model
            victim.go()
            if victim.process.stdout and victim.process.stdout.readline() == "empty\n":
                break
        victim.process.kill()
        victim.close()
    survivor.go()
    survivor.wait_for("empty")
    chat.embed(model)
    complete(chat, 4 * kills)
