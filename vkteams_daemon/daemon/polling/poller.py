"""The long-poll loop: take the bot's lock, poll from the committed cursor, pass the batch to the writer, repeat.

One batch is in flight at a time. A batch that could not be committed stays pending and is offered to the database
again, because the API may not deliver it twice. Only a committed cursor is ever sent, so a crash at any point loses
nothing.

While the database is away, the poller may write the events to the spool and send the spool's last id. When the database
is back, the events of the spool are committed before the next poll (see spooler.py).
"""

from __future__ import annotations

import functools
import gc
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import datetime
from typing import Protocol

from vkteams_daemon.botapi import events as api_events
from vkteams_daemon.botapi.client import BotClient, BotInfo
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling.availability import ApiAvailability, DatabaseAvailability
from vkteams_daemon.daemon.polling.backoff import Backoff
from vkteams_daemon.daemon.polling.clock import Clock
from vkteams_daemon.daemon.polling.event_counts import EventCounts
from vkteams_daemon.daemon.polling.event_printer import OutputLost
from vkteams_daemon.daemon.polling.id_density import IdDensity
from vkteams_daemon.daemon.polling.pending_batch import PendingBatch
from vkteams_daemon.daemon.polling.poll_series import PollSeries
from vkteams_daemon.daemon.polling.spool import SpoolRefused
from vkteams_daemon.daemon.polling.spooler import Spooler
from vkteams_daemon.daemon.status import Status, Step
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import (
    ApiError,
    ApiUnreachable,
    ConfigError,
    DatabaseSlow,
    FenceLost,
    SchemaError,
    SchemaNewer,
    Unauthorised,
    VkTeamsError,
)
from vkteams_daemon.store.ingest.event_cursor import Cursor
from vkteams_daemon.store.ingest.writer import StoreResult, Writer

log = logging.getLogger(__name__)

STANDBY_INTERVAL = 1.0  # seconds between two attempts to take a lock that another process holds
LOCK_GRACE = 1.0  # seconds that the server may need to notice that the process before this one has ended
STEP_LIMIT = 60.0  # seconds; a step in which the loop waits for nobody is overdue after that
RIVAL_SIGNS = 10  # polls in a row that end at once and empty, after which somebody else is suspected
REPEAT_MAX = 5.0  # seconds; the longest wait while the API repeats stored events, or does not hold the poll
PERMANENT = (ConfigError, SchemaError, Unauthorised)  # any other error of the API may come from a proxy on the way


class Sink(Protocol):
    """The destination of batches: store.ingest.writer.Writer, or polling.event_printer.EventPrinter under --no-save."""

    @property
    def cursor(self) -> Cursor | None: ...
    @property
    def holds_lock(self) -> bool: ...
    @property
    def last_arrival(self) -> datetime | None: ...
    def acquire(self) -> bool: ...
    def store(self, events: list[Event], limit: int | None = None) -> StoreResult: ...
    def ping(self) -> None: ...
    def before_poll(self, cursor: Cursor) -> None: ...


