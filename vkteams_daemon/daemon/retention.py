"""Erases once a day what is older than `[storage] retention`. Only the process that holds the bot's lock does it.

An age that a reload sets or shortens erases nothing before the next day: a mistake can be taken back until then.

It erases nothing while this host's clock differs by more than a day from the clock of the database or of the Bot API.
It never erases more than a fifth of the messages at once: an administrator does that by hand.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from vkteams_daemon.config import parse_duration
from vkteams_daemon.daemon.status import Retention as RetentionStatus
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import ErasureRefused, VkTeamsError
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.rebuild import erasure

log = logging.getLogger(__name__)

DAY = 86400.0
REPRIEVE = DAY  # seconds from a reload that sets or shortens the age to the first erasure by it
SHARES = 24  # an age of fewer than 24 days is applied 24 times within its own length, a longer age once a day
RETRY_INTERVAL = 3600.0  # seconds after a failure, or if other sessions have locked some of the rows
CHECK_INTERVAL = 10.0  # seconds between two checks whether an erasure is due, or the configured age has changed
BATCH_LIMIT = 300.0  # seconds after which a batch of the erasure, or the count before it, is overdue


class Retention:
    """Runs in a thread of its own.

    Args:
        connect: opens a new connection.
        age: the present value of the option: `365d`, or "" for never.
        may_erase: whether this process holds the bot's lock and all events that arrived are in the database.
        delete_files: deletes the files beside the database that are older than a moment.
        stopping: ends an erasure, between two of its batches.
        api_time: the time by the Bot API's clock, or None.
        status: updated after every attempt.
        clock: this host's clock.
        check_interval: seconds between two checks.
        pulse: this loop's.

    Attributes:
        pulse: as given.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        age: Callable[[], str],
        may_erase: Callable[[], bool],
        delete_files: Callable[[datetime], None],
        stopping: threading.Event,
        *,
        api_time: Callable[[], datetime | None] = lambda: None,
        status: RetentionStatus | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        check_interval: float,
        pulse: Pulse | None = None,
    ) -> None:
        self._connect = connect
        self._age = age
        self._may_erase = may_erase
        self._delete_files = delete_files
        self._stopping = stopping
        self._api_time = api_time
        self._status = status or RetentionStatus()
        self._clock = clock
        self._check_interval = check_interval
        self.pulse = pulse or Pulse("retention")
        self._last_age = age()
        self._due = 0.0  # time of the next attempt; monotonic

    def run(self) -> None:
        """The loop: an erasure soon after the start, then once a day."""
        while not self._stopping.wait(self._check_interval):
            with self.pulse.turn(BATCH_LIMIT):
                self._check()

    def _check(self) -> None:
        age, previous = self._age(), self._last_age
        self._last_age = age
        if age and (not previous or parse_duration(age) < parse_duration(previous)):
            self._set_due(REPRIEVE)
            if self._may_erase():
                self._announce(age)
        if age and self._may_erase() and time.monotonic() >= self._due:
            self._erase(age)
        elif not age:
            self._status.next_run_at = None

    def _stopped(self) -> bool:
        """Whether the erasure must end; asked before every batch."""
        self.pulse.busy(BATCH_LIMIT)
        return self._stopping.is_set()

    def _announce(self, age: str) -> None:
        """Log what a new age will erase, and when."""
        now = self._clock()
        moment = f"{now + timedelta(seconds=REPRIEVE):%Y-%m-%d %H:%M} UTC"
        try:
            with self._connect() as connection:
                expired = erasure.count_expired(connection, now - timedelta(seconds=parse_duration(age)))
        except VkTeamsError as error:
            log.warning("retention: from %s on, what is older than %s is erased (not counted: %s)", moment, age, error)
            return
        log.warning(
            "retention: from %s on, what is older than %s is erased, now %d messages and %d events",
            moment, age, expired.messages, expired.events,
        )  # fmt: skip

    def _set_due(self, seconds: float) -> None:
        self._due = time.monotonic() + seconds
        self._status.next_run_at = self._clock() + timedelta(seconds=seconds)

    def _erase(self, age: str) -> None:
        seconds = parse_duration(age)
        self._set_due(RETRY_INTERVAL)  # after any failure, an unforeseen one too
        status = self._status
        try:
            with self._connect() as connection:
                now = self._clock()
                before = now - timedelta(seconds=seconds)
                erasure.check_clocks(connection, now, self._api_time())
                erasure.check_share(connection, before)
                counts = erasure.erase(connection, before, stopped=self._stopped)
            self._delete_files(before)
        except ErasureRefused as error:
            sentence = f"{error}. {error.hint}".replace("AGE", age)
            if sentence != status.last_error:
                log.error("retention: %s", sentence)
            status.state, status.last_error = "refused", sentence
            return
        except VkTeamsError as error:
            log.warning("retention: messages and events older than %s could not be erased: %s", age, error)
            status.state, status.last_error = "failing", str(error)
            return
        # A day is a large share of a short age, and a large share is refused: so a short age is applied more often.
        pause = min(DAY, seconds / SHARES)
        self._set_due(min(pause, RETRY_INTERVAL) if counts.locked else pause)
        status.state, status.last_error, status.last_run_at = "ok", None, datetime.now(UTC)
        log.info(
            "retention: %d messages and %d further events from before %s erased, %d messages kept by holds",
            counts.messages, counts.events, before.strftime("%Y-%m-%d %H:%M UTC"), counts.held,
        )  # fmt: skip
