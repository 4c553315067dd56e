"""Notices a bot that is connected but deaf: the API answers, and no event comes where its own rhythm expects events.

A bot may be silent for a night or a weekend. So the silence is compared with the same hours of the weeks before: if
each of them had events, and this week has none, something is wrong. An archive of less than three weeks proves nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.admin import stored_events
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest import event_cursor

log = logging.getLogger(__name__)

INTERVAL = 30.0  # seconds between two checks; a check reads a few rows of an index
CHECK_LIMIT = 60.0  # seconds after which a check is overdue
PERIOD = timedelta(weeks=1)
PERIODS = 3  # that are compared with the present one
MIN_SILENCE = timedelta(minutes=30)
MIN_EVENTS = 5  # that each earlier period had in these hours


class Rhythm:
    """Runs in a thread of its own.

    Args:
        database: open, or not yet.
        bot_id: the bot that this process listens to; None while it does not listen.
        warn: called with the warning, or with None while nothing is wrong.
        reconnect: called once for each silence, because the connection to the API may be the cause.
        period: the length of the rhythm.
        min_silence: a shorter silence is never wrong.
        clock: the time of the day.
        pulse: this loop's.

    Attributes:
        pulse: as given.
    """

    def __init__(
        self,
        database: Database,
        bot_id: Callable[[], str | None],
        warn: Callable[[str | None], None],
        reconnect: Callable[[], None],
        *,
        period: timedelta = PERIOD,
        min_silence: timedelta = MIN_SILENCE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        pulse: Pulse | None = None,
    ) -> None:
        self._database = database
        self._bot_id = bot_id
        self._warn = warn
        self._reconnect = reconnect
        self._period = period
        self._min_silence = min_silence
        self._clock = clock
        self.pulse = pulse or Pulse("rhythm")
        self._deaf = False

    def run(self, stopping: threading.Event, interval: float = INTERVAL) -> None:
        """Check until `stopping` is set. Without the database, nothing is known."""
        while not stopping.wait(interval):
            bot_id = self._bot_id()
            if bot_id is None:
                self._set(None)
                continue
            try:
                with self.pulse.turn(CHECK_LIMIT), self._database.connection() as connection:
                    self.check(connection, bot_id)
            except VkTeamsError as error:
                log.debug("the rhythm of the bot is not known: %s", error)

    def check(self, connection: Connection, bot_id: str) -> None:
        """Compare the present silence with the same hours of the periods before."""
        now, last = self._clock(), event_cursor.last_arrival(connection, bot_id)
        silent = last is not None and now - last >= self._min_silence
        shifts = [self._period * number for number in range(1, PERIODS + 1)]
        if last is None or not silent or not all(
            stored_events.has_arrivals(connection, bot_id, last - shift, now - shift, MIN_EVENTS) for shift in shifts
        ):  # fmt: skip
            self._set(None)
            return
        self._set(
            f"the Bot API answers, and no event has come since {last:%Y-%m-%d %H:%M} UTC;"
            f" in each of the last {PERIODS} weeks the same hours had events"
        )

    def _set(self, sentence: str | None) -> None:
        self._warn(sentence)
        if sentence is not None and not self._deaf:
            self._reconnect()
        self._deaf = sentence is not None
