"""The long-poll loop: take the bot's lock, poll from the committed cursor, hand the batch to the writer, again.

One batch is in flight at a time. A batch that could not be committed is kept and offered to the database again, for the
API may not deliver it twice; only a committed cursor is ever sent, so dying at any point costs nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from typing import Protocol

from vkteams_daemon.botapi import events as api_events
from vkteams_daemon.botapi.client import BotClient, BotInfo
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling.backoff import Backoff
from vkteams_daemon.daemon.polling.clock import Clock
from vkteams_daemon.daemon.polling.pending_batch import PendingBatch
from vkteams_daemon.daemon.polling.printer import OutputLost
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.errors import (
    ApiError,
    ApiUnreachable,
    CannotWrite,
    ConfigError,
    DatabaseSlow,
    FenceLost,
    NotBotApi,
    SchemaError,
    StoreError,
    Unauthorised,
    VkTeamsError,
)
from vkteams_daemon.store.ingest.writer import Cursor, StoreResult

log = logging.getLogger(__name__)

STANDBY_INTERVAL = 2.0  # seconds between two tries for a lock that another process holds
OWN_SESSION_GRACE = 12.0  # seconds the server may need to end our own broken session (idle_session_timeout is 10)
REPEAT_MAX = 5.0  # seconds; longest wait while the API repeats events that are stored already, or holds no poll
PERMANENT = (ConfigError, SchemaError, Unauthorised, NotBotApi)


class Sink(Protocol):
    """Where batches go: store.writing.Writer, or printing.Printer under --no-save."""

    @property
    def cursor(self) -> Cursor | None: ...
    @property
    def holds_lock(self) -> bool: ...
    def acquire(self) -> bool: ...
    def store(self, events: list[Event]) -> StoreResult: ...
    def ping(self) -> None: ...


class Poller:
    """Runs in a thread of its own; writes what happens into the status.

    Args:
        client: the API; `use` replaces it, for a reload may bring a new token.
        open_sink: opens the database and gives the writer for a bot.
        work: the pool that the inserts run in.
        status: api, database, events and bot are written by this loop alone.
        poll_time: seconds of one long poll; replaceable.
        backoff_max: longest wait after a failure, in seconds.
        changed: called after every change of state.
        queued: called when messages wait for their vectors.
        ended: called when there is nobody left to listen for.
    """

    def __init__(
        self,
        client: BotClient,
        open_sink: Callable[[BotInfo], Sink],
        work: Executor,
        status: Status,
        *,
        poll_time: int,
        backoff_max: float,
        changed: Callable[[], None],
        queued: Callable[[], None],
        ended: Callable[[VkTeamsError], None],
    ) -> None:
        self._client = self._asked = client
        self.poll_time = poll_time
        self.ready: Future[str] = Future()
        self.latencies: deque[float] = deque(maxlen=1000)
        self.last_error: VkTeamsError | None = None
        self.sink: Sink | None = None
        self._open_sink = open_sink
        self._work = work
        self._status = status
        self._changed = changed
        self._queued = queued
        self._ended = ended
        self._stop = threading.Event()
        self._awake = threading.Event()
        self._bot: BotInfo | None = None
        self._held: PendingBatch | None = None
        self._lost_at: float | None = None
        self._standby = False
        self._api = Backoff(backoff_max)
        self._database = Backoff(backoff_max)
        self._repeats = Backoff(REPEAT_MAX)
        self._arrivals: deque[tuple[float, int]] = deque(maxlen=10_000)
        self._clock = Clock()

    @property
    def standby(self) -> bool:
        """Whether another process holds the bot's lock."""
        return self._standby

    def set_backoff_max(self, longest: float) -> None:
        """Change the longest wait between attempts, in seconds."""
        self._api.longest = self._database.longest = longest

    def use(self, client: BotClient) -> None:
        """Ask this client from the next poll on, at once where the last one has failed."""
        self._client = client
        self._awake.set()

    def abort(self) -> None:
        """End the request in flight, from any thread."""
        self._asked.abort()

    def stop(self) -> None:
        """End the loop; a poll in flight must be aborted beside it."""
        self._stop.set()
        self._awake.set()

    def per_second(self, window: float = 60.0) -> float:
        """Events received a second over the last `window` seconds."""
        since = time.monotonic() - window
        return round(sum(count for at, count in list(self._arrivals) if at >= since) / window, 3)

    def run(self) -> None:
        """The loop, until `stop`."""
        while not self._stop.is_set():
            try:
                wait = self._cycle()
            except ApiError as error:
                wait = self._api_failed(error)
            except OutputLost as error:
                self._ended(error)
                return
            except VkTeamsError as error:
                wait = self._database_failed(error)
            except Exception as error:
                # A fault of ours must not end the archive: what was not committed comes again.
                log.exception("the poll loop met a fault of this program; it goes on")
                wait = self._database_failed(StoreError(f"internal error: {type(error).__name__}"))
            if wait:
                self._awake.wait(wait)
                self._awake.clear()

    def _cycle(self) -> float:
        """One step; returns the seconds to wait before the next."""
        client = self._asked = self._client
        if self._bot is None:
            self._bot = client.self_get()
            self._status.bot.id, self._status.bot.nick = self._bot.user_id, self._bot.nick
        if self.sink is None:
            self.sink = self._open_sink(self._bot)
        sink = self.sink
        if not sink.holds_lock:
            if not sink.acquire():
                return self._locked_out()
            self._taken()
        if self._held is not None:
            return self._store(sink, self._held)
        sink.ping()  # after a pause of any length, the lock is looked at before the API is
        self._database_answered()
        cursor = sink.cursor
        if cursor is None or self._stop.is_set():
            return 0.0
        asked = time.monotonic()
        body = client.poll(cursor.last_event_id, self.poll_time)
        arrived, received_at = time.monotonic(), self._clock.now()
        events = api_events.read(body, received_at)
        self._api_answered()
        if not events:
            if arrived - asked >= self.poll_time / 2:
                self._repeats.succeeded()
                return 0.0
            # Nothing, and at once: a server that does not hold the poll, or another poller that it prefers.
            return self._repeats.failed()
        self._status.events.received += len(events)
        self._arrivals.append((arrived, len(events)))
        self._held = PendingBatch(events, cursor.generation, arrived)
        return self._store(sink, self._held)

    def _store(self, sink: Sink, held: PendingBatch) -> float:
        cursor = sink.cursor
        if cursor is not None and cursor.generation != held.generation:
            # Somebody has begun a new generation meanwhile: these ids mean nothing there. They were not acknowledged.
            log.warning("%d events polled under an earlier generation are fetched again", len(held.events))
            self._held = None
            return 0.0
        part = held.part()
        try:
            stored = self._work.submit(sink.store, part.events).result()
        except DatabaseSlow:
            self._held = held.halved()
            if (fewer := len(self._held.part().events)) < len(part.events):
                log.warning("%d events go into the database %d at a time now", len(held.events), fewer)
            raise
        self._held = held.after(part)
        self._count(part, stored, sink.cursor)
        if stored.moved or stored.saved or self._held:
            self._repeats.succeeded()
            return 0.0
        # The API repeats what is stored already, and the cursor does not move: do not spin on it.
        return self._repeats.failed()

    def _count(self, batch: PendingBatch, stored: StoreResult, cursor: Cursor | None) -> None:
        self.latencies.append(1000 * (time.monotonic() - batch.arrived))
        counts = self._status.events
        counts.saved += stored.saved
        counts.duplicate += stored.duplicate
        counts.filtered += stored.filtered
        counts.quarantined += stored.quarantined
        counts.last_event_at = batch.events[-1].received_at
        counts.last_event_id = cursor.last_event_id if cursor else counts.last_event_id
        self._database_answered()
        if stored.restarted:
            log.error("the server has started its event ids over: a new generation is open (%s)", cursor)
        elif stored.late:
            log.warning("%d events came with ids below those that were acknowledged; %s", stored.late, cursor)
        if stored.quarantined:
            log.warning("%d events were quarantined; see `vkteamsctl database quarantine`", stored.quarantined)
        if stored.queued:
            self._queued()

    def _taken(self) -> None:
        cursor = self.sink.cursor if self.sink else None
        self._lost_at = None
        if self._standby:
            log.info("took over as the listener of bot %s", self._status.bot.id)
        self._standby = False
        self._status.events.last_event_id = cursor.last_event_id if cursor else None
        if self._held is None:  # otherwise it connects; whether it stores has still to be seen
            self._database_answered()
        self._become_ready("")
        self._changed()

    def _locked_out(self) -> float:
        """Another session holds the lock: our own broken one for a while, otherwise another process."""
        now = time.monotonic()
        self._lost_at = self._lost_at or now
        grace = OWN_SESSION_GRACE if self._status.database.state is not None else 1.0
        if now - self._lost_at < grace and not self._standby:
            return 0.1
        self._database_answered()
        if not self._standby:
            self._standby = True
            log.info("another process listens to bot %s; waiting as its standby", self._status.bot.id)
            self._changed()
        self._become_ready("standby: another process listens to this bot; this one takes over when it ends")
        return STANDBY_INTERVAL

    def _become_ready(self, note: str) -> None:
        if not self.ready.done():
            self.ready.set_result(note)

    def _api_failed(self, error: ApiError) -> float:
        self.last_error = error
        if isinstance(error, PERMANENT) and not self.ready.done():
            self.ready.set_exception(error)
        api = self._status.api
        if self._stop.is_set():
            return 0.0
        state = "unauthorized" if isinstance(error, Unauthorised) else "backoff"
        if isinstance(error, ApiUnreachable) and self.sink is not None and not self.sink.holds_lock:
            return 0.0  # the keeper ended the poll because the lock is gone
        if api.state != state:
            level = logging.ERROR if state == "unauthorized" else logging.WARNING
            log.log(level, "the Bot API fails: %s%s", error, f". {error.hint}" if error.hint else "")
        wait = self._api.failed(getattr(error, "retry_after", None))
        changed = api.state != state or api.last_error != str(error)
        api.state = "unauthorized" if state == "unauthorized" else "backoff"
        api.last_error, api.consecutive_failures = str(error), self._api.failures
        if changed:
            self._changed()
        return wait

    def _api_answered(self) -> None:
        api = self._status.api
        api.last_poll_at = datetime.now(UTC)
        if api.state != "ok":
            if api.state is not None:
                log.info("the Bot API answers again after %d failures", self._api.failures)
            api.state, api.last_error, api.consecutive_failures = "ok", None, 0
            self._changed()
        self._api.succeeded()

    def _database_failed(self, error: VkTeamsError) -> float:
        self.last_error = error
        if isinstance(error, PERMANENT) and not self.ready.done():
            self.ready.set_exception(error)
        if isinstance(error, FenceLost):
            log.warning("%s", error)
            return 0.0
        if self._stop.is_set():
            return 0.0
        database = self._status.database
        if database.state != "down":
            level = logging.ERROR if isinstance(error, CannotWrite) else logging.WARNING
            log.log(level, "the database fails: %s%s", error, f". {error.hint}" if error.hint else "")
        if self._held is not None:
            self._status.events.failed = len(self._held.events)
        wait = self._database.failed()
        changed = database.state != "down" or database.last_error != str(error)
        database.state, database.last_error = "down", str(error)
        self._lost_at = None
        if changed:
            self._changed()
        return wait

    def _database_answered(self) -> None:
        database = self._status.database
        if database.state != "ok":
            if database.state == "down":
                log.info("the database answers again after %d failures", self._database.failures)
            database.state, database.last_error = "ok", None
            self._changed()
        self._status.events.failed = 0
        self._database.succeeded()
