"""What a worker does about texts that fail, a model that is broken and a database that goes away."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.harness.embedding import Chat, WatchedModel
from tests.harness.postgres import PostgresServer
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.daemon.workers import pool, worker_loop
from vkteams_daemon.daemon.workers import worker_stats as counting
from vkteams_daemon.daemon.workers.pool import WorkerPool
from vkteams_daemon.daemon.workers.worker import LOAD_LIMIT, Worker
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.model import Chunk, Model, Vectors
from vkteams_daemon.errors import ModelError
from vkteams_daemon.options import Daemon as DaemonOptions
from vkteams_daemon.store import embedding_models, queue
from vkteams_daemon.store.database import Database

POISON = "poison poison poison"


@pytest.fixture
def fragile(tiny_model_dir: Path) -> WatchedModel:
    """A model that fails at the poison, whatever stands beside it."""
    model = Model.load(tiny_model_dir)
    poison = model.chunks(POISON)[0]

    def before(chunks: Sequence[Chunk]) -> None:
        if poison in chunks:
            raise RuntimeError("bad tensor")

    return WatchedModel(model, before)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers try again soon."""
    monkeypatch.setattr(worker_loop, "BACKOFF_MAX", 0.05)


@contextlib.contextmanager
def running(worker: Worker, stop: threading.Event) -> Iterator[threading.Thread]:
    """The worker at its loop, in a thread; afterwards it is stopped."""
    wake = threading.Event()
    thread = threading.Thread(target=worker_loop.take_turns, args=([worker], wake, 0.05, stop))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        wake.set()
        thread.join(30)
    assert not thread.is_alive()


def due_now(chat: Chat) -> None:
    """As if the time until the next attempt had passed."""
    chat.execute("UPDATE embedding_queue SET not_before = '-infinity' WHERE not_before < 'infinity'")


def test_failing_text_does_not_delay_others(chat: Chat, fragile: WatchedModel) -> None:
    chat.register(fragile)
    chat.say("one", POISON, "two", POISON)
    tally = chat.embed(fragile)
    assert set(chat.chunks()) == {"m1", "m3"}
    assert chat.queued() == {"m2": 1, "m4": 1}
    assert (tally.embedded, tally.failed, tally.queued) == (2, 2, 2)


def test_failing_text_is_retried_with_back_off_and_then_parked(
    chat: Chat, fragile: WatchedModel, caplog: pytest.LogCaptureFixture
) -> None:
    chat.register(fragile)
    chat.say(POISON, "healthy")
    delays = []
    for attempt in range(1, 5):
        chat.embed(fragile)
        assert chat.queued() == {"m1": attempt}
        ((delay, error),) = chat.rows(
            "SELECT extract(epoch FROM not_before - clock_timestamp())::float8, last_error FROM embedding_queue"
        )
        delays.append(delay)
        assert error == "RuntimeError: bad tensor"
        assert chat.worker(fragile).round() == 0, "not before its time"
        due_now(chat)
    assert [round(delay / 5) for delay in delays] == [1, 2, 4, 8]
    assert "parked" not in caplog.text
    tally = chat.embed(fragile)
    assert chat.rows("SELECT attempts, not_before = 'infinity' FROM embedding_queue") == [(5, True)]
    assert "message m1 of chat 681869378@chat.agent cannot be embedded and is parked: RuntimeError: bad" in caplog.text
    assert tally.queued == 0, "a parked text waits for nothing"
    due_now(chat)
    assert chat.worker(fragile).round() == 0


def test_edit_queues_a_parked_message_again(chat: Chat, fragile: WatchedModel) -> None:
    chat.register(fragile)
    chat.say(POISON)
    chat.embed(fragile, max_attempts=1)
    assert chat.rows("SELECT attempts, not_before = 'infinity' FROM embedding_queue") == [(1, True)]
    chat.edit("m1", "harmless now")
    assert chat.rows("SELECT attempts, not_before = '-infinity' FROM embedding_queue") == [(0, True)]
    chat.embed(fragile)
    assert chat.queued() == {} and chat.chunks() == {"m1": 1}


def test_edit_during_a_failing_attempt_starts_over(chat: Chat, tiny_model_dir: Path) -> None:
    model = Model.load(tiny_model_dir)
    poison = model.chunks(POISON)[0]
    edits = ["harmless now"]

    def before(chunks: Sequence[Chunk]) -> None:
        if poison in chunks:
            if edits:
                chat.edit("m1", edits.pop())
            raise RuntimeError("bad tensor")

    watched = WatchedModel(model, before)
    chat.register(watched)
    chat.say(POISON)
    chat.execute("UPDATE embedding_queue SET attempts = 4")
    chat.worker(watched).round()
    assert chat.queued() == {"m1": 0}, "its last attempt was the old text's"
    chat.embed(watched)
    assert chat.queued() == {} and chat.chunks() == {"m1": 1}


