"""What the daemon notices about itself: loops that stand still or fail, a clock that jumps, a queue that only grows."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from tests.harness.waiting import until
from vkteams_daemon.daemon import watch as watch_module
from vkteams_daemon.daemon.watch import Pulse, Watch


def test_a_loop_that_stands_still_is_told_repaired_and_starves_the_watchdog(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    repairs: list[str] = []
    watch = Watch()
    pulse = watch.pulse("longpoll", repair=lambda: repairs.append("abort"), vital=True)
    assert watch.check() and watch.warnings == []
    pulse.busy(60.0)
    assert watch.check() and watch.warnings == []
    pulse.busy(-1.0)
    assert not watch.check()
    assert not watch.check()
    assert watch.warnings == ["the loop longpoll has not gone on for 0 s"]
    assert repairs == ["abort"], "once"
    pulse.idle()
    assert watch.check() and watch.warnings == []
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_loop_without_which_archiving_goes_on_does_not_starve_the_watchdog() -> None:
    watch = Watch()
    watch.pulse("status").busy(-1.0)
    assert watch.check()
    assert watch.warnings == ["the loop status has not gone on for 0 s"]


class Panic(BaseException):
    """As a library in Rust raises it."""


@pytest.mark.parametrize("fault", [KeyError("x"), Panic("x"), SystemExit(3), MemoryError()])
def test_a_loop_survives_a_fault_and_logs_it_once(
    fault: BaseException, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "RESTART_INTERVAL", 0.01)
    watch, stopping, turns = Watch(), threading.Event(), 0
    pulse = watch.pulse("retention")

    def loop() -> None:
        nonlocal turns
        while not stopping.wait(0.01):
            turns += 1
            pulse.busy(0.0)
            raise fault

    thread = threading.Thread(target=pulse.run, args=(loop, stopping))
    thread.start()
    until(lambda: turns > 3, 20, "turns after the fault")
    assert watch.warnings == [f"retention: internal error: {type(fault).__name__}: {fault}"]
    stopping.set()
    thread.join(20)
    assert not thread.is_alive()
    errors = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1 and errors[0].exc_info, "one line, with its traceback"
    monkeypatch.setattr(watch_module, "FAULT_SHOWN", -1.0)
    assert watch.warnings == []


def test_another_fault_is_another_line(caplog: pytest.LogCaptureFixture) -> None:
    pulse = Pulse()
    for text in ("one", "one", "two"):
        assert str(pulse.failed(ValueError(text))) == f"internal error: ValueError: {text}"
    assert len(caplog.records) == 2


@pytest.mark.parametrize(("jump", "direction"), [(3600.0, "forward"), (-3600.0, "back")])
def test_a_clock_that_jumps_is_told_and_one_that_the_sleep_of_the_machine_moves_is_not(
    jump: float, direction: str, caplog: pytest.LogCaptureFixture
) -> None:
    now, passed = 1_800_000_000.0, 0.0
    watch = Watch(clock=lambda: now, elapsed=lambda: passed)
    now, passed = now + 5000, passed + 5000
    watch.check()
    assert watch.warnings == []
    now, passed = now + 5 + jump, passed + 5
    watch.check()
    watch.check()
    assert [text.partition(", to ")[0] for text in watch.warnings] == [f"the host's clock jumped {direction} by 3600 s"]
    assert len(caplog.records) == 1
    now, passed = now + 4000, passed + 4000
    watch.check()
    assert watch.warnings == []


def test_a_queue_that_only_grows_is_told_until_it_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    now, length = 1000.0, 500
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = Watch(lambda: length)
    for _ in range(11):
        watch.check()
        assert watch.warnings == [] or now >= 1000 + watch_module.GROWTH_SPAN
        now, length = now + 5, length + 20
    watch.check()
    assert watch.warnings == ["720 messages wait for vectors, 200 more than 50 s ago"]
    length -= 1
    watch.check()
    assert watch.warnings == []
    for _ in range(30):  # a queue that stands still does not grow
        now += 5
        watch.check()
    assert watch.warnings == []


def test_without_a_known_queue_nothing_is_said() -> None:
    watch = Watch(lambda: None)
    watch.check()
    assert watch.warnings == []
