"""The counters of the embedding workers of this process, for its status."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from vkteams_daemon.daemon.status import Step
from vkteams_daemon.errors import VkTeamsError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class WorkerStats:
    """The counters; all workers of the process share one object.

    Attributes:
        state: `ok`; `off` without a model; `failing` while the model or the database does not work.
        model: its name.
        embedded: messages with new vectors.
        failed: attempts to embed a message that failed.
        queued: the length of the queue at its last count.
        row_to_vector: milliseconds from queued to stored, the last thousand.
        last_error: why the workers cannot work, as one sentence; None while they do.
        rounds: (monotonic time, messages) of the last thousand rounds.
        failing_workers: the workers that cannot work at present.
        observe: called with each step and the seconds it took.
    """

    state: Literal["ok", "off", "failing"] = "off"
    model: str | None = None
    embedded: int = 0
    failed: int = 0
    queued: int | None = None
    last_error: str | None = None
    row_to_vector: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    rounds: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=1000))
    failing_workers: set[object] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    observe: Callable[[Step, float], None] = lambda step, seconds: None

    def add(self, embedded: int, failed: int, ages: Iterable[float]) -> None:
        """Count one round."""
        with self.lock:
            self.embedded += embedded
            self.failed += failed
            for age in ages:
                self.row_to_vector.append(1000 * age)
                self.observe("row_to_vector", age)
            self.rounds.append((time.monotonic(), embedded))

    def mark_failing(self, worker: object, error: Exception) -> None:
        """Record that this worker cannot work. The log gets one line for all workers, until all of them work again.

        A fault of this program is no failure of the model or the database: the log gets its traceback.
        """
        expected = isinstance(error, VkTeamsError)
        sentence = str(error) if expected else f"internal error: {type(error).__name__}: {error}"
        with self.lock:
            new = not self.failing_workers or (not expected and sentence != self.last_error)
            self.failing_workers.add(worker)
            self.state, self.last_error = "failing", sentence
        if new:
            log.log(
                logging.WARNING if expected else logging.ERROR, "embedding waits: %s", sentence,
                exc_info=None if expected else error,
            )  # fmt: skip

    def mark_ok(self, worker: object) -> None:
        """Record that this worker works."""
        with self.lock:
            last = self.failing_workers == {worker}
            self.failing_workers.discard(worker)
            if not self.failing_workers:
                self.state, self.last_error = "ok", None
        if last:
            log.info("embedding goes on")

    def per_second(self, window: float = 60.0) -> float:
        """Messages embedded per second over the last `window` seconds."""
        with self.lock:
            since = time.monotonic() - window
            return round(sum(count for at, count in self.rounds if at >= since) / window, 3)
