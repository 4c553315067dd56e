"""The running daemon: its threads, its signals, its end. All of it is made after the double fork.

Threads: `longpoll` polls. A thread pool inserts and embeds. `keeper` keeps the writer's session alive and ends a poll
whose lock is lost. `status` writes the status file. `reload` reads the configuration again and tries a new token.
`words` counts the archive's words, `measures` its gaps and bytes. `search-terms` makes index terms again after an
upgrade. `roster` asks who is in the chats. `retention` erases old messages and events. `watch` looks whether all of
them go on, and `rhythm` whether the bot is deaf. `metrics` answers scrapes and probes.
With `--role embed`, `opening` opens the database. The main thread only waits for signals, so that TERM works whatever
the other threads wait for.
"""

from __future__ import annotations

import functools
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
from vkteams_daemon.botapi.client import BotClient, BotInfo, base_url, make_client
from vkteams_daemon.config import Config
from vkteams_daemon.daemon import retention, search_terms, word_count
from vkteams_daemon.daemon.archive_measures import measure_loop
from vkteams_daemon.daemon.database_opener import DatabaseOpener
from vkteams_daemon.daemon.polling import spool
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.daemon.polling.event_printer import EventPrinter
from vkteams_daemon.daemon.polling.poller import Poller, Sink
from vkteams_daemon.daemon.polling.spooler import Spooler
from vkteams_daemon.daemon.process.bot_lock import BotLock
from vkteams_daemon.daemon.query_server import QueryServer
from vkteams_daemon.daemon.reload import Reloader
from vkteams_daemon.daemon.reporter import Reporter, percentiles
from vkteams_daemon.daemon.rhythm import Rhythm
from vkteams_daemon.daemon.roster import RosterReader
from vkteams_daemon.daemon.status import State, Status, Step
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.daemon.threads import ThreadTable
from vkteams_daemon.daemon.watch import Pulse, Watch
from vkteams_daemon.daemon.workers.pool import WorkerPool
from vkteams_daemon.embedding import query_socket
from vkteams_daemon.errors import ApiUnreachable, DatabaseUnavailable, StoppedEarly, VkTeamsError
from vkteams_daemon.store.connection_profiles import WORKER
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.system.user import end_programs

if TYPE_CHECKING:
    from vkteams_daemon.daemon.metrics.endpoint import Endpoint

log = logging.getLogger(__name__)

