"""Several models in use: each with its queue, vectors and index, and search asks all that are complete."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.embedding import Chat, WatchedModel
from tests.harness.models import NAME, write_encoder
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.daemon.workers.pool import WorkerPool
from vkteams_daemon.daemon.workers.worker import Worker
from vkteams_daemon.daemon.workers.worker_loop import take_turns
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.embedding.model import Chunk, Model
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.options import Embedding
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store import embedding_models

TEXTS = ("the proxy is down again", "the printer is broken", "lunch at noon")
NAMES = (NAME, "wider", "third")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models, installed; the first is in use. For reading only."""
    work, directory = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("three")
    for seed, (name, hidden) in enumerate(zip(NAMES, (32, 48, 48), strict=True), 1):
        installer.install(str(write_encoder(work / name, seed=seed, hidden=hidden)), directory, precision="fp32")
    return directory


@pytest.fixture
def archive(chat: Chat, three: Path) -> Iterator[Archive]:
    config = Config(database=DatabaseOptions(url=chat.url), embedding=Embedding(models_dir=str(three)))
    with Archive(config) as archive:
        yield archive


class Set:
    """A host that embeds for a set of models, as its leader does."""

    def __init__(self, chat: Chat, three: Path, *names: str, known: bool = True) -> None:
        self.models = {name: Model.load(three / name) for name in names}
        prints = [model.fingerprint for model in self.models.values()]
        self.workers = {
            name: Worker(
                chat.database, lambda _, model=model: model, WorkerStats(), claim=1,
                chosen=lambda: prints if known else None,
            )
            for name, model in self.models.items()
        }  # fmt: skip

    def work(self, *names: str) -> None:
        """Work off the queues of these models, or of all, and settle."""
        for name in names or self.workers:
            while self.workers[name].turn():
                pass


def states(chat: Chat) -> dict[str, str]:
    return dict(chat.rows("SELECT name, state FROM embedding_models"))  # type: ignore[arg-type]


def vectors(chat: Chat) -> dict[str, int]:
    rows = chat.rows("SELECT name, count(*)::int FROM embeddings JOIN embedding_models USING (model_id) GROUP BY name")
    return dict(rows)  # type: ignore[arg-type]


def asked(archive: Archive) -> set[str]:
    """The models that a semantic search asks."""
    answer = archive.search("the proxy is down again", mode="semantic")
    assert answer.hits[0].msg_id == "m1"
    names = {leg.name.removeprefix("semantic ") for hit in answer.hits for leg in hit.legs if leg.name != "semantic"}
    return names or set(answer.coverage.models)


def test_search_asks_every_model_that_is_complete(chat: Chat, three: Path, archive: Archive) -> None:
    chat.say(*TEXTS)
    Set(chat, three, NAME).work()
    assert asked(archive) == {NAME}
    both = Set(chat, three, NAME, "wider")
    both.work(NAME)
    assert both.workers["wider"].turn() and asked(archive) == {NAME}, "the second is half built"
    chat.say("said meanwhile", first=4)
    assert states(chat) == {NAME: "active", "wider": "building"}
    both.work()
    assert states(chat) == {NAME: "active", "wider": "active"} and vectors(chat) == {NAME: 4, "wider": 4}
    assert asked(archive) == {NAME, "wider"}
    assert archive.search("the printer is broken").hits[0].msg_id == "m2"
    chat.say("said afterwards", first=5)
    coverage = archive.search("proxy").coverage
    assert (coverage.models, coverage.without_vector) == ((NAME, "wider"), 1), "one message, though it waits for two"
    statistics = archive.statistics()
    assert [(model.name, model.state, model.messages, model.indexed) for model in statistics.models] == [
        (NAME, "active", 4, True), ("wider", "active", 4, True),
    ]  # fmt: skip
    assert statistics.queued == 2


def test_a_set_is_replaced_without_an_outage(chat: Chat, three: Path, archive: Archive) -> None:
    chat.say(*TEXTS)
    Set(chat, three, NAME).work()
    other = Set(chat, three, "wider", "third")
    other.work("wider")
    assert states(chat) == {NAME: "active", "wider": "active"}, "the old one stays until the new set is complete"
    assert asked(archive) == {NAME, "wider"}
    other.work("third")
    assert states(chat) == {NAME: "retired", "wider": "active", "third": "active"}
    assert vectors(chat) == {"wider": 3, "third": 3}
    assert asked(archive) == {"wider", "third"}


