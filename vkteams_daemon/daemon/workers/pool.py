"""The embedding workers of this process: which model, how many threads, when they are woken."""

from __future__ import annotations

import logging
import os
import threading
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
    """Starts the workers once the database is open, wakes them, and stops them.

    Args:
        config: `[embedding]` and the model's directory.
        database: opened by whoever opens it first.
    """

    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._stop = threading.Event()
        self._wakes: list[threading.Event] = []
        self._model: Model | None = None
        self._loading = threading.Lock()
        self._stats: WorkerStats | None = None
        self.workers = config.embedding.workers or min(4, len(os.sched_getaffinity(0)))
        self.started = False
        self._running: list[Future[None]] = []
        self._runs: ThreadPoolExecutor | None = None

    @property
    def busy(self) -> bool:
        """Whether a worker is still at it."""
        return any(not future.done() for future in self._running)

    def start(self, work: Executor) -> None:
        """Start the workers, or log once why there are none."""
        # The runtime is heavy: a listener without a model never loads it.
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
        self._runs = ThreadPoolExecutor(self.workers, thread_name_prefix="model") if self.workers > 1 else None
        for number in range(self.workers):
            wake = threading.Event()
            worker = Worker(
                self._database, self._load, self._stats, runs=self._runs, claim=config.claim,
                token_budget=config.token_budget, max_attempts=config.max_attempts, is_leader=number == 0,
                stop=self._stop,
            )  # fmt: skip
            self._wakes.append(wake)
            self._running.append(work.submit(worker.run, wake, config.poll_interval))
        if self._config.daemon.role == "embed":
            threading.Thread(target=self._listen, name="listen", daemon=True).start()

    def wake(self) -> None:
        """Messages wait: cut the workers' idle waits short."""
        for wake in self._wakes:
            wake.set()

    def stop(self) -> None:
        """Ask the workers to end after the run of the model they are in."""
        self._stop.set()
        self.wake()

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for the workers to end."""
        wait(self._running, timeout=seconds)
        if self._runs and not self.busy:
            self._runs.shutdown(wait=False)

    def fill(self, status: Status) -> None:
        """Write what the workers have done into the status."""
        stats = self._stats
        if stats is None:
            return
        shown = status.embedding
        shown.model, shown.state = stats.model, stats.state
        shown.queued, shown.embedded, shown.failed = stats.queued, stats.embedded, stats.failed
        shown.texts_per_second = stats.per_second()
        status.latency_ms.row_to_vector = percentiles(list(stats.row_to_vector))

    def _load(self, failed: Model | None) -> Model:
        """The model, loaded by the first worker that asks and shared by all: its runs do not disturb one another.

        Args:
            failed: the model that has failed the worker; it is loaded anew, once for all of them.
        """
        from vkteams_daemon.embedding import catalogue
        from vkteams_daemon.embedding.model import Model

        with self._loading:
            if self._model is None or self._model is failed:
                self._model = None  # two of them need not be in memory
                name = catalogue.chosen_name(self._config)
                self._model = Model.load(catalogue.find_directory(self._config.models_dir, name or ""))
            return self._model

    def _listen(self) -> None:
        """Workers on their own hear of new messages by the writer's notification."""
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
