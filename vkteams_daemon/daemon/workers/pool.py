"""The embedding workers of this process: starts, wakes and stops them, and loads the models for them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.reporter import percentiles
from vkteams_daemon.daemon.status import EmbeddingModel, Status, Step
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.connection_profiles import WORKER
from vkteams_daemon.store.database import Database
from vkteams_daemon.system import priority

if TYPE_CHECKING:
    from vkteams_daemon.daemon.workers.worker import Worker
    from vkteams_daemon.embedding.model import Model

log = logging.getLogger(__name__)

START_INTERVAL = 10.0  # seconds between two attempts to start the workers
LISTEN_TIMEOUT = 2.0  # seconds of one wait for a notification
LISTEN_LIMIT = 60.0  # seconds after which it is overdue


def _abort_all(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.abort()


def _yielding(run: Callable[[], None]) -> None:
    """Run a worker in this thread, below those that store and search."""
    priority.lower()
    run()


class WorkerPool:
    """The worker threads, and the models that they share.

    Args:
        config: its section `[embedding]`, and the directory of models.
        database: open when `start` is called.
        on_end: called with the error when the schema is newer than this program; the workers then end.
        new_pulse: makes the pulse of a thread, from its name.
        observe: called with each step and the seconds it took.

    Attributes:
        size: the number of threads.
        started: whether `start` has been called.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        on_end: Callable[[VkTeamsError], None],
        new_pulse: Callable[[str], Pulse] = Pulse,
        observe: Callable[[Step, float], None] = lambda step, seconds: None,
    ) -> None:
        self._config = config
        self._database = database
        self._on_end = on_end
        self._new_pulse = new_pulse
        self._observe = observe
        self._stop = threading.Event()
        self._wakes: list[threading.Event] = []
        self._models: dict[str, Model] = {}
        self._loading = threading.Lock()
        self._stats: dict[str, WorkerStats] = {}  # by the model's name; "" until the names are known
        self.size = config.embedding.workers or min(4, len(os.sched_getaffinity(0)))
        self.started = False
        self._running: list[Future[None]] = []
        self._model_threads: ThreadPoolExecutor | None = None

    @property
    def busy(self) -> bool:
        """Whether a worker still runs."""
        return any(not future.done() for future in self._running)

    def start(self, pool: Executor) -> None:
        """Start the workers in this pool, or log why there are none. If they cannot start now, they start later."""
        self.started = True
        self._stats = {"": WorkerStats(observe=self._observe)}
        if not self._try_start(pool):
            threading.Thread(target=self._start_later, args=(pool,), name="workers", daemon=True).start()

    def _start_later(self, pool: Executor) -> None:
        while not self._stop.wait(START_INTERVAL):
            if self._try_start(pool):
                return

    def _try_start(self, pool: Executor) -> bool:
        """Start the workers; false if the models' names cannot be read, or another fault keeps them from starting."""
        try:
            self._start_workers(pool)
        except Exception as error:  # noqa: BLE001  a fault of the workers must not end the poll loop
            if not self._stop.is_set():
                next(iter(self._stats.values())).mark_failing(self, error)
            return False
        return True

    def _start_workers(self, pool: Executor) -> None:
        # onnxruntime is heavy, so a process without a model never imports it.
        from vkteams_daemon.embedding import catalogue

        config = self._config.embedding
        names = catalogue.chosen_names(self._config)
        if not names:
            self._stats = {"": WorkerStats(observe=self._observe)}
            log.info("no model is installed: messages are kept without vectors (vkteamsctl model install)")
            return
        from vkteams_daemon.daemon.workers.worker import Worker
        from vkteams_daemon.daemon.workers.worker_loop import take_turns

        if not self._stats.keys() >= set(names):
            self._stats = {name: WorkerStats(model=name, observe=self._observe) for name in names}
        for stats in self._stats.values():
            stats.mark_ok(self)
        if self.size > 1:
            self._model_threads = ThreadPoolExecutor(self.size, "model", initializer=priority.lower)
        for number in range(self.size):
            wake, pulse = threading.Event(), self._new_pulse(f"worker {number}")
            workers = [
                Worker(
                    self._database, partial(self._load, name), self._stats[name], model_threads=self._model_threads,
                    claim=config.claim, token_budget=config.token_budget, max_attempts=config.max_attempts,
                    is_leader=number == 0, stop=self._stop, chosen=self._fingerprints, pulse=pulse,
                )
                for name in names
            ]  # fmt: skip
            pulse.repair = partial(_abort_all, workers)
            self._wakes.append(wake)
            run = partial(take_turns, workers, wake, config.poll_interval, self._stop, self._on_end)
            self._running.append(pool.submit(_yielding, partial(pulse.run, run, self._stop)))
        if self._config.daemon.role == "embed":
            threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def wake(self) -> None:
        """End the workers' idle waits, because messages wait in the queue."""
        for wake in self._wakes:
            wake.set()

    def stop(self) -> None:
        """Let the workers end after the present run of the model. `wait` waits for it."""
        self._stop.set()
        self.wake()

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for the workers to end."""
        wait(self._running, timeout=seconds)
        if self._model_threads and not self.busy:
            self._model_threads.shutdown(wait=False)

    def fill(self, status: Status) -> None:
        """Copy the workers' counters into the status."""
        every = list(self._stats.values())
        if not every:
            return
        embedding = status.embedding
        embedding.models = [
            EmbeddingModel(
                name=stats.model, state="failing" if stats.state == "failing" else "ok", queued=stats.queued,
                embedded=stats.embedded, failed=stats.failed, texts_per_second=stats.per_second(),
                last_error=stats.last_error,
            )
            for stats in every
            if stats.model is not None
        ]  # fmt: skip
        counted = [stats.queued for stats in every if stats.queued is not None]
        embedding.state = next((stats.state for stats in every if stats.state == "failing"), every[0].state)
        embedding.last_error = next((stats.last_error for stats in every if stats.last_error), None)
        embedding.queued = sum(counted) if len(counted) == len(every) else None
        embedding.embedded, embedding.failed = sum(s.embedded for s in every), sum(s.failed for s in every)
        embedding.texts_per_second = round(sum(stats.per_second() for stats in every), 3)
        status.latency_ms.row_to_vector = percentiles([age for stats in every for age in list(stats.row_to_vector)])

    def loaded(self) -> dict[str, Model]:
        """The models that are loaded now, by fingerprint."""
        return {model.fingerprint: model for model in list(self._models.values())}

    def _load(self, name: str, broken: Model | None) -> Model:
        """A model. The first worker loads it, and all workers share it; it may run in several threads at once.

        Args:
            name: of the chosen model.
            broken: the model object that has failed the calling worker, or None. It is replaced once for all workers.
        """
        from vkteams_daemon.embedding import catalogue
        from vkteams_daemon.embedding.model import Model

        with self._loading:
            if name not in self._models or self._models[name] is broken:
                self._models.pop(name, None)  # frees its memory before the next one is loaded
                self._models[name] = Model.load(catalogue.find_directory(self._config.models_dir, name))
            return self._models[name]

    def _fingerprints(self) -> list[str] | None:
        """The fingerprints of the chosen models; None while one of them cannot be read."""
        from vkteams_daemon.embedding import catalogue, model_info

        try:
            return [
                model_info.read(catalogue.find_directory(self._config.models_dir, name)).fingerprint
                for name in self._stats
            ]
        except VkTeamsError as error:
            log.debug("not every chosen model can be read: %s", error)
            return None

    def _listen(self) -> None:
        """Wake the workers on the writer's notifications. With `--role embed` the writer is in another process."""
        from vkteams_daemon.store import queue

        pulse = self._new_pulse("listen")
        while not self._stop.is_set():
            try:
                with pulse.turn(LISTEN_LIMIT), self._database.connect(WORKER) as connection:
                    while not self._stop.is_set():
                        pulse.busy(LISTEN_LIMIT)
                        if queue.wait_for_notify(connection, LISTEN_TIMEOUT):
                            self.wake()
            except VkTeamsError as error:
                log.debug("not listening for new messages: %s", error)
                self._stop.wait(5.0)
            except Exception as error:  # noqa: BLE001  without this thread, the workers still look every poll_interval
                pulse.failed(error)
                self._stop.wait(5.0)
