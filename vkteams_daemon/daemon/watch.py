"""Watches the daemon from inside: the pulse of each of its loops, the clock, and the queue of messages.

What is wrong becomes a warning: one line in the log when it begins, one when it is over, and one sentence in the status
file meanwhile. Failures of the API and of the database are not warnings; they have places of their own in the status.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from vkteams_daemon.errors import VkTeamsError

log = logging.getLogger(__name__)

CHECK_INTERVAL = 5.0  # seconds between two checks
RESTART_INTERVAL = 1.0  # seconds before a loop runs again that a fault has ended
FAULT_SHOWN = 60.0  # seconds that a fault stays a warning after it was met last
CLOCK_JUMP = 5.0  # seconds; a clock that is set in small steps by NTP does not jump so far
JUMP_SHOWN = 3600.0  # seconds that a jump of the clock stays a warning
GROWTH_SPAN = 50.0  # seconds in which the queue must have fallen once
GROWTH_MIN = 100  # messages; fewer are no sign of workers that are too slow


class Pulse:
    """The sign of life of one loop.

    Args:
        name: the loop's, as in docs/architecture.md: `longpoll`, `keeper`.
        repair: called once when the loop is overdue, from the thread that watches; it must not wait.
        vital: whether the service manager must restart a process in which this loop is overdue. Only the loops without
            which nothing is archived are vital: a restart ends what the others do, and the spool needs none of them.
    """

    def __init__(self, name: str = "loop", *, repair: Callable[[], None] | None = None, vital: bool = False) -> None:
        self.name = name
        self.repair = repair
        self.vital = vital
        self._turn = (math.inf, 0.0)  # when the present turn is overdue, and when it began; monotonic
        self._fault: tuple[str, float] | None = None  # the sentence, and when it was met last; monotonic

    def busy(self, seconds: float) -> None:
        """The loop begins something that takes at most so many seconds."""
        now = time.monotonic()
        self._turn = now + seconds, now

    def idle(self) -> None:
        """The loop waits until it has something to do."""
        self._turn = math.inf, 0.0

    @contextlib.contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Busy in the `with` block, which takes at most so many seconds, and idle after it."""
        self.busy(seconds)
        try:
            yield
        finally:
            self.idle()

    def overdue(self) -> float | None:
        """Seconds that the present turn has taken, if it should be over; otherwise None."""
        due, began = self._turn
        now = time.monotonic()
        return now - began if now > due else None

    def failed(self, error: BaseException) -> VkTeamsError:
        """Note a fault of this program. The log gets its traceback once, until another fault comes or it is over."""
        sentence = f"internal error: {type(error).__name__}: {error}"
        if self._fault is None or self._fault[0] != sentence:
            log.error("the loop %s met a fault of this program and goes on: %s", self.name, sentence, exc_info=error)
        self._fault = sentence, time.monotonic()
        return VkTeamsError(sentence, hint="This is a fault of vkteamsd; its log shows where.")

    def fault(self) -> str | None:
        """The last fault as a sentence, until the loop has gone on for a minute without it."""
        if self._fault is not None and time.monotonic() - self._fault[1] > FAULT_SHOWN:
            log.info("the loop %s goes on without a fault", self.name)
            self._fault = None
        return self._fault and self._fault[0]

    def run(self, target: Callable[[], None], stopping: threading.Event) -> None:
        """Run a loop until it returns. If a fault of this program ends it, it runs again.

        A panic of a library in Rust is no `Exception`, and must not end a thread unnoticed either.
        """
        while True:
            try:
                target()
                return
            except BaseException as error:  # noqa: BLE001  a thread has no caller that could report it
                self.idle()
                self.failed(error)
                if stopping.wait(RESTART_INTERVAL):
                    return