def test_parked_text_loses_the_vector_of_its_earlier_version(chat: Chat, fragile: WatchedModel) -> None:
    chat.register(fragile)
    chat.say("harmless")
    chat.embed(fragile)
    chat.edit("m1", POISON)
    chat.embed(fragile, max_attempts=2)
    assert chat.chunks() == {"m1": 1}, "it may still work"
    due_now(chat)
    chat.embed(fragile, max_attempts=2)
    assert chat.chunks() == {}


def test_deleting_a_parked_message_clears_it_from_the_queue(chat: Chat, fragile: WatchedModel) -> None:
    chat.register(fragile)
    chat.say(POISON)
    chat.embed(fragile, max_attempts=1)
    chat.delete("m1")
    assert chat.queued() == {}


def test_retry_makes_parked_texts_due_again(chat: Chat, fragile: WatchedModel, model: WatchedModel) -> None:
    chat.register(fragile)
    chat.say(POISON, "fine")
    chat.embed(fragile, max_attempts=1)
    with chat.connection() as connection:
        (parked,) = queue.parked(connection)
        assert (parked.msg_id, parked.model, parked.attempts) == ("m1", "tiny", 1)
        assert parked.error == "RuntimeError: bad tensor"
        assert queue.retry(connection) == 1
        assert queue.parked(connection) == [] and queue.retry(connection) == 0
    chat.embed(model)  # as after an upgrade
    assert chat.queued() == {} and set(chat.chunks()) == {"m1", "m2"}


def test_vector_that_is_not_finite_is_a_failure(chat: Chat, tiny_model_dir: Path) -> None:
    model = Model.load(tiny_model_dir)
    poison = model.chunks(POISON)[0]

    class Overflowing(WatchedModel):
        def embed(self, chunks: Sequence[Chunk]) -> Vectors:
            vectors = super().embed(chunks)
            vectors[[chunk == poison for chunk in chunks]] = np.nan
            return vectors

    watched = Overflowing(model)
    chat.register(watched)
    chat.say(POISON, "healthy")
    chat.embed(watched)
    assert chat.queued() == {"m1": 1} and set(chat.chunks()) == {"m2"}


def test_broken_model_parks_nothing(chat: Chat, tiny_model_dir: Path) -> None:
    working = Model.load(tiny_model_dir)
    broken = True

    def before(chunks: Sequence[Chunk]) -> None:
        if broken:
            raise RuntimeError("out of memory")

    model = WatchedModel(working, before)
    asked_for: list[Any] = []

    def load(failed: Model | None) -> Model:
        asked_for.append(failed)
        return model  # type: ignore[return-value]

    chat.register(model)
    chat.say("one", "two", "three")
    worker = Worker(chat.database, load, WorkerStats())
    for _ in range(3):
        with pytest.raises(ModelError, match="the model tiny does not work: out of memory"):
            worker.round()
    assert chat.queued() == {"m1": 0, "m2": 0, "m3": 0}, "the texts are not to blame"
    assert asked_for == [None, model, model], "it is loaded again"
    broken = False
    assert worker.round() == 3
    assert len(chat.chunks()) == 3


def test_unloadable_model_is_logged_once_and_loaded_when_repaired(
    chat: Chat, model: WatchedModel, caplog: pytest.LogCaptureFixture, impatient: None
) -> None:
    caplog.set_level(logging.INFO)
    attempts: list[int] = []
    mended = threading.Event()

    def load(failed: Model | None) -> Model:
        attempts.append(1)
        if not mended.is_set():
            raise ModelError("model.onnx: the runtime cannot load it")
        return model  # type: ignore[return-value]

    chat.register(model)
    chat.say("one", "two")
    tally, stop = WorkerStats(), threading.Event()
    with (
        running(Worker(chat.database, load, tally, stop=stop), stop),
        running(Worker(chat.database, load, tally, stop=stop, is_leader=False), stop),
    ):
        until(lambda: len(attempts) >= 6, 30, "several attempts")
        assert tally.state == "failing"
        chat.say("said meanwhile", first=3)  # events go on
        assert len(chat.queued()) == 3
        mended.set()
        until(lambda: not chat.queued(), 30, "the end of the queue")
        until(lambda: tally.state == "ok", 30, "the state ok")
    assert set(chat.chunks()) == {"m1", "m2", "m3"}
    lines = [record.getMessage() for record in caplog.records if record.name == counting.__name__]
    assert lines == ["embedding waits: model.onnx: the runtime cannot load it", "embedding goes on"]


def test_unexpected_error_is_logged_and_ends_no_worker(
    chat: Chat, model: WatchedModel, caplog: pytest.LogCaptureFixture, impatient: None
) -> None:
    failures = [MemoryError(), ZeroDivisionError("a bug")]

    def load(failed: Model | None) -> Model:
        if failures:
            raise failures.pop()
        return model  # type: ignore[return-value]

    chat.say("one")
    stop = threading.Event()
    with running(Worker(chat.database, load, WorkerStats(), stop=stop), stop):
        until(lambda: chat.chunks() == {"m1": 1}, 30, "the vector")
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in records] == [
        "embedding waits: internal error: ZeroDivisionError: a bug", "embedding waits: internal error: MemoryError: "
    ]  # fmt: skip
    assert all(record.exc_info for record in records)


