from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from vkteams_daemon.system.deadlines import DeadlineScheduler

LONG = 3600.0


class Clock:
    """A clock that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(clock: Clock) -> Iterator[DeadlineScheduler]:
    scheduler = DeadlineScheduler(clock)
    yield scheduler
    scheduler.stop()


def _pass_time(scheduler: DeadlineScheduler, clock: Clock, seconds: float) -> None:
    """Move the clock, and wait until everything that was due has run."""
    clock.now += seconds
    done = threading.Event()
    scheduler.add(0, done.set)
    with scheduler._changed:
        scheduler._changed.notify()  # the thread sleeps by the real clock, which has not moved
    assert done.wait(30)
    with scheduler._changed:
        pass  # until what was due at the same moment has run


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "deadlines"]


def test_actions_run_in_the_order_of_their_deadlines(scheduler: DeadlineScheduler, clock: Clock) -> None:
    fired: list[str] = []
    for seconds, name in ((30, "third"), (10, "first"), (20, "second"), (20, "after it"), (40, "later")):
        scheduler.add(seconds, lambda name=name: fired.append(name))  # type: ignore[misc]
    _pass_time(scheduler, clock, 9)
    assert fired == []
    _pass_time(scheduler, clock, 2)
    assert fired == ["first"]
    _pass_time(scheduler, clock, 20)
    assert fired == ["first", "second", "after it", "third"]


def test_a_clock_that_jumps_ahead_runs_everything_once_in_order(scheduler: DeadlineScheduler, clock: Clock) -> None:
    fired: list[int] = []
    for seconds in (5, 1, 4, 2, 3):
        scheduler.add(seconds, lambda seconds=seconds: fired.append(seconds))  # type: ignore[misc]
    _pass_time(scheduler, clock, LONG)
    _pass_time(scheduler, clock, LONG)
    assert fired == [1, 2, 3, 4, 5]


def test_a_cancelled_deadline_never_fires(scheduler: DeadlineScheduler, clock: Clock) -> None:
    fired: list[str] = []
    cancelled = scheduler.add(1, lambda: fired.append("cancelled"))
    scheduler.add(2, lambda: fired.append("kept"))
    scheduler.cancel(cancelled)
    scheduler.cancel(cancelled)  # twice does no harm
    _pass_time(scheduler, clock, 3)
    scheduler.cancel(cancelled)
    assert fired == ["kept"]


def test_cancel_waits_for_an_action_that_has_begun(scheduler: DeadlineScheduler) -> None:
    """Otherwise the time limit of one request could end the next one."""
    begun, go_on = threading.Event(), threading.Event()
    finished: list[bool] = []

    def action() -> None:
        begun.set()
        go_on.wait(30)
        finished.append(True)

    def cancel() -> None:
        scheduler.cancel(deadline)
        seen.extend(finished)

    seen: list[bool] = []
    deadline = scheduler.add(0, action)
    assert begun.wait(30)
    cancelling = threading.Thread(target=cancel)
    cancelling.start()
    go_on.set()
    cancelling.join(30)
    assert seen == [True]


def test_a_limit_fires_only_while_its_block_lasts(scheduler: DeadlineScheduler, clock: Clock) -> None:
    fired: list[str] = []
    with scheduler.limit(1, lambda: fired.append("too late")):
        pass
    with pytest.raises(KeyError), scheduler.limit(1, lambda: fired.append("after an exception")):
        raise KeyError
    _pass_time(scheduler, clock, 2)
    assert fired == []
    with scheduler.limit(1, lambda: fired.append("in time")):
        _pass_time(scheduler, clock, 2)
    assert fired == ["in time"]


def test_an_exception_ends_neither_the_thread_nor_other_actions(
    scheduler: DeadlineScheduler, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fired: list[str] = []

    def fail() -> None:
        raise RuntimeError("no luck")

    scheduler.add(1, fail)
    scheduler.add(2, lambda: fired.append("second"))
    with caplog.at_level(logging.ERROR):
        _pass_time(scheduler, clock, 3)
    assert fired == ["second"]
    assert "the action of a deadline failed" in caplog.text
    assert "no luck" in caplog.text


def test_an_action_may_add_and_cancel_deadlines(scheduler: DeadlineScheduler, clock: Clock) -> None:
    fired: list[str] = []
    other = scheduler.add(2, lambda: fired.append("cancelled"))

    def action() -> None:
        scheduler.cancel(other)
        scheduler.add(1, lambda: fired.append("added"))

    scheduler.add(1, action)
    _pass_time(scheduler, clock, 5)
    _pass_time(scheduler, clock, 5)
    assert fired == ["added"]


def test_a_nearer_deadline_wakes_the_thread_by_the_real_clock() -> None:
    scheduler = DeadlineScheduler()
    fired = threading.Event()
    scheduler.add(LONG, lambda: None)
    scheduler.add(0.01, fired.set)
    assert fired.wait(30)
    scheduler.stop()


def test_there_is_no_thread_before_the_first_deadline_and_one_after_many() -> None:
    before = len(_threads())
    scheduler = DeadlineScheduler()
    assert len(_threads()) == before
    for _ in range(100):
        with scheduler.limit(LONG, lambda: None):
            assert len(_threads()) == before + 1
    scheduler.stop()
    assert len(_threads()) == before


def test_after_a_stop_the_next_deadline_starts_the_thread_again(scheduler: DeadlineScheduler, clock: Clock) -> None:
    fired: list[str] = []
    scheduler.add(1, lambda: fired.append("forgotten"))
    scheduler.stop()
    scheduler.stop()
    _pass_time(scheduler, clock, 2)
    assert fired == []


def test_a_forked_child_starts_a_thread_of_its_own_and_no_deadline_keeps_a_process_alive() -> None:
    program = f"""
import os, threading
from vkteams_daemon.system.deadlines import DEADLINES
assert threading.active_count() == 1
started, go_on = threading.Event(), threading.Event()
DEADLINES.add(0, lambda: (started.set(), go_on.wait()))
started.wait()  # the thread holds the lock when the process forks
child = os.fork()
if child == 0:
    fired = threading.Event()
    DEADLINES.add(0.01, fired.set)
    os._exit(0 if fired.wait(30) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
go_on.set()
DEADLINES.add({LONG}, lambda: None)
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "0\n"


def test_many_threads_that_set_limits_at_once(scheduler: DeadlineScheduler) -> None:
    def work() -> None:
        for _ in range(200):
            with scheduler.limit(LONG, lambda: None):
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert scheduler._heap == []
