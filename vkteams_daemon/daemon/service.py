"""The running daemon: its threads, its signals, its end. All of it is made after the double fork.

The main thread only waits for signals, so that TERM works whatever the other threads wait for. A thread pool inserts
and embeds. `status` writes the status file. `reload` reads the configuration again and tries a new token. `query`
answers at the query socket. `watch` looks whether all loops go on. `metrics` answers scrapes and probes. With
`--role embed`, `opening` opens the database; otherwise bot_listener.py has the threads that listen to the bot.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from types import FrameType
from typing import TYPE_CHECKING

from vkteams_daemon import __version__
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.bot_listener import BotListener
from vkteams_daemon.daemon.database_opener import DatabaseOpener
from vkteams_daemon.daemon.query_server import QueryServer
from vkteams_daemon.daemon.reload import Reloader
from vkteams_daemon.daemon.reporter import Reporter
from vkteams_daemon.daemon.status import State, Status, Step
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.daemon.threads import ThreadTable
from vkteams_daemon.daemon.watch import Watch
from vkteams_daemon.daemon.workers.pool import WorkerPool
from vkteams_daemon.embedding import query_socket
from vkteams_daemon.errors import ApiUnreachable, DatabaseUnavailable, StoppedEarly, VkTeamsError
from vkteams_daemon.store.database import Database
from vkteams_daemon.system.user import end_programs

if TYPE_CHECKING:
    from vkteams_daemon.daemon.metrics.endpoint import Endpoint

log = logging.getLogger(__name__)

MAIN_LIMIT = 30.0  # seconds after which the main thread, which waits for signals, is overdue
SIGNAL_POLL = 0.5  # seconds; the longest time until the main thread notices a signal
STOP_GRACE = 2.5  # seconds that a stop waits for the open transaction
STOP_LIMIT = 4.0  # seconds after which a stop abandons every thread that still runs
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Service:
    """One bot's listener with its embedding workers, or (`role = "embed"`) the workers alone.

    Args:
        config: checked.
        status: kept up to date; a new one by default.
        report: writes the status file, or raises VkTeamsError; does nothing by default.
        reload: for HUP: reopens the log and reads the configuration again, from the same sources as at the start.
        apply: for HUP: called with the configuration that is now in force.
        toggle_debug: for USR2: switches debug logging and returns the new level.
        alive: called every few seconds while every loop goes on.
        group: the number of the group that may ask at the query socket; None for the group of the daemon's user.
    """

    def __init__(
        self,
        config: Config,
        status: Status | None = None,
        report: Callable[[], None] = lambda: None,
        *,
        reload: Callable[[], Config] | None = None,
        apply: Callable[[Config], None] | None = None,
        toggle_debug: Callable[[], str] | None = None,
        alive: Callable[[], None] = lambda: None,
        group: int | None = None,
    ) -> None:
        self.config = config
        self._status = status = status or new_status(__version__, config.daemon.role)
        self._alive = alive
        self._watch = Watch(lambda: status.embedding.queued)
        self._endpoint: Endpoint | None = None
        self._listener: BotListener | None = None
        self._reporter = Reporter(status, self._refresh, report, self._watch.pulse("status"))
        self._main = self._watch.pulse("main", vital=True)
        self._debug_pulse = self._watch.pulse("debug")
        self._on_reload = apply
        self._toggle_debug = toggle_debug
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._stop_requested = False
        self._failure: VkTeamsError | None = None
        self._stopping = threading.Event()
        self._reload_pulse = self._watch.pulse("reload")
        self._reloader = (
            Reloader(config, reload, lambda: status.bot.id, self._apply_config, self._reload_pulse) if reload else None
        )
        self._database = Database(config, application="vkteamsd")
        self._workers = WorkerPool(config, self._database, self._stop_because, self._watch.pulse, self._observe)
        self._queries = QueryServer(
            query_socket.path(config), self._workers.loaded, group=group, pulse=self._watch.pulse("query")
        )
        self._pool = ThreadPoolExecutor(1 + self._workers.size, thread_name_prefix="work")
        self._threads = ThreadTable(self._stopping)

    def signal(self, signum: int, frame: FrameType | None = None) -> None:
        """The handler of every signal. It only records the signal; `run` acts on it."""
        self._stop_requested = self._stop_requested or signum in _STOP_SIGNALS
        self._signals.put(signum)

    def start(self) -> str:
        """Start all threads and wait until the daemon is ready.

        Returns:
            A note for the administrator: "", or that the daemon waits as a standby, or that it starts degraded.

        Raises:
            VkTeamsError: the daemon cannot become ready; it has stopped its threads.
        """
        if self._stop_requested:
            raise StoppedEarly("stopped by a signal before it was ready")
        daemon = self.config.daemon
        if daemon.metrics:
            self._endpoint = self._open_endpoint(daemon.metrics)
        self._threads.start(self._reporter.pulse, lambda: self._reporter.run(
            lambda: self.config.daemon.status_interval, lambda: self.config.daemon.stats_interval
        ))  # fmt: skip
        self._threads.start_unjoined(self._watch.pulse("watch"), lambda: self._watch.run(self._stopping, self._alive))
        if self._reloader:
            self._threads.start(self._reload_pulse, self._reloader.run)
        if daemon.role != "listen" and self.config.storage.save:
            self._threads.start(self._queries.pulse, lambda: self._queries.run(self._stopping))
        try:
            note = self._start_embedding() if daemon.role == "embed" else self._start_listening()
        except BaseException:
            self.stop()
            raise
        self._write_status(STOP_GRACE)
        return note

    def _open_endpoint(self, address: str) -> Endpoint:
        # Only here, because a daemon without metrics does not need the library.
        from vkteams_daemon.daemon.metrics.endpoint import Endpoint

        def status() -> Status:
            self._refresh()
            return self._status

        return Endpoint(address, status, lambda: self._watch.alive)

    def _observe(self, step: Step, seconds: float) -> None:
        """Count how long a step took, if there are metrics."""
        if self._endpoint:
            self._endpoint.durations.observe(step, seconds)

    def run(self) -> int:
        """The main thread's loop: acts on signals until TERM or INT; returns the exit code.

        Raises:
            VkTeamsError: the daemon had to stop for another reason than a signal.
        """
        while True:
            self._main.busy(MAIN_LIMIT)
            try:
                # The timeout is needed. A signal that comes just before the thread blocks does not wake it, and
                # Python calls the handler only when the thread runs again.
                signum = self._signals.get(timeout=SIGNAL_POLL)
            except queue.Empty:
                continue
            if signum in _STOP_SIGNALS:
                self.stop(f"stopping on {signal.Signals(signum).name}")
                if self._failure:
                    raise self._failure
                return 0
            if signum == signal.SIGHUP and self._reloader:
                self._reloader.request()
            elif signum == signal.SIGUSR1:
                self._reporter.dump()
            elif signum == signal.SIGUSR2 and self._toggle_debug:
                self._threads.start_unjoined(self._debug_pulse, self._announce_level)

    def _announce_level(self) -> None:
        if self._toggle_debug:
            log.info("the log level is now %s", self._toggle_debug())

    def stop(self, reason: str = "") -> None:
        """Stop polling, finish the open transaction, abandon stuck threads, disconnect from the database.

        This takes STOP_LIMIT seconds at most. The work is done in another thread: if a disk hangs, the main thread must
        still act on the second TERM.
        """
        self._main.idle()
        started = time.monotonic()
        self._stopping.set()
        thread = threading.Thread(target=self._stop_threads, args=(started, reason), name="stop", daemon=True)
        self._threads.add(thread)  # if it does not end, `stuck` says so
        thread.start()
        thread.join(STOP_LIMIT)

    def _stop_threads(self, started: float, reason: str) -> None:
        if reason:
            log.info("%s", reason)
        if self._reloader:
            self._reloader.stop()
        if self._listener:
            self._listener.poller.stop()
        self._workers.stop()
        self._reporter.stop()
        if self._endpoint:
            self._endpoint.stop()
        self._wait_for_threads(started + STOP_GRACE)
        if self._listener:
            self._listener.abort_transaction()
        self._wait_for_threads(started + STOP_LIMIT - 0.7)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._listener and not self.stuck:
            self._listener.close()
        self._database.close()
        if self._listener:
            self._listener.release_bot()
        self._write_status(max(0.2, started + STOP_LIMIT - 0.1 - time.monotonic()))
        log.info("stopped after %.1f s", time.monotonic() - started)

    @property
    def stuck(self) -> bool:
        """Whether a thread still runs. After stop(), the process must then exit without waiting for it."""
        return self._threads.running or self._workers.busy

    def _write_status(self, timeout: float) -> None:
        """Write the status file, and wait for it at most `timeout` seconds: its disk may hang."""
        thread = threading.Thread(target=self._reporter.write_now, name="report", daemon=True)
        thread.start()
        thread.join(timeout)

    def _wait_for_threads(self, deadline: float) -> None:
        while self.stuck and time.monotonic() < deadline:
            end_programs()  # that make the bundled database
            if self._listener:
                self._listener.poller.abort()  # repeatedly, because the poll may not have had its connection yet
            self._threads.join(0.02)
            self._workers.wait(0.02)

    def _start_listening(self) -> str:
        self._listener = listener = BotListener(
            self.config,
            self._database,
            self._pool,
            self._workers,
            self._status,
            self._watch,
            self._stopping,
            on_change=self._reporter.write_soon,
            on_end=self._stop_because,
            observe=self._observe,
        )
        listener.start(self._threads)
        return self._await_ready(listener.poller.ready, lambda: listener.poller.last_error)

    def _start_embedding(self) -> str:
        pulse = self._watch.pulse("opening")
        opener = DatabaseOpener(
            self._database,
            self._status.database,
            self._stopping,
            on_open=lambda: self._workers.start(self._pool),
            on_change=self._reporter.write_soon,
            pulse=pulse,
        )
        self._threads.start(pulse, opener.run)
        note = self._await_ready(opener.ready, lambda: opener.last_error)
        # An error that came just now still ends the start. After cancel(), every error is retried.
        return note if opener.ready.cancel() else opener.ready.result()

    def _await_ready(self, ready: Future[str], last_error: Callable[[], VkTeamsError | None]) -> str:
        deadline = time.monotonic() + self.config.daemon.start_timeout
        while True:
            self._main.busy(MAIN_LIMIT)
            try:
                return ready.result(timeout=max(0.02, min(0.2, deadline - time.monotonic())))
            except FutureTimeout:
                if self._stop_requested:
                    raise StoppedEarly("stopped by a signal before it was ready") from None
                if self._database.initialising:
                    deadline = time.monotonic() + self.config.daemon.start_timeout
                    continue
                if time.monotonic() < deadline:
                    continue
                error = last_error()
                if self.config.daemon.start_degraded:
                    return f"degraded: {error or 'nothing has answered yet'}; it goes on trying"
                raise error or self._timeout_error() from None

    def _stop_because(self, error: VkTeamsError) -> None:
        """Stop as after TERM, and let `run` raise this error."""
        self._failure = error
        self._signals.put(signal.SIGTERM)

    def _timeout_error(self) -> VkTeamsError:
        config = self.config
        if self._listener and self._status.bot.id is None:
            return ApiUnreachable(f"{config.api.url}: no answer within {config.daemon.start_timeout:g} s")
        return DatabaseUnavailable(
            f"the database was not ready within {config.daemon.start_timeout:g} s",
            hint="If a migration takes long, run `vkteamsctl database migrate` first.",
        )

    def _refresh(self) -> None:
        status, listener = self._status, self._listener
        status.state = self._state()
        if listener:
            listener.fill(status)
        self._workers.fill(status)
        status.warnings = self._watch.warnings
        status.database.blocked_by = self._database.blocked_by or (listener and listener.blocked_by) or None

    def _state(self) -> State:
        if self._stopping.is_set():
            return "stopping"
        if self.config.daemon.role == "embed":
            return {"ok": "embedding", "down": "degraded"}.get(self._status.database.state or "", "starting")  # type: ignore[return-value]
        return self._listener.state if self._listener else "starting"

    def _apply_config(self, config: Config, client: BotClient | None) -> None:
        """Put in force a configuration that was read again."""
        self.config = config
        if self._listener:
            self._listener.apply(config, client)
        if self._on_reload:
            self._on_reload(config)
        self._reporter.write_soon()
