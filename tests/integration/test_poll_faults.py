"""What fails in the poll loop is called by its name: a fault of this program is no failure of the database."""

from __future__ import annotations

import gc
import io
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.harness.simulator import wait_acknowledged
from tests.harness.traffic import emit_event
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient, BotInfo
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.polling import backoff
from vkteams_daemon.daemon.polling.event_printer import EventPrinter
from vkteams_daemon.daemon.polling.poller import Poller, Sink
from vkteams_daemon.daemon.polling.spooler import Spooler
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.daemon.watch import Watch
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.event_cursor import Cursor
from vkteams_daemon.store.ingest.writer import StoreResult


class Faulty(EventPrinter):
    """A destination with a bug that goes away."""

    faults = 3

    def store(self, events: list[Event], limit: int | None = None) -> StoreResult:
        if self.faults:
            self.faults -= 1
            raise KeyError("chat")
        return super().store(events)


class FaultySpooler(Spooler):
    """One whose first steps are cut short by the same bug."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []
        self._met: set[str] = set()

    def open(self, bot_id: str) -> None:
        self._step("open")
        super().open(bot_id)

    def lock_taken(self, cursor: Cursor | None) -> None:
        self._step("lock_taken")
        super().lock_taken(cursor)

    def _step(self, name: str) -> None:
        if name not in self._met:
            self._met.add(name)
            raise KeyError("chat")
        self.done.append(name)


def test_fault_of_this_program_is_not_called_a_failure_of_the_database(
    simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    states: set[str | None] = set()
    client, status, watch = BotClient(simulator.url, simulator.token), new_status("0", "listen"), Watch()
    with ThreadPoolExecutor(1) as work:
        poller = Poller(
            client, lambda bot: Faulty(out=io.StringIO()), work, status, poll_time=1, backoff_max=0.5,
            on_change=lambda: states.add(status.database.state), on_queued=lambda: None, on_end=lambda error: None,
            pulse=watch.pulse("longpoll"), spooler=(spooler := FaultySpooler()),
        )  # fmt: skip
        thread = threading.Thread(target=poller.run)
        thread.start()
        try:
            assert poller.ready.result(20) == ""
            assert spooler.done == ["open", "lock_taken"], "a step that is cut short is taken again"
            emit_event(simulator, 1)
            until(lambda: watch.warnings, 20, "a warning")
            assert watch.warnings == ["longpoll: internal error: KeyError: 'chat'"]
            assert poller.last_error is not None and poller.last_error.exit_code == 70
            wait_acknowledged(simulator, 1)
        finally:
            poller.stop()
            client.abort()
            thread.join(30)
            client.close()
    assert states <= {None, "ok"}
    errors = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(errors) == 1 and errors[0].exc_info, "one line, with its traceback"


def _unreachable_database(_: BotInfo) -> Sink:
    Database(Config(), url="postgresql://nobody@127.0.0.1:9/nothing").connect()
    raise AssertionError("port 9 has answered")


def _fault(_: BotInfo) -> Sink:
    raise KeyError("chat")


@pytest.fixture
def rare_collector() -> Iterator[None]:
    """Python's collector as the daemon has it: it hardly ever runs by itself."""
    gc.collect()
    gc.freeze()  # what earlier tests left is none of this one's
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("what", ["the database", "the Bot API", "a fault"])
@pytest.mark.usefixtures("rare_collector")
def test_attempts_that_fail_for_long_do_not_fill_the_memory(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """An attempt leaves its exceptions in reference cycles; a database may be away for days."""
    monkeypatch.setattr(backoff, "FIRST", 0.01)
    url = "http://127.0.0.1:9" if what == "the Bot API" else simulator.url
    client, status, attempts = BotClient(url, simulator.token), new_status("0", "listen"), 0

    def counted(handle: Callable[[Exception], float]) -> Callable[[Exception], float]:
        def failed(error: Exception) -> float:
            nonlocal attempts
            attempts += 1
            return handle(error)

        return failed

    with ThreadPoolExecutor(1) as work:
        poller = Poller(
            client, _fault if what == "a fault" else _unreachable_database, work, status, poll_time=1,
            backoff_max=0.02, on_change=lambda: None, on_queued=lambda: None, on_end=lambda error: None,
        )  # fmt: skip
        for method in ("_api_failed", "_database_failed", "_fault_failed"):
            monkeypatch.setattr(poller, method, counted(getattr(poller, method)))
        thread = threading.Thread(target=poller.run)
        thread.start()
        try:
            until(lambda: attempts > 40, 60, "attempts that fail")
        finally:
            poller.stop()
            client.abort()
            thread.join(30)
            client.close()
    kept = [error for error in gc.get_objects() if isinstance(error, BaseException)]
    assert len(kept) < 20, f"{attempts} attempts keep {len(kept)} exceptions"
