"""The embedding workers of this process: starts, wakes and stops them, and loads the model for them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.reporter import percentiles
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.database import Database

if TYPE_CHECKING:
    from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
    from vkteams_daemon.embedding.model import Model

log = logging.getLogger(__name__)


class WorkerPool:
    """The workers and the model that they share.

    Args:
        config: its section `[embedding]`, and the directory of models.
        database: open when `start` is called.
        on_end: called with the error when the schema is newer than this program; the workers then end.

    Attributes:
        size: the number of workers.
        started: whether `start` has been called.
    """

    def __init__(self, config: Config, database: Database, on_end: Callable[[VkTeamsError], None]) -> None:
        self._config = config
        self._database = database
        self._on_end = on_end
        self._stop = threading.Event()
        self._wakes: list[threading.Event] = []
        self._model: Model | None = None
        self._loading = threading.Lock()
        self._stats: WorkerStats | None = None
        self.size = config.embedding.workers or min(4, len(os.sched_getaffinity(0)))
        self.started = False
        self._running: list[Future[None]] = []
        self._model_threads: ThreadPoolExecutor | None = None

    @property
    def busy(self) -> bool:
        """Whether a worker still runs."""
        return any(not future.done() for future in self._running)

    def start(self, pool: Executor) -> None:
        """Start the workers in this pool, or log why there are none."""
        # onnxruntime is heavy, so a process without a model never imports it.
        from vkteams_daemon.daemon.workers.worker import Worker
        from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
        from vkteams_daemon.embedding import catalogue

        self.started = True
        config = self._config.embedding
        self._stats = WorkerStats()
        name = catalogue.chosen_name(self._config)
        if name is None:
            log.info("no model is installed: messages are kept without vectors (vkteamsctl model install)")
            return
        self._stats.state, self._stats.model = "ok", name
        self._model_threads = ThreadPoolExecutor(self.size, thread_name_prefix="model") if self.size > 1 else None
        for number in range(self.size):
            wake = threading.Event()
            worker = Worker(
                self._database, self._load, self._stats, model_threads=self._model_threads, claim=config.claim,
                token_budget=config.token_budget, max_attempts=config.max_attempts, is_leader=number == 0,
                stop=self._stop, on_end=self._on_end,
            )  # fmt: skip
            self._wakes.append(wake)
            self._running.append(pool.submit(worker.run, wake, config.poll_interval))
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
        stats = self._stats
        if stats is None:
            return
        embedding = status.embedding
        embedding.model, embedding.state = stats.model, stats.state
        embedding.queued, embedding.embedded, embedding.failed = stats.queued, stats.embedded, stats.failed
        embedding.texts_per_second = stats.per_second()
        status.latency_ms.row_to_vector = percentiles(list(stats.row_to_vector))

    def _load(self, broken: Model | None) -> Model:
        """The model. The first worker loads it, and all workers share it; it may run in several threads at once.

        Args:
            broken: the model object that has failed the calling worker, or None. It is replaced once for all workers.
        """
        from vkteams_daemon.embedding import catalogue
        from vkteams_daemon.embedding.model import Model

        with self._loading:
            if self._model is None or self._model is broken:
                self._model = None  # frees its memory before the next one is loaded
                name = catalogue.chosen_name(self._config)
                self._model = Model.load(catalogue.find_directory(self._config.models_dir, name or ""))
            return self._model

    def _listen(self) -> None:
        """Wake the workers on the writer's notifications. With `--role embed` the writer is in another process."""
        from vkteams_daemon.store import queue

        while not self._stop.is_set():
            try:
                with self._database.connect() as connection:
                    while not self._stop.is_set():
                        if queue.wait_for_notify(connection, 2.0):
                            self.wake()
            except VkTeamsError as error:
                log.debug("not listening for new messages: %s", error)
                self._stop.wait(5.0)
