"""Time limits: runs an action when a deadline passes, all of them from one thread.

A `threading.Timer` would start a thread for every HTTP request and every transaction. Here one daemon thread sleeps
until the nearest deadline. It starts with the first deadline, so that a process which forks first has no thread yet.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

log = logging.getLogger(__name__)


@dataclass(order=True, slots=True)
class Deadline:
    """An action that is due at `at`, in seconds of the scheduler's clock; `number` orders those of one moment."""

    at: float
    number: int
    action: Callable[[], None] = field(compare=False)


class DeadlineScheduler:
    """Runs actions at their deadlines, in order, from one thread.

    An action must be short and must not wait. While it runs, no other action runs, and `add` and `cancel` wait for it.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Begin without deadlines and without a thread, in a forked child: there the lock may be held for ever."""
        self._changed = threading.Condition()  # its lock is reentrant: an action may add and cancel deadlines
        self._heap: list[Deadline] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0

    @contextlib.contextmanager
    def limit(self, seconds: float, action: Callable[[], None]) -> Iterator[None]:
        """Run `action` if the `with` block takes longer than `seconds`."""
        deadline = self.add(seconds, action)
        try:
            yield
        finally:
            self.cancel(deadline)

    def add(self, seconds: float, action: Callable[[], None]) -> Deadline:
        """Run `action` in `seconds` from now. If it raises an exception, that is logged."""
        with self._changed:
            deadline = Deadline(self._clock() + seconds, next(self._numbers), action)
            heapq.heappush(self._heap, deadline)
            if self._thread is None:
                self._wakes_at = deadline.at
                self._thread = threading.Thread(target=self._run, name="deadlines", daemon=True)
                self._thread.start()
            elif deadline.at < self._wakes_at:
                self._changed.notify()
            return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Cancel a deadline, which may have passed. After the return its action is not running and will not run."""
        # The thread is not woken: it sees at the deadline that there is nothing to do.
        with self._changed:
            if deadline in self._heap:
                self._heap.remove(deadline)
                heapq.heapify(self._heap)

    def stop(self) -> None:
        """Forget every deadline and end the thread; the next deadline starts another one."""
        with self._changed:
            self._heap.clear()
            thread, self._thread = self._thread, None
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            while self._thread is threading.current_thread():
                while self._heap and self._heap[0].at <= self._clock():
                    self._fire(heapq.heappop(self._heap))
                self._wakes_at = self._heap[0].at if self._heap else float("inf")
                # A condition cannot wait for longer than TIMEOUT_MAX, which is centuries.
                self._changed.wait(min(self._wakes_at - self._clock(), threading.TIMEOUT_MAX))

    def _fire(self, deadline: Deadline) -> None:
        try:
            deadline.action()
        except Exception:
            log.exception("the action of a deadline failed")


DEADLINES = DeadlineScheduler()
os.register_at_fork(after_in_child=DEADLINES.reset)
