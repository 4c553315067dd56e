"""Keeps whether the Bot API and the database answer: for the status, the log, and the wait after a failure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from vkteams_daemon.daemon.polling.backoff import Backoff
from vkteams_daemon.daemon.status import Api, ApiState, Database
from vkteams_daemon.errors import ApiError, CannotWrite, Unauthorised, VkTeamsError

log = logging.getLogger(__name__)


class ApiAvailability:
    """Whether the Bot API answers. Only the thread of the poll loop calls the methods.

    Args:
        status: the API's part of the status file.
        backoff: chooses the waits.
        on_change: called after every change of state.
    """

    def __init__(self, status: Api, backoff: Backoff, on_change: Callable[[], None]) -> None:
        self.backoff = backoff
        self._status = status
        self._on_change = on_change

    def failed(self, error: ApiError) -> float:
        """Note a failure; returns the seconds to wait before the next request."""
        status = self._status
        state: ApiState = "unauthorized" if isinstance(error, Unauthorised) else "backoff"
        if status.state != state:
            level = logging.ERROR if state == "unauthorized" else logging.WARNING
            log.log(level, "the Bot API fails: %s%s", error, f". {error.hint}" if error.hint else "")
        wait = self.backoff.failed(getattr(error, "retry_after", None))
        changed = status.state != state or status.last_error != str(error) or wait > self.backoff.longest
        status.state, status.last_error, status.consecutive_failures = state, str(error), self.backoff.failures
        status.waits_until = datetime.now(UTC) + timedelta(seconds=wait)
        if wait > self.backoff.longest:
            log.warning(
                "the Bot API asks to wait: the next request is at %s", f"{status.waits_until:%Y-%m-%d %H:%M:%S} UTC"
            )
        if changed:
            self._on_change()
        return wait

    def answered(self) -> None:
        """Note an answer."""
        status = self._status
        status.last_poll_at = datetime.now(UTC)
        if status.state != "ok":
            if status.state is not None:
                log.info("the Bot API answers again after %d failures", self.backoff.failures)
            status.state, status.last_error, status.consecutive_failures, status.waits_until = "ok", None, 0, None
            self._on_change()
        self.backoff.succeeded()


class DatabaseAvailability:
    """Whether the database stores events. Only the thread of the poll loop calls the methods.

    Args:
        status: the database's part of the status file.
        backoff: chooses the waits.
        on_change: called after every change of state.
    """

    def __init__(self, status: Database, backoff: Backoff, on_change: Callable[[], None]) -> None:
        self.backoff = backoff
        self._status = status
        self._on_change = on_change

    def failed(self, error: VkTeamsError) -> float:
        """Note a failure; returns the seconds to wait before the next attempt."""
        status = self._status
        if status.state != "down":
            level = logging.ERROR if isinstance(error, CannotWrite) else logging.WARNING
            log.log(level, "the database fails: %s%s", error, f". {error.hint}" if error.hint else "")
        wait = self.backoff.failed()
        changed = status.state != "down" or status.last_error != str(error)
        status.state, status.last_error = "down", str(error)
        if changed:
            self._on_change()
        return wait

    def answered(self) -> None:
        """Note that it stores events, or that nothing suggests otherwise."""
        status = self._status
        if status.state != "ok":
            if status.state == "down":
                log.info("the database answers again after %d failures", self.backoff.failures)
            status.state, status.last_error = "ok", None
            self._on_change()
        self.backoff.succeeded()
