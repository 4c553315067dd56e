"""The running daemon: its threads, its signals, its end. Everything here is made after the double fork.

Threads: `longpoll` polls, a pool does the inserts and the embedding, `keeper` keeps the writer's session alive and
ends polls that outlived their lock, `status` writes the status file, `reload` reads the configuration again and tries
a new token, `chores` counts the archive's words, `retention` erases what is too old; the main thread only waits for
signals, so that TERM is heard whatever the others wait for.
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

from vkteams_daemon import __version__
from vkteams_daemon.botapi.client import BotClient, BotInfo, make_client
from vkteams_daemon.config import Config
from vkteams_daemon.daemon import word_count
from vkteams_daemon.daemon.opener import DatabaseOpener
from vkteams_daemon.daemon.polling.poller import Poller, Sink
from vkteams_daemon.daemon.polling.printer import Printer
from vkteams_daemon.daemon.reload import Reload
from vkteams_daemon.daemon.reporter import Reporter, percentiles
from vkteams_daemon.daemon.retention import Retention
from vkteams_daemon.daemon.status import State, Status
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.daemon.workers.pool import WorkerPool
from vkteams_daemon.errors import ApiUnreachable, DatabaseUnavailable, StoppedEarly, VkTeamsError
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer

log = logging.getLogger(__name__)

PING_INTERVAL = 3.0  # seconds; the server ends the writer's session after 10 s of silence
HEARING = 0.5  # seconds after which any signal has been heard
STOP_GRACE = 2.5  # seconds for the transaction that is open when the daemon is told to stop
STOP_LIMIT = 4.0  # seconds until whatever still runs is left behind
_ENDINGS = (signal.SIGTERM, signal.SIGINT)


class Service:
    """One bot's listener with its embedding workers, or (`role = "embed"`) the workers alone.

    Args:
        config: checked.
        status: filled in as things happen; one of its own by default.
        report: writes the status file, or raises VkTeamsError; nothing by default.
        reload: for HUP: reopens the log and reads the configuration again, as it was read at the start.
        apply: for HUP: called with the configuration that is now in force.
        toggle_debug: for USR2.
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
    ) -> None:
        self.config = config
        self._status = status = status or new_status(__version__, config.daemon.role)
        self._reporter = Reporter(status, self._refresh, report)
        self._apply = apply
        self._toggle_debug = toggle_debug
        self._inbox: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._told_to_stop = False
        self._failure: VkTeamsError | None = None
        self._stopping = threading.Event()
        self._reload = Reload(config, reload, lambda: status.bot.id, self._take) if reload else None
        self._database = Database(config, application="vkteamsd")
        self._writer: Writer | None = None
        self._poller: Poller | None = None
        self._embedders = WorkerPool(config, self._database)
        self._work = ThreadPoolExecutor(1 + self._embedders.workers, thread_name_prefix="work")
        self._threads: list[threading.Thread] = []

    def signal(self, signum: int, frame: FrameType | None = None) -> None:
        """The handler of every signal: it only records; `run` acts."""
        self._told_to_stop = self._told_to_stop or signum in _ENDINGS
        self._inbox.put(signum)

    def start(self) -> str:
        """Start all threads and wait until the daemon is ready.

        Returns:
            A note for whoever started it: empty, or that it waits as a standby, or that it starts degraded.

        Raises:
            VkTeamsError: it cannot become ready; nothing is left running.
        """
        daemon = self.config.daemon
        self._spawn("status", lambda: self._reporter.run(
            lambda: self.config.daemon.status_interval, lambda: self.config.daemon.stats_interval
        ))  # fmt: skip
        if self._reload:
            self._spawn("reload", self._reload.run)
        try:
            note = self._start_embedding() if daemon.role == "embed" else self._start_listening()
        except BaseException:
            self.stop()
            raise
        self._report(STOP_GRACE)
        return note

    def run(self) -> int:
        """The main thread's loop: acts on signals until TERM or INT; returns the exit code.

        Raises:
            VkTeamsError: there was no sense in going on.
        """
        while True:
            try:
                # Not for ever: a signal that comes just before the thread falls asleep does not wake it, and its
                # handler runs only when something else does.
                signum = self._inbox.get(timeout=HEARING)
            except queue.Empty:
                continue
            if signum in _ENDINGS:
                log.info("stopping on %s", signal.Signals(signum).name)
                self.stop()
                if self._failure:
                    raise self._failure
                return 0
            if signum == signal.SIGHUP and self._reload:
                self._reload.wanted()
            elif signum == signal.SIGUSR1:
                self._reporter.dump()
            elif signum == signal.SIGUSR2 and self._toggle_debug:
                log.info("the log level is now %s", self._toggle_debug())

    def stop(self) -> None:
        """Stop polling, finish the open transaction, abandon what is stuck, let go of the database."""
        started = time.monotonic()
        self._stopping.set()
        if self._reload:
            self._reload.stop()
        if self._poller:
            self._poller.stop()
        self._embedders.stop()
        self._reporter.stop()
        self._wait_for_threads(started + STOP_GRACE)
        if self._writer:
            self._writer.abort()
        self._wait_for_threads(started + STOP_LIMIT - 0.5)
        self._work.shutdown(wait=False, cancel_futures=True)
        if self._writer and not self.stuck:
            self._writer.close()
        self._database.close()
        self._report(max(0.2, started + STOP_LIMIT - time.monotonic()))
        log.info("stopped after %.1f s", time.monotonic() - started)

    @property
    def stuck(self) -> bool:
        """Whether a thread outlived the stop: the process must then leave without waiting for it."""
        return any(thread.is_alive() for thread in self._threads) or self._embedders.busy

    def _report(self, limit: float) -> None:
        """Write the status file, in `limit` seconds or not at all: its disk may hang."""
        writing = threading.Thread(target=self._reporter.now, name="report", daemon=True)
        writing.start()
        writing.join(limit)

    def _wait_for_threads(self, deadline: float) -> None:
        while self.stuck and time.monotonic() < deadline:
            if self._poller:
                self._poller.abort()  # again and again: the poll may not have had its connection yet
            for thread in self._threads:
                thread.join(0.02)
            self._embedders.wait(0.02)

    def _start_listening(self) -> str:
        config = self.config
        if not config.storage.save:
            log.warning("--no-save: nothing is stored, and what is printed is gone from the API")
        self._poller = poller = Poller(
            make_client(config),
            self._open_sink,
            self._work,
            self._status,
            poll_time=config.api.poll_time,
            backoff_max=config.api.backoff_max,
            changed=self._reporter.changed,
            queued=self._embedders.wake,
            ended=self._end,
        )
        if config.storage.save:
            # Nobody waits for these when the daemon stops: what is cut off in the middle changes nothing.
            self._beside("words", lambda: word_count.count_words_loop(self._database, self._stopping))
            self._beside("retention", Retention(
                self._database.connect, lambda: self.config.storage.retention, self._holds, self._stopping
            ).run)  # fmt: skip
        self._spawn("longpoll", poller.run)
        self._spawn("keeper", self._keep)
        return self._await_ready(poller.ready, lambda: poller.last_error)

    def _start_embedding(self) -> str:
        opening = DatabaseOpener(
            self._database,
            self._status.database,
            self._stopping,
            opened=lambda: self._embedders.start(self._work),
            changed=self._reporter.changed,
        )
        self._spawn("opening", opening.run)
        note = self._await_ready(opening.ready, lambda: opening.last_error)
        # Whatever came just now still counts; what comes from now on is waited out.
        return note if opening.ready.cancel() else opening.ready.result()

    def _await_ready(self, ready: Future[str], last_error: Callable[[], VkTeamsError | None]) -> str:
        deadline = time.monotonic() + self.config.daemon.start_timeout
        while True:
            try:
                return ready.result(timeout=max(0.02, min(0.2, deadline - time.monotonic())))
            except FutureTimeout:
                if self._told_to_stop:
                    raise StoppedEarly("stopped by a signal before it was ready") from None
                if self._database.initialising:
                    deadline = time.monotonic() + self.config.daemon.start_timeout
                    continue
                if time.monotonic() < deadline:
                    continue
                error = last_error()
                if self.config.daemon.start_degraded:
                    return f"degraded: {error or 'nothing has answered yet'}; it goes on trying"
                raise error or self._not_in_time() from None

    def _end(self, error: VkTeamsError) -> None:
        """Stop as if told to, because of this."""
        self._failure = error
        self._inbox.put(signal.SIGTERM)

    def _not_in_time(self) -> VkTeamsError:
        config = self.config
        if self._poller and self._status.bot.id is None:
            return ApiUnreachable(f"{config.api.url}: no answer within {config.daemon.start_timeout:g} s")
        return DatabaseUnavailable(
            f"the database was not ready within {config.daemon.start_timeout:g} s",
            hint="Where a migration takes long: run `vkteamsctl database migrate` first.",
        )

    def _open_sink(self, bot: BotInfo) -> Sink:
        config = self.config
        if not config.storage.save:
            return Printer(config.storage.chat_ids)
        self._database.open()
        if config.daemon.role == "all" and not self._embedders.started:
            self._embedders.start(self._work)
        self._writer = Writer(
            self._database.connect,
            bot.user_id,
            nick=bot.nick,
            chat_ids=config.storage.chat_ids,
            write_timeout=config.database.write_timeout,
        )
        self._writer.erase = config.storage.on_delete == "erase"
        return self._writer

    def _holds(self) -> bool:
        return self._writer is not None and self._writer.holds_lock

    def _beside(self, name: str, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _keep(self) -> None:
        """Ping the writer's session; where that fails the lock is gone, and the poll in flight must end too."""
        while not self._stopping.wait(PING_INTERVAL):
            writer, poller = self._writer, self._poller
            if writer is None or poller is None or not writer.holds_lock:
                continue
            try:
                writer.ping()
            except VkTeamsError as error:
                log.debug("the writer's session is gone: %s", error)
                poller.abort()

    def _refresh(self) -> None:
        status, poller = self._status, self._poller
        status.state = self._state()
        if poller:
            status.events.per_second = poller.per_second()
            status.latency_ms.poll_to_row = percentiles(list(poller.latencies))
        self._embedders.fill(status)

    def _state(self) -> State:
        status, poller = self._status, self._poller
        if self._stopping.is_set():
            return "stopping"
        if self.config.daemon.role == "embed":
            return {"ok": "embedding", "down": "degraded"}.get(status.database.state or "", "starting")  # type: ignore[return-value]
        if poller is None or (not poller.ready.done() and poller.last_error is None):
            return "starting"
        if status.database.state == "down" or status.api.state in ("backoff", "unauthorized"):
            return "degraded"
        if poller.standby:
            return "standby"
        return "listening" if poller.ready.done() else "degraded"

    def _take(self, new: Config, client: BotClient | None) -> None:
        """Go on with a configuration that was read again."""
        self.config = new
        if self._poller:
            self._poller.poll_time = new.api.poll_time
            self._poller.set_backoff_max(new.api.backoff_max)
            if client:
                self._poller.use(client)
        if self._writer:
            self._writer.erase = new.storage.on_delete == "erase"
        if self._apply:
            self._apply(new)
        self._reporter.changed()
