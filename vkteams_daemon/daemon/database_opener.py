"""Opens the database for `--role embed`, and tries again until it succeeds. In other roles the poll loop does that."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from vkteams_daemon.daemon.status import Database as DatabaseStatus
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.errors import DatabaseUnavailable, VkTeamsError
from vkteams_daemon.store.database import Database

log = logging.getLogger(__name__)

_RETRY_INTERVAL = 1.0  # seconds between two attempts


class DatabaseOpener:
    """Tries to open the database until it succeeds.

    Args:
        database: to open.
        status: updated after every attempt.
        stopping: set when the daemon stops.
        on_open: called when the database is open; may raise the same errors as opening.
        on_change: called after every change of `status`.
        pulse: this loop's.

    Attributes:
        ready: done when the database is open. An error other than DatabaseUnavailable becomes its exception and ends
            the attempts. After cancel(), every error is retried.
        last_error: the error of the last attempt.
    """

    def __init__(
        self,
        database: Database,
        status: DatabaseStatus,
        stopping: threading.Event,
        *,
        on_open: Callable[[], None],
        on_change: Callable[[], None],
        pulse: Pulse | None = None,
    ) -> None:
        self._database = database
        self._status = status
        self._stopping = stopping
        self._on_open = on_open
        self._on_change = on_change
        self._pulse = pulse or Pulse("opening")
        self.ready: Future[str] = Future()
        self.last_error: VkTeamsError | None = None

    def run(self) -> None:
        """The attempts, until the database is open or the daemon stops."""
        status = self._status
        while not self._stopping.is_set():
            try:
                self._database.open()
                self._on_open()
            except VkTeamsError as error:
                if not isinstance(error, DatabaseUnavailable):
                    with contextlib.suppress(InvalidStateError):  # cancelled
                        self.ready.set_exception(error)
                        return
                self.last_error = error.with_traceback(None)
                if status.last_error != str(error):
                    log.error("%s", error)
                    status.state, status.last_error = "down", str(error)
                    self._on_change()
                self._pause()
            except Exception as error:  # noqa: BLE001  our own fault is no failure of the database
                self.last_error = self._pulse.failed(error)
                self._pause()
            else:
                if status.last_error:
                    log.info("the database answers")
                status.state, status.last_error = "ok", None
                self._on_change()
                with contextlib.suppress(InvalidStateError):
                    self.ready.set_result("")
                return

    def _pause(self) -> None:
        gc.collect()  # what failed attempts leave in reference cycles, see Poller.run
        self._stopping.wait(_RETRY_INTERVAL)