@pytest.mark.parametrize("complete", [False, True])
def test_a_model_is_dropped_whether_complete_or_not(chat: Chat, three: Path, archive: Archive, complete: bool) -> None:
    chat.say(*TEXTS)
    both = Set(chat, three, NAME, "wider")
    both.work(NAME)
    both.workers["wider"].turn()
    if complete:
        both.work()
    Set(chat, three, NAME).work()
    assert states(chat) == {NAME: "active", "wider": "retired"}
    assert vectors(chat) == {NAME: 3} and chat.queued() == {}
    assert asked(archive) == {NAME}
    chat.say("said afterwards", first=4)
    assert chat.queued() == {"m4": 0}
    Set(chat, three, NAME, "wider").work()
    assert states(chat) == {NAME: "active", "wider": "active"} and vectors(chat) == {NAME: 4, "wider": 4}


def test_a_set_that_cannot_be_read_whole_retires_nothing(chat: Chat, three: Path) -> None:
    chat.say(*TEXTS)
    Set(chat, three, NAME, "wider").work()
    Set(chat, three, NAME, known=False).work()
    assert states(chat) == {NAME: "active", "wider": "active"}


def test_a_third_model_beside_two_is_dropped_from_none_by_registering(chat: Chat, three: Path) -> None:
    with chat.connection() as connection:
        prints = {name: Model.load(three / name).fingerprint for name in NAMES}

        def register(name: str, *chosen: str) -> None:
            embedding_models.register(connection, name, prints[name], 32, [prints[one] for one in chosen])

        register(NAME, *NAMES)
        register("wider", *NAMES)
        register("third", *NAMES)
        assert states(chat) == {NAME: "active", "wider": "building", "third": "building"}


def test_a_broken_model_does_not_stop_the_others(chat: Chat, three: Path) -> None:
    def fail(_: Sequence[Chunk]) -> None:
        raise RuntimeError("bad graph")

    models = {NAME: WatchedModel(Model.load(three / NAME), fail), "wider": Model.load(three / "wider")}
    stats = {name: WorkerStats(model=name) for name in models}
    stop, wake = threading.Event(), threading.Event()
    workers = [Worker(chat.database, lambda _, m=model: m, stats[name], stop=stop) for name, model in models.items()]
    thread = threading.Thread(target=take_turns, args=(workers, wake, 0.05, stop), daemon=True)
    chat.say(*TEXTS)
    thread.start()
    try:
        until(lambda: vectors(chat) == {"wider": 3}, 30, "the vectors of the other model")
        assert stats[NAME].state == "failing" and "bad graph" in (stats[NAME].last_error or "")
        chat.say("and more", first=4)
        wake.set()
        until(lambda: vectors(chat) == {"wider": 4}, 30, "a vector beside the broken model")
    finally:
        stop.set()
        wake.set()
        thread.join(30)
    assert not thread.is_alive() and stats["wider"].state == "ok"


def test_status_speaks_of_each_model(chat: Chat, three: Path, tmp_path: Path) -> None:
    models_dir = shutil.copytree(three, tmp_path / "models")
    (models_dir / "default").write_text(f"{NAME}\nwider\n")
    config = Config(database=DatabaseOptions(url=chat.url), embedding=Embedding(models_dir=str(models_dir)))
    pool, status = WorkerPool(config, chat.database, pytest.fail), new_status("1", "all")
    chat.say(*TEXTS)

    def filled() -> Status:
        pool.fill(status)
        return status

    with ThreadPoolExecutor(8, "worker") as threads:
        pool.start(threads)
        try:
            until(lambda: [model.embedded for model in filled().embedding.models] == [3, 3], 60, "six vectors")
            at_work = [each for each in threading.enumerate() if each.name.startswith(("worker_", "model_"))]
            niceness = {os.getpriority(os.PRIO_PROCESS, each.native_id or 0) for each in at_work}
            assert niceness == {os.getpriority(os.PRIO_PROCESS, os.getpid()) + 5}, "they yield to the writer"
            until(lambda: states(chat) == {NAME: "active", "wider": "active"}, 60, "two complete models")
            until(lambda: filled().embedding.queued == 0, 60, "the count of both queues")
        finally:
            pool.stop()
    embedding = filled().embedding
    assert [(model.name, model.state, model.queued) for model in embedding.models] == [
        (NAME, "ok", 0),
        ("wider", "ok", 0),
    ]
    assert (embedding.state, embedding.embedded, embedding.failed, embedding.last_error) == ("ok", 6, 0, None)
    assert set(pool.loaded()) == {Model.load(three / name).fingerprint for name in (NAME, "wider")}
