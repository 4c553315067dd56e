"""Erases once a day what is older than `[storage] retention`. Only the process that holds the bot's lock does it."""

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
RETRY_INTERVAL = 3600.0  # seconds after a failure
CHECK_INTERVAL = 10.0  # seconds between two checks whether an erasure is due, or the configured age has changed


class Retention:
    """Runs in a thread of its own.

    Args:
        connect: opens a new connection.
        age: the present value of the option: `365d`, or "" for never.
        may_erase: whether this process holds the bot's lock and all events that arrived are in the database.
        delete_files: deletes the files beside the database that are older than a moment.
        stopping: ends an erasure, between two of its batches.
        check_interval: seconds between two checks.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        age: Callable[[], str],
        may_erase: Callable[[], bool],
        delete_files: Callable[[datetime], None],
        stopping: threading.Event,
        *,
        check_interval: float,
    ) -> None:
        self._connect = connect
        self._age = age
        self._may_erase = may_erase
        self._delete_files = delete_files
        self._stopping = stopping
        self._check_interval = check_interval
        self._last_age = ""  # the age of the last attempt
        self._due = 0.0  # time of the next attempt for the same age; monotonic

    def run(self) -> None:
        """The loop: an erasure soon after the start, then once a day, and whenever the age has changed."""
        while not self._stopping.wait(self._check_interval):
            age = self._age()
            if age and self._may_erase() and (age != self._last_age or time.monotonic() >= self._due):
                self._erase(age)

    def _erase(self, age: str) -> None:
        before = datetime.now(UTC) - timedelta(seconds=parse_duration(age))
        self._last_age = age
        try:
            with self._connect() as connection:
                counts = erasure.erase(connection, before, stopped=self._stopping.is_set)
            self._delete_files(before)
        except VkTeamsError as error:
            log.warning("retention: messages and events older than %s could not be erased: %s", age, error)
            self._due = time.monotonic() + RETRY_INTERVAL
            return
        self._due = time.monotonic() + DAY
        log.info(
            "retention: %d messages and %d further events from before %s erased",
            counts.messages, counts.events, before.strftime("%Y-%m-%d %H:%M UTC"),
        )  # fmt: skip
