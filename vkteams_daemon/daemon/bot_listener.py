"""Listens to one bot: makes the poller and the bot's writer, and runs the loops beside them.

Threads: `longpoll` polls. `keeper` keeps the writer's session alive and ends a poll whose lock is lost. `rhythm` looks
whether the bot is deaf. `roster` asks who is in the chats. `outages` notes when the API answered. `measures` measures
the archive's gaps and bytes. `words` counts its words. `search-terms` makes index terms again after an upgrade.
`retention` erases old messages and events.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from vkteams_daemon.botapi.client import BotClient, BotInfo, base_url, make_client
from vkteams_daemon.config import Config
from vkteams_daemon.daemon import outages, retention, search_terms, word_count
from vkteams_daemon.daemon.archive_measures import measure_loop
from vkteams_daemon.daemon.polling import spool
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.daemon.polling.event_printer import EventPrinter
from vkteams_daemon.daemon.polling.id_density import IdDensity
from vkteams_daemon.daemon.polling.poller import Poller, Sink
from vkteams_daemon.daemon.polling.spooler import make_spooler
from vkteams_daemon.daemon.reporter import percentiles
from vkteams_daemon.daemon.rhythm import Rhythm
from vkteams_daemon.daemon.rivals import RivalCheck
from vkteams_daemon.daemon.roster import RosterReader
from vkteams_daemon.daemon.status import State, Status, Step
from vkteams_daemon.daemon.threads import ThreadTable
from vkteams_daemon.daemon.watch import Pulse, Watch
from vkteams_daemon.daemon.workers.pool import WorkerPool
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.connection_profiles import WORKER
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer

log = logging.getLogger(__name__)

PING_INTERVAL = 3.0  # seconds; the server ends the writer's session after 10 s of silence
PING_LIMIT = 60.0  # seconds after which a ping is overdue


class BotListener:
    """The poller, its writer, and the loops that need one of them.

    Args:
        config: checked.
        database: the poll loop opens it.
        pool: runs the inserts, and the workers.
        workers: started with the database, unless the role is `listen`; woken when messages wait for their vectors.
        status: `fill` keeps it up to date.
        watch: keeps the pulses and the warnings.
        stopping: set when the daemon stops.
        on_change: called after every change of state.
        on_end: called with the error that must end the daemon.
        observe: called with each step and the seconds it took.

    Attributes:
        poller: runs in the thread `longpoll`.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        pool: ThreadPoolExecutor,
        workers: WorkerPool,
        status: Status,
        watch: Watch,
        stopping: threading.Event,
        *,
        on_change: Callable[[], None],
        on_end: Callable[[VkTeamsError], None],
        observe: Callable[[Step, float], None],
    ) -> None:
        self._config = config
        self._database = database
        self._pool = pool
        self._workers = workers
        self._status = status
        self._watch = watch
        self._stopping = stopping
        self._writer: Writer | None = None
        self._rivals = RivalCheck(base_url(config.api.url), functools.partial(watch.warn, "bot"))
        self._longpoll = watch.pulse("longpoll", repair=self.abort, vital=True)
        self.poller = Poller(
            make_client(config),
            self._open_sink,
            pool,
            status,
            poll_time=config.api.poll_time,
            backoff_max=config.api.backoff_max,
            on_change=on_change,
            on_queued=workers.wake,
            on_end=on_end,
            spooler=make_spooler(config, status.spool, on_change, functools.partial(watch.warn, "acknowledged")),
            store_limit=2 * config.database.write_timeout + 60.0,  # and the time until a session is known to be lost
            pulse=self._longpoll,
            observe=observe,
            warn=functools.partial(watch.warn, "polls"),
            density=IdDensity(functools.partial(watch.warn, "ids")),
        )

    def start(self, threads: ThreadTable) -> None:
        """Start the loops."""
        if self._config.storage.save:
            # A stop does not wait for these threads: a transaction that is cut off changes nothing.
            for pulse, loop in self._archive_loops().items():
                threads.start_unjoined(pulse, loop)
        else:
            log.warning("--no-save: nothing is stored, and the API forgets the events that are printed")
        threads.start(self._longpoll, self.poller.run)
        keeper = self._watch.pulse("keeper", vital=True)
        threads.start(keeper, lambda: self._keep_session(keeper))

    def apply(self, config: Config, client: BotClient | None) -> None:
        """Put in force a configuration that was read again, with a client for a new token."""
        self._config = config
        self.poller.poll_time = config.api.poll_time
        self.poller.set_backoff_max(config.api.backoff_max)
        self.poller.spooler.configure(config)
        if client:
            self.poller.use(client)
        if self._writer:
            self._writer.erase = config.storage.on_delete == "erase"

    def abort(self) -> None:
        """End what the poll loop waits for: its request, or its transaction."""
        self.poller.abort()
        self.abort_transaction()

    def abort_transaction(self) -> None:
        """End the writer's transaction, if there is one."""
        if self._writer:
            self._writer.abort()

    def close(self) -> None:
        """Close the writer's session and the spool. The poll loop has ended."""
        if self._writer:
            self._writer.close()
        self.poller.spooler.close()

    def release_bot(self) -> None:
        """Let go of the bot's lock on this host."""
        self._rivals.release()

    @property
    def blocked_by(self) -> str:
        """The sessions that keep the writer from its lock; "" if there are none."""
        return self._writer.blocked_by if self._writer else ""

    @property
    def state(self) -> State:
        """The daemon's state while it does not stop."""
        status, poller = self._status, self.poller
        if not poller.ready.done() and poller.last_error is None:
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

    def fill(self, status: Status) -> None:
        """Write what the poll loop has counted into the status, and look for another listener on this host."""
        if status.bot.id is not None and self._writer is not None and not self._stopping.is_set():
            self._rivals.check(status.bot.id, listening=self._writer.holds_lock)
        counts = self.poller.counts
        status.events.per_second = counts.per_second()
        status.latency_ms.poll_to_row = percentiles(list(counts.latencies))
        if file := self.poller.spooler.spool:
            status.spool.events, status.spool.bytes, status.spool.since = file.events, file.size, file.since

    def _archive_loops(self) -> dict[Pulse, Callable[[], None]]:
        """The loops that read or tend the archive, by their pulses."""
        database, stopping, pulse = self._database, self._stopping, self._watch.pulse
        connect = functools.partial(database.connect, WORKER)
        warn = self._watch.warn
        rhythm = Rhythm(
            database, self._listening_bot, functools.partial(warn, "events"), self._reconnect, pulse=pulse("rhythm")
        )
        roster = RosterReader(
            database, lambda: make_client(self._config), self._listening_bot,
            lambda: self._config.api.roster, chat_ids=self._config.storage.chat_ids, pulse=pulse("roster"),
        )  # fmt: skip
        state_dir = self._config.state_dir
        eraser = retention.Retention(
            connect, lambda: self._config.storage.retention, self._may_erase,
            functools.partial(spool.delete_aside, state_dir), stopping,
            api_time=self.poller.api_time, status=self._status.retention, check_interval=retention.CHECK_INTERVAL,
            pulse=pulse("retention"),
        )  # fmt: skip
        measures, words, terms = pulse("measures"), pulse("words"), pulse("search-terms")
        polls = pulse("outages")
        return {
            rhythm.pulse: lambda: rhythm.run(stopping),
            roster.pulse: lambda: roster.run(stopping),
            measures: lambda: measure_loop(
                database, self._status.archive, state_dir, functools.partial(warn, "models"), stopping, measures
            ),
            polls: lambda: outages.outage_loop(
                database, self._listening_bot, self.poller.series, lambda: self._config.api.retention, stopping, polls
            ),
            words: lambda: word_count.count_words_loop(database, stopping, words),
            terms: lambda: search_terms.refill_loop(connect, stopping, self._holds_lock, terms),
            eraser.pulse: eraser.run,
        }

    def _open_sink(self, bot: BotInfo) -> Sink:
        config = self._config
        warn = functools.partial(self._watch.warn, "acknowledged")
        acknowledged = self.poller.spooler.acknowledged or AcknowledgedFile(config.state_dir, bot.user_id, warn)
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

    def _holds_lock(self) -> bool:
        return self._writer is not None and self._writer.holds_lock

    def _may_erase(self) -> bool:
        """Whether this process holds the lock and nothing waits in the spool: what comes out of it may be old."""
        return self._holds_lock() and not self.poller.spooler.waiting

    def _listening_bot(self) -> str | None:
        """The bot, while this process listens to it and the API answers."""
        return self._status.bot.id if self._holds_lock() and self._status.api.state == "ok" else None

    def _reconnect(self) -> None:
        """Poll with new connections from now on."""
        self.poller.use(make_client(self._config))
        self.poller.abort()

    def _keep_session(self, pulse: Pulse) -> None:
        """Ping the writer's session. A failed ping means that the lock is lost, so end the poll in flight."""
        # Another host may take a holder for a stopped one that is silent for longer than the patience.
        interval = min(PING_INTERVAL, self._config.database.patience / 3)
        while not self._stopping.wait(interval):
            writer = self._writer
            if writer is None or not writer.holds_lock:
                continue
            with pulse.turn(PING_LIMIT):
                try:
                    writer.ping()
                except VkTeamsError as error:
                    log.debug("the writer's session is gone: %s", error)
                    self.poller.abort()