class Watch:
    """Keeps the warnings.

    Args:
        queued: the length of the queue of messages that wait for vectors, or None.
        clock: the time of the day, in seconds.
        elapsed: seconds that go on while the machine sleeps, and that nobody sets.
    """

    def __init__(
        self,
        queued: Callable[[], int | None] = lambda: None,
        *,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._queued = queued
        self._clock = clock
        self._elapsed = elapsed
        self._pulses: list[Pulse] = []
        self._overdue: set[Pulse] = set()
        self._warnings: dict[str, str] = {}
        self._lengths: deque[tuple[float, int]] = deque()
        self._offset = clock() - elapsed()
        self._jumped_at: float | None = None

    def pulse(self, name: str, *, repair: Callable[[], None] | None = None, vital: bool = False) -> Pulse:
        """A pulse that is watched from now on; see Pulse for the arguments."""
        pulse = Pulse(name, repair=repair, vital=vital)
        self._pulses.append(pulse)
        return pulse

    @property
    def warnings(self) -> list[str]:
        """What is wrong, a sentence each."""
        faults = [f"{pulse.name}: {fault}" for pulse in list(self._pulses) if (fault := pulse.fault())]
        return faults + list(self._warnings.values())

    def warn(self, key: str, sentence: str | None, *, logged: str | None = None) -> None:
        """Set the warning of this key, or with None end it.

        Args:
            key: what the warning is about.
            sentence: for the status file; it may hold figures that change.
            logged: for the log, if it differs.
        """
        if sentence is None:
            if self._warnings.pop(key, None) is not None:
                log.info("%s: this is over", key)
            return
        if key not in self._warnings:
            log.warning("%s: %s", key, logged or sentence)
        self._warnings[key] = sentence

    def run(self, stopping: threading.Event, alive: Callable[[], None], interval: float = CHECK_INTERVAL) -> None:
        """Check until `stopping` is set. `alive` is called after a check that found no vital loop overdue."""
        while not stopping.wait(interval):
            if self.check():
                alive()

    def check(self) -> bool:
        """Look at everything once; returns whether every vital loop is alive."""
        self._check_clock()
        self._check_queue()
        self._check_pulses()
        return self.alive

    @property
    def alive(self) -> bool:
        """Whether no vital loop is overdue now."""
        return not any(pulse.vital and pulse.overdue() is not None for pulse in list(self._pulses))

    def _check_pulses(self) -> None:
        for pulse in list(self._pulses):
            seconds = pulse.overdue()
            if seconds is None:
                self._overdue.discard(pulse)
                self.warn(pulse.name, None)
                continue
            self.warn(pulse.name, f"the loop {pulse.name} has not gone on for {seconds:.0f} s")
            if pulse not in self._overdue:
                self._overdue.add(pulse)
                if pulse.repair:
                    pulse.repair()

    def _check_clock(self) -> None:
        offset = self._clock() - self._elapsed()
        jump, self._offset = offset - self._offset, offset
        if abs(jump) > CLOCK_JUMP:
            self._jumped_at = self._elapsed()
            direction = "forward" if jump > 0 else "back"
            now = datetime.fromtimestamp(self._clock(), UTC)
            self._warnings.pop("clock", None)  # each jump gets its own line in the log
            moment = f"{now:%Y-%m-%d %H:%M:%S} UTC"
            self.warn("clock", f"the host's clock jumped {direction} by {abs(jump):.0f} s, to {moment}")
        elif self._jumped_at is not None and self._elapsed() - self._jumped_at > JUMP_SHOWN:
            self._jumped_at = None
            self.warn("clock", None)

    def _check_queue(self) -> None:
        """Warn of a queue that has not become shorter for a while and has grown."""
        length, now, lengths = self._queued(), time.monotonic(), self._lengths
        if length is None or (lengths and length < lengths[-1][1]):
            lengths.clear()
        if length is not None:
            lengths.append((now, length))
        while len(lengths) > 1 and now - lengths[1][0] >= GROWTH_SPAN:
            lengths.popleft()
        grown = lengths[-1][1] - lengths[0][1] if lengths else 0
        if lengths and now - lengths[0][0] >= GROWTH_SPAN and grown >= GROWTH_MIN:
            self.warn("queue", f"{length} messages wait for vectors, {grown} more than {now - lengths[0][0]:.0f} s ago")
        elif not lengths or grown == 0 or len(lengths) == 1:
            self.warn("queue", None)