PING_INTERVAL = 3.0  # seconds; the server ends the writer's session after 10 s of silence
PING_LIMIT = 60.0  # seconds after which a ping is overdue
MAIN_LIMIT = 30.0  # seconds after which the main thread is overdue, which waits for signals
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
        self._bot_lock: BotLock | None = None
        self._rivals_mutex = threading.Lock()  # the status is refreshed by several threads
        # The service manager cannot mend a disk that hangs under the status file, and archiving goes on without it.
        self._reporter = Reporter(status, self._refresh, report, self._watch.pulse("status", vital=False))
        self._longpoll = self._watch.pulse("longpoll", repair=self._end_operation)
        self._main = self._watch.pulse("main")
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
        self._writer: Writer | None = None
        self._poller: Poller | None = None
        self._workers = WorkerPool(config, self._database, self._stop_because, self._watch.pulse, self._observe)
        self._queries = QueryServer(
            query_socket.path(config), self._workers.loaded, group=group, pulse=self._watch.pulse("query", vital=False)
        )
        self._pool = ThreadPoolExecutor(1 + self._workers.size, thread_name_prefix="work")
        self._threads = ThreadTable(self._watch, self._stopping)

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
        self._threads.start("status", lambda: self._reporter.run(
            lambda: self.config.daemon.status_interval, lambda: self.config.daemon.stats_interval
        ))  # fmt: skip
        self._threads.start_unjoined("watch", lambda: self._watch.run(self._stopping, self._alive))
        if self._reloader:
            self._threads.start("reload", self._reloader.run, self._reload_pulse)
        if daemon.role != "listen" and self.config.storage.save:
            self._threads.start("query", lambda: self._queries.run(self._stopping), self._queries.pulse)
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
                self._threads.start_unjoined("debug", self._announce_level)

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
        if self._poller:
            self._poller.stop()
        self._workers.stop()
        self._reporter.stop()
        if self._endpoint:
            self._endpoint.stop()
        self._wait_for_threads(started + STOP_GRACE)
        if self._writer:
            self._writer.abort()
        self._wait_for_threads(started + STOP_LIMIT - 0.7)
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._writer and not self.stuck:
            self._writer.close()
        if self._poller and not self.stuck:
            self._poller.spooler.close()
        self._database.close()
        if self._bot_lock:
            self._bot_lock.release()
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
            if self._poller:
                self._poller.abort()  # repeatedly, because the poll may not have had its connection yet
            self._threads.join(0.02)
            self._workers.wait(0.02)

    def _start_listening(self) -> str:
        config = self.config
        if not config.storage.save:
            log.warning("--no-save: nothing is stored, and the API forgets the events that are printed")
        self._poller = poller = Poller(
            make_client(config),
            self._open_sink,
            self._pool,
            self._status,
            poll_time=config.api.poll_time,
            backoff_max=config.api.backoff_max,
            on_change=self._reporter.write_soon,
            on_queued=self._workers.wake,
            on_end=self._stop_because,
            spooler=self._make_spooler(),
            store_limit=2 * config.database.write_timeout + 60.0,  # and the time until a session is known to be lost
            pulse=self._longpoll,
            observe=self._observe,
            warn=functools.partial(self._watch.warn, "polls"),
        )
        if config.storage.save:
            # A stop does not wait for these threads: a transaction that is cut off changes nothing.
            rhythm = Rhythm(
                self._database, self._listening_bot, functools.partial(self._watch.warn, "events"), self._reconnect
            )
            self._threads.start_unjoined("rhythm", lambda: rhythm.run(self._stopping))
            roster = RosterReader(
                self._database, lambda: make_client(self.config), lambda: self._listening_bot() is not None,
                lambda: self.config.api.roster, chat_ids=config.storage.chat_ids,
            )  # fmt: skip
            self._threads.start_unjoined("roster", lambda: roster.run(self._stopping))
            self._threads.start_unjoined("measures", lambda: measure_loop(
                self._database, self._status.archive, config.state_dir,
                functools.partial(self._watch.warn, "models"), self._stopping,
            ))  # fmt: skip
            self._threads.start_unjoined("words", lambda: word_count.count_words_loop(self._database, self._stopping))
            self._threads.start_unjoined("search-terms", lambda: search_terms.refill_loop(
                functools.partial(self._database.connect, WORKER), self._stopping,
                lambda: self._writer is not None and self._writer.holds_lock,
            ))  # fmt: skip
            self._threads.start_unjoined("retention", retention.Retention(
                functools.partial(self._database.connect, WORKER),
                lambda: self.config.storage.retention, self._may_erase,
                functools.partial(spool.delete_aside, config.state_dir), self._stopping,
                api_time=poller.api_time, status=self._status.retention, check_interval=retention.CHECK_INTERVAL,
            ).run)  # fmt: skip
        self._threads.start("longpoll", poller.run, self._longpoll)
        keeper = self._watch.pulse("keeper")
        self._threads.start("keeper", lambda: self._keep_session(keeper), keeper)
        return self._await_ready(poller.ready, lambda: poller.last_error)

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
        self._threads.start("opening", opener.run, pulse)
        note = self._await_ready(opener.ready, lambda: opener.last_error)
        # An error that came just now still ends the start. After cancel(), every error is retried.
        return note if opener.ready.cancel() else opener.ready.result()

    def _await_ready(self, ready: Future[str], last_error: Callable[[], VkTeamsError | None]) -> str:
        deadline = time.monotonic() + self.config.daemon.start_timeout
        while True:
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
        if self._poller and self._status.bot.id is None:
            return ApiUnreachable(f"{config.api.url}: no answer within {config.daemon.start_timeout:g} s")
        return DatabaseUnavailable(
            f"the database was not ready within {config.daemon.start_timeout:g} s",
            hint="If a migration takes long, run `vkteamsctl database migrate` first.",
        )

    def _open_sink(self, bot: BotInfo) -> Sink:
        config = self.config
        acknowledged = AcknowledgedFile(config.state_dir, bot.user_id)
        if not config.storage.save:
            return EventPrinter(config.storage.chat_ids, acknowledged=acknowledged)
        self._database.open()
        if config.daemon.role == "all" and not self._workers.started:
            self._workers.start(self._pool)
        self._writer = Writer(
            functools.partial(self._database.connect, None),  # the writer applies its own profile
            bot.user_id,
            nick=bot.nick,
            chat_ids=config.storage.chat_ids,
            write_timeout=config.database.write_timeout,
            patience=config.database.patience,
            acknowledged=acknowledged,
        )
        self._writer.erase = config.storage.on_delete == "erase"
        return self._writer

    def _make_spooler(self) -> Spooler:
        directory = self.config.state_dir if self.config.storage.save else None
        spooler = Spooler(directory, status=self._status.spool, on_change=self._reporter.write_soon)
        spooler.configure(self.config)
        return spooler

    def _may_erase(self) -> bool:
        """Whether this process holds the lock and nothing waits in the spool: what comes out of it may be old."""
        waiting = self._poller is not None and self._poller.spooler.waiting
        return self._writer is not None and self._writer.holds_lock and not waiting

    def _listening_bot(self) -> str | None:
        """The bot, while this process listens to it and the API answers."""
        listening = self._writer is not None and self._writer.holds_lock and self._status.api.state == "ok"
        return self._status.bot.id if listening else None

    def _reconnect(self) -> None:
        """Poll with new connections from now on."""
        if self._poller:
            self._poller.use(make_client(self.config))
            self._poller.abort()

    def _end_operation(self) -> None:
        """End what the poll loop waits for: its request, or its transaction."""
        if self._poller:
            self._poller.abort()
        if self._writer:
            self._writer.abort()

    def _keep_session(self, pulse: Pulse) -> None:
        """Ping the writer's session. A failed ping means that the lock is lost, so end the poll in flight."""
        # Another host may take a holder for a stopped one that is silent for longer than the patience.
        interval = min(PING_INTERVAL, self.config.database.patience / 3)
        while not self._stopping.wait(interval):
            writer, poller = self._writer, self._poller
            if writer is None or poller is None or not writer.holds_lock:
                continue
            pulse.busy(PING_LIMIT)
            try:
                writer.ping()
            except VkTeamsError as error:
                log.debug("the writer's session is gone: %s", error)
                poller.abort()
            pulse.idle()

    def _check_rivals(self) -> None:
        """Warn of another process on this host that listens to the same bot."""
        writer, bot_id = self._writer, self._status.bot.id
        if writer is None or bot_id is None or self._stopping.is_set():
            return
        with self._rivals_mutex:
            lock = self._bot_lock = self._bot_lock or BotLock(base_url(self.config.api.url), bot_id)
            if not writer.holds_lock:
                lock.release()
            elif lock.acquire():
                self._watch.warn("bot", None)
            else:
                pid = lock.holder()
                self._watch.warn(
                    "bot",
                    f"process {pid or 'of an unknown number'} on this host listens to this bot too, with another"
                    " archive, or is stopped: each of two archives loses what the other one gets",
                )

    def _refresh(self) -> None:
        status, poller = self._status, self._poller
        self._check_rivals()
        status.state = self._state()
        if poller:
            status.events.per_second = poller.per_second()
            status.latency_ms.poll_to_row = percentiles(list(poller.latencies))
            if file := poller.spooler.spool:
                status.spool.events, status.spool.bytes, status.spool.since = file.events, file.size, file.since
        self._workers.fill(status)
        status.warnings = self._watch.warnings
        status.database.blocked_by = self._database.blocked_by or (self._writer and self._writer.blocked_by) or None

    def _state(self) -> State:
        status, poller = self._status, self._poller
        if self._stopping.is_set():
            return "stopping"
        if self.config.daemon.role == "embed":
            return {"ok": "embedding", "down": "degraded"}.get(status.database.state or "", "starting")  # type: ignore[return-value]
        if poller is None or (not poller.ready.done() and poller.last_error is None):
            return "starting"
        if (
            status.database.state == "down"
            or status.spool.last_error
            or self._longpoll.fault()
            or status.api.state in ("backoff", "unauthorized")
        ):
            return "degraded"
        if poller.standby:
            return "standby"
        return "listening" if poller.ready.done() else "degraded"

    def _apply_config(self, config: Config, client: BotClient | None) -> None:
        """Put a configuration in force that was read again."""
        self.config = config
        if self._poller:
            self._poller.poll_time = config.api.poll_time
            self._poller.set_backoff_max(config.api.backoff_max)
            self._poller.spooler.configure(config)
            if client:
                self._poller.use(client)
        if self._writer:
            self._writer.erase = config.storage.on_delete == "erase"
        if self._on_reload:
            self._on_reload(config)
        self._reporter.write_soon()
