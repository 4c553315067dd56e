"""Opens the database for workers alone, which have no poll loop to find out that it is there: as often as it takes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError

from vkteams_daemon.daemon import status as shown
from vkteams_daemon.errors import DatabaseUnavailable, VkTeamsError
from vkteams_daemon.store.database import Database

log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds between two attempts


class DatabaseOpener:
    """Attempts to open the database, until one succeeds.

    Args:
        database: to open.
        status: where it says how it stands.
        stopping: set when there is no sense in it any more.
        opened: called once it is open; may fail as opening does.
        changed: called whenever `status` has changed.

    Attributes:
        ready: done when it is open, or refuses for another reason than that it cannot be reached; once it is cancelled,
            because nobody waits for it any more, everything is waited out.
        last_error: why it is not open yet.
    """

    def __init__(
        self,
        database: Database,
        status: shown.Database,
        stopping: threading.Event,
        *,
        opened: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        self._database = database
        self._status = status
        self._stopping = stopping
        self._opened = opened
        self._changed = changed
        self.ready: Future[str] = Future()
        self.last_error: VkTeamsError | None = None

    def run(self) -> None:
        """Try, until it is open or the daemon stops."""
        status = self._status
        while not self._stopping.is_set():
            try:
                self._database.open()
                self._opened()
            except VkTeamsError as error:
                if not isinstance(error, DatabaseUnavailable):
                    with contextlib.suppress(InvalidStateError):  # cancelled
                        self.ready.set_exception(error)
                        return
                self.last_error = error.with_traceback(None)
                if status.last_error != str(error):
                    log.error("%s", error)
                    status.state, status.last_error = "down", str(error)
                    self._changed()
                self._stopping.wait(_PAUSE)
            else:
                if status.last_error:
                    log.info("the database answers")
                status.state, status.last_error = "ok", None
                self._changed()
                with contextlib.suppress(InvalidStateError):
                    self.ready.set_result("")
                return
