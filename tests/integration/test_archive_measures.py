"""The daemon's measures of its archive: a model's queue that nobody works off is told, with since when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.embedding import Chat, WatchedModel
from tests.harness.waiting import until
from vkteams_daemon.daemon import archive_measures
from vkteams_daemon.daemon.status import Archive
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.daemon.workers import worker


@contextmanager
def measuring(chat: Chat, directory: Path) -> Iterator[list[str | None]]:
    """The loop; its warnings so far."""
    warnings: list[str | None] = []
    stopping = threading.Event()
    thread = threading.Thread(
        target=archive_measures.measure_loop,
        args=(chat.database, Archive(), directory, warnings.append, stopping, Pulse(), 0.02),
    )
    thread.start()
    try:
        yield warnings
    finally:
        stopping.set()
        thread.join(30)


@pytest.mark.parametrize("worked", [False, True], ids=["never", "once"])
def test_a_queue_that_nobody_works_off_is_told_until_somebody_does(
    chat: Chat, model: WatchedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worked: bool
) -> None:
    monkeypatch.setattr(worker, "MARK_INTERVAL", 0.0)
    chat.register(model)
    if worked:
        chat.embed(model)
    chat.say("one", "two")
    with measuring(chat, tmp_path) as warnings:
        until(lambda: warnings, 30, "a measurement")
        assert set(warnings) == {None}, "somebody may come"
        since = "worked_at" if worked else "created_at"
        chat.execute(f"UPDATE embedding_models SET {since} = '2026-01-02 03:04:05Z'")
        told = until(lambda: warnings[-1], 30, "a warning")
        sentence = f"no worker has worked for the model {model.name} (active) since 2026-01-02 03:04 UTC"
        assert told == f"{sentence}, and 2 messages wait for its vectors"
        chat.embed(model)
        until(lambda: warnings[-1] is None, 30, "the end of the warning")
        chat.say("three", first=3)
        count = len(warnings)
        until(lambda: len(warnings) > count + 2, 30, "further measurements")
        assert warnings[-1] is None


def test_a_retired_model_and_an_empty_queue_are_told_by_nobody(chat: Chat, model: WatchedModel, tmp_path: Path) -> None:
    chat.register(model)
    chat.execute("UPDATE embedding_models SET created_at = '2026-01-01'")
    with measuring(chat, tmp_path) as warnings:
        until(lambda: warnings, 30, "a measurement")
        chat.say("one")
        until(lambda: warnings[-1], 30, "a warning")
        chat.execute("UPDATE embedding_models SET state = 'retired'")
        until(lambda: warnings[-1] is None, 30, "the end of the warning")
