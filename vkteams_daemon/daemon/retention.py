"""`[storage] retention`: once a day the daemon erases what is older. Only whoever holds the bot's lock does it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from vkteams_daemon.config import parse_duration
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.rebuild import erasure

log = logging.getLogger(__name__)

DAY = 86400.0
RETRY = 3600.0  # seconds after a failure
LOOK = 10.0  # seconds between two looks at whether it is time, or whether another age has been configured


class Retention:
    """Erases what is too old, in a thread of its own.

    Args:
        connect: opens a connection of its own.
        age: the option as it stands now: `365d`, or "" for never.
        may: whether this process is the one that does it.
        stopping: ends it, between two batches.
        look: seconds between two looks.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        age: Callable[[], str],
        may: Callable[[], bool],
        stopping: threading.Event,
        *,
        look: float = LOOK,
    ) -> None:
        self._connect = connect
        self._age = age
        self._may = may
        self._stopping = stopping
        self._look = look
        self._done = ""  # the age that was last seen to
        self._due = 0.0  # when it is time again for the same age; monotonic

    def run(self) -> None:
        """The thread: a first time soon after the start, then daily, and whenever the age has changed."""
        while not self._stopping.wait(self._look):
            age = self._age()
            if age and self._may() and (age != self._done or time.monotonic() >= self._due):
                self._erase(age)

    def _erase(self, age: str) -> None:
        before = datetime.now(UTC) - timedelta(seconds=parse_duration(age))
        self._done = age
        try:
            with self._connect() as connection:
                done = erasure.erase(connection, before, stopped=self._stopping.is_set)
        except VkTeamsError as error:
            log.warning("retention: what is older than %s could not be erased: %s", age, error)
            self._due = time.monotonic() + RETRY
            return
        self._due = time.monotonic() + DAY
        log.info(
            "retention: %d messages and %d further events from before %s erased",
            done.messages, done.events, before.strftime("%Y-%m-%d %H:%M UTC"),
        )  # fmt: skip