class Poller:
    """Runs in a thread of its own and keeps the status up to date.

    Args:
        client: of the Bot API; `use` replaces it, because a reload may bring a new token.
        open_sink: opens the database and returns the writer for a bot.
        pool: runs the inserts.
        status: only this loop writes its parts api, database, events and bot.
        poll_time: seconds of one long poll; may be assigned later.
        backoff_max: the longest wait after a failure, in seconds.
        on_change: called after every change of state.
        on_queued: called when messages wait for their vectors.
        on_end: called with the error when standard output is lost, or the schema is newer; the loop then ends.
        spooler: takes the events while the database is away; by default nothing does.
        store_limit: seconds after which a transaction has ended, whatever the database does.
        pulse: this loop's.
        observe: called with each step and the seconds it took.
        warn: called with a warning about the polls, or with None when it is over.
        density: looks at the ids of the events.

    Attributes:
        ready: done when the loop listens or waits as a standby, with the note for the administrator. A permanent error
            before that becomes its exception.
        counts: of the events.
        last_error: the last failure of the API or the database.
        sink: the writer, once the database has been opened.
        spooler: as above.
        series: of the answered polls.
    """

    def __init__(
        self,
        client: BotClient,
        open_sink: Callable[[BotInfo], Sink],
        pool: Executor,
        status: Status,
        *,
        poll_time: int,
        backoff_max: float,
        on_change: Callable[[], None],
        on_queued: Callable[[], None],
        on_end: Callable[[VkTeamsError], None],
        spooler: Spooler | None = None,
        store_limit: float = math.inf,
        pulse: Pulse | None = None,
        observe: Callable[[Step, float], None] = lambda step, seconds: None,
        warn: Callable[[str | None], None] = lambda sentence: None,
        density: IdDensity | None = None,
    ) -> None:
        self._client = self._client_in_use = client
        self.poll_time = poll_time
        self.ready: Future[str] = Future()
        self.counts = EventCounts(status.events, observe)
        self.last_error: VkTeamsError | None = None
        self.sink: Sink | None = None
        self.spooler = spooler or Spooler()
        self.series = PollSeries()
        self._density = density or IdDensity()
        self._store_limit = store_limit
        self._pulse = pulse or Pulse("longpoll")
        self._observe = observe
        self._warn = warn
        self._open_sink = open_sink
        self._pool = pool
        self._status = status
        self._on_change = on_change
        self._on_queued = on_queued
        self._on_end = on_end
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._bot: BotInfo | None = None
        self._pending: PendingBatch | None = None
        self._refused_since: float | None = None
        self._standby = False
        self._lock_noted = False  # whether everybody knows that this process holds the bot's lock
        self._failed = False  # whether the last turn has failed
        self._poll_needs_lock = True
        self._api = ApiAvailability(status.api, Backoff(backoff_max), on_change)
        self._database = DatabaseAvailability(status.database, Backoff(backoff_max), on_change)
        self._repeat_backoff = Backoff(REPEAT_MAX)
        self._fault_backoff = Backoff(backoff_max)
        self._clock = Clock()

    @property
    def standby(self) -> bool:
        """Whether another process holds the bot's lock."""
        return self._standby

    def set_backoff_max(self, longest: float) -> None:
        """Change the longest wait between attempts, in seconds."""
        self._api.backoff.longest = self._database.backoff.longest = longest

    def use(self, client: BotClient) -> None:
        """Poll with this client from the next poll on. It ends a wait after a failure."""
        self._client = client
        self._wake.set()

    def api_time(self) -> datetime | None:
        """The time by the Bot API's clock; None if it is not known."""
        return self._client_in_use.api_time()

    def abort(self) -> None:
        """End the request in flight, from any thread."""
        self._client_in_use.abort()

    def stop(self) -> None:
        """End the loop. A poll in flight goes on until `abort`."""
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """The loop, until `stop`."""
        garbage = False
        while not self._stop.is_set():
            if garbage and not self.spooler.active:
                # A failed attempt leaves exceptions and their frames in reference cycles, 50 KB each time.
                # `system.garbage` has made the collector rare, and nothing else would start it while attempts fail. It
                # works before the next attempt: after a failure, it could outlast the time in which events go to the
                # spool.
                gc.collect()
                garbage = False
            wait = self._turn()
            if wait is None:
                return
            garbage = garbage or self._failed
            if wait and not self._stop.is_set():
                self._wake.wait(wait)
                self._wake.clear()

    def _turn(self) -> float | None:
        """One turn of the loop; returns the seconds to wait before the next, or None if the loop ends."""
        self._pulse.busy(STEP_LIMIT)
        self._failed = True
        try:
            wait = self._spool_cycle() if self.spooler.active else self._cycle()
            self._fault_backoff.succeeded()
            self._failed = False
        except ApiError as error:
            wait = self._api_failed(error)
        except SpoolRefused as error:
            wait = self._spool_failed(error)
        except (OutputLost, SchemaNewer) as error:
            # Nothing of a newer schema may be written, and nothing that is not written may be acknowledged.
            self.last_error = error
            if not self.ready.done():
                self.ready.set_exception(error)
            self._on_end(error)
            return None
        except VkTeamsError as error:
            wait = self._database_failed(error)
        except Exception as error:  # noqa: BLE001
            wait = self._fault_failed(error)
        self._pulse.idle()
        return wait

    def _cycle(self) -> float:
        """One step; returns the seconds to wait before the next."""
        client = self._client_in_use = self._client
        if self._bot is None:
            self._pulse.busy(client.poll_limit(0) + STEP_LIMIT)
            bot = client.self_get()
            self._status.bot.id, self._status.bot.nick = bot.user_id, bot.nick
            self.spooler.open(bot.user_id)
            self._bot = bot  # last: a step that a fault cuts short is taken again as a whole
        if self.sink is None:
            self._pulse.idle()  # a migration may take hours
            self.sink = self._open_sink(self._bot)
            self._pulse.busy(STEP_LIMIT)
        sink = self.sink
        if not sink.holds_lock:
            self._lock_noted = False
            if not sink.acquire():
                return self._lock_refused()
        if not self._lock_noted:
            self._lock_taken()
            self._lock_noted = True
        if self.spooler.waiting:
            return self._drain(sink)
        if self.spooler.lost:
            assert isinstance(sink, Writer), "only a writer has a spool"
            sink.note_gaps()
        if self._pending is not None:
            return self._store(sink, self._pending)
        sink.ping()  # the lock may have been lost during a pause, so check it before the next poll
        self._database_answered()
        cursor = sink.cursor
        if cursor is None or self._stop.is_set():
            return 0.0
        self._poll_needs_lock = True
        sink.before_poll(cursor)
        wait = self._poll(client, cursor, self.poll_time)
        return self._store(sink, self._pending) if self._pending else wait

    def _poll(self, client: BotClient, cursor: Cursor, poll_time: int) -> float:
        """Poll once. Events become the pending batch; without any, returns the seconds to wait."""
        polled = time.monotonic()
        self._pulse.busy(client.poll_limit(poll_time) + STEP_LIMIT)
        body = client.poll(cursor.last_event_id, poll_time)
        self._pulse.busy(self._store_limit)
        arrived, received_at = time.monotonic(), self._clock.now()
        self._observe("poll", arrived - polled)
        events = api_events.read(body, received_at)
        self._api.answered()
        if self.series.polls is None and self.spooler.acknowledged and (earlier := self.spooler.acknowledged.polls):
            self.series.resume(earlier)
        self.series.add(received_at)
        self.spooler.polled(self.series.polls)
        self._density.add((event.event_id for event in events if event.numbered), cursor.last_event_id)
        if not events:
            if arrived - polled >= poll_time / 2:
                self._repeat_backoff.succeeded()
                self._warn(None)
                return 0.0
            # An empty answer came at once. The server does not hold polls, or it prefers another poller of this bot.
            wait = self._repeat_backoff.failed()
            if self._repeat_backoff.failures == RIVAL_SIGNS:
                self._warn(
                    f"{RIVAL_SIGNS} polls in a row have ended at once without an event: the API does not hold polls, or"
                    " another program polls with this bot's token"
                )
            return wait
        self.counts.received(events, arrived)
        self._pending = PendingBatch(events, cursor.generation, arrived)
        return 0.0

    def _store(self, sink: Sink, pending: PendingBatch) -> float:
        cursor = sink.cursor
        if cursor is not None and cursor.generation != pending.generation:
            # A new generation has begun meanwhile, and these ids mean other events there. They were not acknowledged.
            log.warning("%d events polled under an earlier generation are fetched again", len(pending.events))
            self._pending = None
            return 0.0
        part = pending.first_part()
        self._pulse.busy(self._store_limit)
        try:
            # The pool does all inserts. With one batch in flight, there is nothing to do but to wait for this one.
            stored = self._pool.submit(sink.store, part.events, part.limit).result()
        except DatabaseSlow:
            self._pending = pending.halved()
            if (size := self._pending.transaction_size) < pending.transaction_size:
                log.warning("%d events go into the database %d at a time now", len(pending.events), size)
            raise
        self._pending = pending.with_saved(stored.saved) if stored.partial else pending.after(part)
        self._committed(part, stored, sink.cursor)
        if stored.moved or stored.saved or self._pending:
            self._repeat_backoff.succeeded()
            return 0.0
        # The API repeats stored events and the cursor does not move. Wait, or the loop would spin.
        return self._repeat_backoff.failed()

    def _spool_cycle(self) -> float:
        """One step while the database is away; returns the seconds to wait before the next."""
        position = self.spooler.position
        if position is None:
            return 0.0
        self._become_ready("degraded: the database does not answer, and the events go to the spool")
        if self._pending is None:
            self._poll_needs_lock = False
            if self.spooler.waiting:
                self.spooler.before_poll()
            elif self.sink is not None:
                self.sink.before_poll(position)
            client = self._client_in_use = self._client
            wait = self._poll(client, position, self.spooler.poll_time(self.poll_time))
            if self._pending is None:
                return wait
        pending = self._pending
        self.spooler.append(pending, position.last_event_id)
        self._pending = None
        self.counts.spooled(pending)
        self._repeat_backoff.succeeded()
        return 0.0

    def _drain(self, sink: Sink) -> float:
        """Commit the next events of the spool; returns the seconds to wait before the next step."""
        cursor, part = sink.cursor, self.spooler.next_part()
        if cursor is None or part is None:
            return 0.0
        assert isinstance(sink, Writer), "only a writer has a spool"
        self._pulse.busy(self._store_limit)
        # If somebody else has moved the cursor past these events, or begun a generation, they are late events.
        late = part.generation != cursor.generation or part.last_event_id <= cursor.last_event_id
        store = functools.partial(sink.store_late, generation=part.generation) if late else sink.store
        try:
            stored = self._pool.submit(store, part.events, limit=part.limit).result()
        except DatabaseSlow:
            self.spooler.halve()
            raise
        if stored.partial:
            self.spooler.part_begun(stored.saved)
        else:
            self.spooler.part_committed(part)
        self._committed(part, stored, sink.cursor, from_spool=True)
        return 0.0

    def _committed(
        self, batch: PendingBatch, stored: StoreResult, cursor: Cursor | None, *, from_spool: bool = False
    ) -> None:
        self.spooler.committed(cursor)
        self.counts.committed(batch, stored, cursor, from_spool=from_spool)
        self._database_answered()
        if stored.queued:
            self._on_queued()

    def _lock_taken(self) -> None:
        cursor = self.sink.cursor if self.sink else None
        self._refused_since = None
        if self._standby:
            log.info("took over as the listener of bot %s", self._status.bot.id)
        self._standby = False
        self.spooler.lock_taken(cursor)
        self.counts.cursor_read(cursor, self.sink.last_arrival if self.sink else None)
        # With a pending batch or a spool, a connection is no proof that the database also stores.
        if self._pending is None and not self.spooler.waiting:
            self._database_answered()
        self._become_ready("")
        self._on_change()

    def _lock_refused(self) -> float:
        """Wait for the lock. For a moment a process that has ended may hold it, after that another one does."""
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        if now - self._refused_since < LOCK_GRACE and not self._standby:
            return 0.1
        self._database_answered()
        if not self._standby:
            log.info("another process listens to bot %s; waiting as its standby", self._status.bot.id)
            self.spooler.lock_refused()
            self._standby = True
            self._on_change()
        self._become_ready("standby: another process listens to this bot; this one takes over when it ends")
        return STANDBY_INTERVAL

    def _become_ready(self, note: str) -> None:
        if not self.ready.done():
            self.ready.set_result(note)

    def _api_failed(self, error: ApiError) -> float:
        self.last_error = error
        if isinstance(error, PERMANENT) and not self.ready.done():
            self.ready.set_exception(error)
        if self._stop.is_set():
            return 0.0
        lock_lost = self.sink is not None and not self.sink.holds_lock
        if isinstance(error, ApiUnreachable) and lock_lost and self._poll_needs_lock:
            return 0.0  # the thread `keeper` ended the poll because the lock is lost
        return self._api.failed(error)

    def _spool_failed(self, error: SpoolRefused) -> float:
        """The spool takes or gives nothing; the pending batch waits for the database or the disk."""
        self.spooler.failed(error)
        self.counts.failed(self._pending)
        wait = self.spooler.time_left()
        return wait if wait > 0 else self._database.backoff.failed()

    def _database_failed(self, error: VkTeamsError) -> float:
        self.last_error = error
        if isinstance(error, PERMANENT) and not self.ready.done():
            self.ready.set_exception(error)
        if isinstance(error, FenceLost):
            log.warning("%s", error)
            return 0.0
        if self._stop.is_set():
            return 0.0
        self.counts.failed(self._pending)
        self._refused_since = None
        return self.spooler.database_failed(self._database.failed(error))

    def _fault_failed(self, error: Exception) -> float:
        """A fault of this program must not end the archiving. Uncommitted events come again."""
        self.last_error = self._pulse.failed(error)
        self.counts.failed(self._pending)
        self._on_change()
        return self._fault_backoff.failed()

    def _database_answered(self) -> None:
        self._database.answered()
        self.counts.succeeded()
        self.spooler.database_answered()
