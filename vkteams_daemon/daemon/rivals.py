"""Warns of another process on this host that listens to the same bot, with an archive of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vkteams_daemon.daemon.process.bot_lock import BotLock


class RivalCheck:
    """Holds the bot's lock on this host while this process listens to the bot.

    Args:
        api_url: the installation of the bot.
        warn: called with the warning, or with None when it is over.
    """

    def __init__(self, api_url: str, warn: Callable[[str | None], None]) -> None:
        self._api_url = api_url
        self._warn = warn
        self._lock: BotLock | None = None
        self._mutex = threading.Lock()  # several threads check

    def check(self, bot_id: str, *, listening: bool) -> None:
        """Take the lock if this process listens, and let it go if not; warn if another process has it."""
        with self._mutex:
            lock = self._lock = self._lock or BotLock(self._api_url, bot_id)
            if not listening:
                lock.release()
            elif lock.acquire():
                self._warn(None)
            else:
                pid = lock.holder()
                self._warn(
                    f"process {pid or 'of an unknown number'} on this host listens to this bot too, with another"
                    " archive, or is stopped: each of two archives loses what the other one gets"
                )

    def release(self) -> None:
        """Let the lock go."""
        if self._lock:
            self._lock.release()