class _Clock(threading.Event):
    """A clock that its own waits move on; none of them lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        self.now += (timeout or 0.0) + 0.001
        return self.is_set()


def test_a_thousand_failures_make_no_wait_longer_than_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, attempts = _Clock(), 0
    monkeypatch.setattr(worker_loop, "time", clock)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # a thousand times all objects of the test process

    def load(failed: Model | None) -> Model:
        nonlocal attempts
        attempts += 1
        if attempts == 1100:  # 2.0 ** 1024 is no float any more
            clock.set()
        raise ModelError("there is none")

    worker = Worker(Database(Config()), load, WorkerStats(), stop=clock)
    worker_loop.take_turns([worker], threading.Event(), 1.0, clock)
    assert attempts == 1100
    assert max(clock.waits) <= worker_loop.BACKOFF_MAX
    assert clock.now > 1000 * worker_loop.BACKOFF_MAX / 2


def test_workers_whose_model_could_not_be_read_start_later(
    server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(pool, "START_INTERVAL", 0.05)
    (tmp_path / "models").mkdir()
    default = tmp_path / "models" / "default"
    default.mkdir()  # reading it fails, for root too
    config = Config(daemon=DaemonOptions(state_dir=str(tmp_path)))
    status = new_status("1", "all")
    faults = [ZeroDivisionError("a bug")]

    def new_pulse(name: str) -> Pulse:
        if faults:
            raise faults.pop()
        return Pulse(name)

    workers = WorkerPool(config, Database(config), pytest.fail, new_pulse)
    with ThreadPoolExecutor(8) as threads:
        workers.start(threads)
        workers.fill(status)
        assert (status.embedding.state, status.embedding.last_error) == ("failing", f"{default}: cannot be read")
        default.rmdir()
        default.write_text("absent\n")

        def last_error() -> str | None:
            workers.fill(status)
            return status.embedding.last_error

        until(lambda: "'absent' is not installed" in (last_error() or ""), 20, "the workers' own failure")
        assert [model.name for model in status.embedding.models] == ["absent"]
        workers.stop()
    said = [record.getMessage() for record in caplog.records]
    assert sum(f"{default}: cannot be read" in line for line in said) == 1
    assert not faults and said.index("embedding waits: internal error: ZeroDivisionError: a bug") < said.index(
        "embedding goes on"
    ), "the names were known, but the workers could not be made"


def test_embedding_goes_on_when_each_worker_works_again() -> None:
    stats, workers = WorkerStats(), ("one", "two")
    for worker in workers:
        stats.mark_failing(worker, ModelError("there is none"))
    stats.mark_ok("one")
    assert (stats.state, stats.last_error) == ("failing", "there is none")
    stats.mark_ok("two")
    assert (stats.state, stats.last_error) == ("ok", None)


Fault = Callable[[PostgresServer], object]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(lambda server: server.restart("immediate"), id="crash"),
        pytest.param(lambda server: server.restart("fast"), id="restart"),
        pytest.param(lambda server: server.terminate_backends(), id="sessions ended"),
    ],
)
def test_worker_survives_a_database_outage(
    durable_server: PostgresServer, durable_database_url: str, tiny_model_dir: Path, impatient: None, fault: Fault
) -> None:
    chat = Chat(durable_database_url)
    in_the_model, go = threading.Event(), threading.Event()

    def before(chunks: Sequence[Chunk]) -> None:
        in_the_model.set()
        assert go.wait(60)

    model = WatchedModel(Model.load(tiny_model_dir), before)
    chat.register(model)
    chat.say(*(f"message number {n}" for n in range(40)))
    tally, stop = WorkerStats(), threading.Event()
    with running(chat.worker(model, tally, claim=10, stop=stop), stop):
        assert in_the_model.wait(30)
        fault(durable_server)
        go.set()
        until(lambda: len(chat.chunks()) == 40, 60, "every vector")
        until(lambda: tally.state == "ok", 30, "the state ok")
    assert chat.queued() == {} and set(chat.chunks().values()) == {1}
    assert tally.embedded == 40
    chat.close()


def test_leader_that_waits_for_the_models_of_others_is_overdue(chat: Chat, tiny_model_dir: Path) -> None:
    """An index build has no limit. The steps beside it have one, so a server process that hangs there is left."""
    model = Model.load(tiny_model_dir)
    chat.register(model)
    pulse = Pulse("worker 0")
    worker = chat.worker(model, pulse=pulse)
    worker.round()
    with chat.database.connect() as blocker, blocker.transaction():
        blocker.execute(f"SELECT pg_advisory_xact_lock({embedding_models._MODELS_LOCK})".encode())
        with ThreadPoolExecutor(1) as threads:
            turn = threads.submit(worker.turn)
            until(lambda: chat.rows("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"), 30, "the wait")
            due, _ = pulse._turn
            assert due < time.monotonic() + LOAD_LIMIT
            blocker.execute("ROLLBACK")
            assert turn.result(30) is False
