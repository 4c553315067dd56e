"""`vkteamsd --role embed`: workers alone, in a process of their own, woken by the writer's notification."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.embedding import Chat
from tests.harness.waiting import until


@pytest.fixture
def embedder(vkteamsd: Callable[..., DaemonProcess], chat: Chat, models_dir: Path) -> DaemonProcess:
    """Not started; its slow look at the queue never comes within a test."""
    return _embedder(vkteamsd, chat, models_dir, **{"embedding.poll_interval": 600})


def _embedder(make: Callable[..., DaemonProcess], chat: Chat, models_dir: Path, **more: Any) -> DaemonProcess:
    """One with a configuration of its own, as on a machine of its own."""
    options = {"embedding.models_dir": str(models_dir), "daemon.role": "embed"} | more
    process = make(database_url=chat.url, token="", options=options)
    process.pid_file = process.directory / "run" / "vkteamsd-embed.pid"
    process.status_path = process.directory / "run" / "vkteamsd-embed.status.json"
    process.log_file = process.directory / "state" / "vkteamsd-embed.log"
    return process


def settled(chat: Chat) -> bool:
    """Whether the workers have nothing more to do than to wait."""
    return bool(chat.rows("SELECT FROM pg_indexes WHERE indexname LIKE 'embeddings_hnsw%'")) and bool(
        chat.rows("SELECT FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()")
    )


def test_a_notification_wakes_the_workers(embedder: DaemonProcess, chat: Chat) -> None:
    chat.say("there before the model")
    embedder.started()
    embedder.wait_state("embedding")
    until(lambda: chat.chunks() == {"m1": 1}, 60, "the vector of what was there")
    until(lambda: settled(chat), 60, "workers that wait")
    for number in range(2, 7):
        said = time.monotonic()
        chat.say(f"message number {number}", first=number)
        until(lambda: not chat.queued(), 60, "the vector")
        assert time.monotonic() - said < 60, "not by the slow look at the queue"
    assert set(chat.chunks()) == {f"m{number}" for number in range(1, 7)}
    status = until(lambda: (s := embedder.status()) and s.embedding.embedded == 6 and s, 30, "the count of six")
    assert (status.role, status.embedding.state) == ("embed", "ok")
    assert [(model.name, model.state) for model in status.embedding.models] == [("tiny", "ok")]
    assert status.latency_ms.row_to_vector.p50 is not None
    assert embedder.stop() < 5


def test_kill_9_of_the_embedder_loses_and_doubles_nothing(embedder: DaemonProcess, chat: Chat) -> None:
    for before in (0, 60, 120):
        embedder.started()
        chat.say(*(f"message {before + n}" for n in range(60)), first=1 + before)
        until(lambda before=before: len(chat.chunks()) > before, 60, "its first vectors")
        embedder.kill9()
    embedder.started()
    until(lambda: not chat.queued(), 60, "the end of the queue")
    assert chat.chunks() == {f"m{number}": 1 for number in range(1, 181)}
    embedder.stop()


def test_two_embedders_share_the_queue_and_one_that_is_frozen_holds_up_nobody(
    vkteamsd: Callable[..., DaemonProcess], chat: Chat, models_dir: Path
) -> None:
    two = [
        _embedder(vkteamsd, chat, models_dir, **{"embedding.poll_interval": 1.0, "database.patience": 1.0}).started()
        for _ in range(2)
    ]
    said = 0

    def say_more() -> None:
        nonlocal said
        chat.say(*(f"message number {said + n} of many" for n in range(50)), first=said + 1)
        said += 50

    def embedded() -> list[int]:
        return [status.embedding.embedded if (status := each.status()) else 0 for each in two]

    def both_have_worked() -> bool:
        say_more()
        until(lambda: not chat.queued(), 60, "the end of the queue")
        return all(embedded())

    for each in two:
        each.wait_state("embedding")
    until(both_have_worked, 60, "work of both")
    say_more()
    pid = two[0].signal(signal.SIGSTOP)  # it may hold some of them
    try:
        say_more()
        until(lambda: len(chat.chunks()) == said, 60, "vectors of what the frozen one has claimed, and of the rest")
    finally:
        os.kill(pid, signal.SIGCONT)
    say_more()
    until(lambda: not chat.queued(), 60, "the end of the queue")
    assert chat.chunks() == {f"m{number}": 1 for number in range(1, said + 1)}
    for each in two:
        assert each.stop() < 5


def test_a_model_that_does_not_load_shows_in_the_status(
    embedder: DaemonProcess, chat: Chat, models_dir: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "models"
    (broken / "tiny").mkdir(parents=True)
    (broken / "default").write_text("tiny\n")
    for file in (models_dir / "tiny").iterdir():
        (broken / "tiny" / file.name).write_bytes(file.read_bytes())
    whole = (broken / "tiny" / "model.onnx").read_bytes()
    (broken / "tiny" / "model.onnx").write_bytes(whole[:-100])
    embedder.configure(**{"embedding.models_dir": str(broken)})
    embedder.started()
    until(lambda: (s := embedder.status()) and s.embedding.state == "failing", 60, "the state failing")
    chat.say("kept all the same")
    (broken / "tiny" / "model.onnx").write_bytes(whole)
    until(lambda: chat.chunks() == {"m1": 1}, 60, "the vector, once the model is mended")
    until(lambda: (s := embedder.status()) and s.embedding.state == "ok", 60, "the state ok")
    log = embedder.log_text()
    assert log.count("embedding waits") == 1 and log.count("embedding goes on") == 1, log
    embedder.stop()
