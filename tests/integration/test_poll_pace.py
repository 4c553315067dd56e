"""How often the poll loop asks an API that is of no use: never without a pause, never sooner than it is told."""

from __future__ import annotations

import io
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.daemon.polling.backoff import FIRST
from vkteams_daemon.daemon.polling.event_printer import EventPrinter
from vkteams_daemon.daemon.polling.poller import Poller
from vkteams_daemon.daemon.status import Status, new
from vkteams_daemon.simulator import Simulator


@contextmanager
def listening(simulator: Simulator) -> Iterator[Status]:
    """The loop of `vkteamsd --no-save`, in a thread."""
    client, status = BotClient(simulator.url, simulator.token), new("0", "listen")
    with ThreadPoolExecutor(1) as work:
        poller = Poller(
            client, lambda bot: EventPrinter(out=io.StringIO()), work, status,
            poll_time=30, backoff_max=2.0, on_change=lambda: None, on_queued=lambda: None, on_end=lambda error: None,
        )  # fmt: skip
        thread = threading.Thread(target=poller.run)
        thread.start()
        try:
            yield status
        finally:
            poller.stop()
            client.abort()
            thread.join(30)
            client.close()


def pauses(simulator: Simulator, polls: int) -> list[float]:
    """The seconds between the first so many polls."""

    def seen() -> list[float]:
        return [entry.at for entry in simulator.log() if entry.kind == "poll"]

    times = until(lambda: seen() if len(seen()) >= polls else [], 60, f"{polls} polls")
    return [later - earlier for earlier, later in itertools.pairwise(times[:polls])]


def test_an_api_that_holds_no_poll(simulator: Simulator) -> None:
    simulator.faults("answer", None, "events/get", body='{"ok":true,"events":[]}')
    with listening(simulator):
        assert min(pauses(simulator, 4)) >= FIRST * 0.95
        simulator.clear_faults()
        until(lambda: simulator.state()["waiting"], 30, "a poll that is held again")


def test_an_event_that_comes_again_and_again(simulator: Simulator) -> None:
    simulator.event("newMessage", {}, event_id="not a number")
    with listening(simulator):
        assert min(pauses(simulator, 4)) >= FIRST * 0.95


@pytest.mark.parametrize("fault", ["revoked", "early_timeout", "html", "truncated", "gzip_garbage", "reset"])
def test_an_api_that_fails(simulator: Simulator, fault: str) -> None:
    simulator.say("1@chat.agent", "anna", "There is something to answer")
    simulator.faults(fault, None, "events/get")
    with listening(simulator) as status:
        assert min(pauses(simulator, 3)) >= FIRST * 0.95
        assert status.api.state == ("unauthorized" if fault == "revoked" else "backoff")
        simulator.clear_faults()
        event = simulator.say("1@chat.agent", "anna", "Hello")
        until(lambda: status.events.last_event_id == event["eventId"], 60, "the event")
        until(lambda: status.api.state == "ok", 30, "state ok")


def test_an_api_that_names_its_wait(simulator: Simulator) -> None:
    simulator.faults("rate_limit", None, "events/get", retry_after=3)
    with listening(simulator):
        assert min(pauses(simulator, 3)) >= 3 * 0.95
