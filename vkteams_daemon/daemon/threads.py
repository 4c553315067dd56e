"""The daemon's threads: one for each loop. A loop that a fault of this program has ended runs again."""

from __future__ import annotations

import threading
from collections.abc import Callable

from vkteams_daemon.daemon.watch import Pulse


class ThreadTable:
    """Starts the threads and waits for their end.

    Args:
        stopping: set when the daemon stops; a loop that has ended by a fault then stays ended.
    """

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._joined: list[threading.Thread] = []

    def start(self, pulse: Pulse, loop: Callable[[], None]) -> None:
        """Start the loop of this pulse, which a stop waits for."""
        self.add(self.start_unjoined(pulse, loop))

    def start_unjoined(self, pulse: Pulse, loop: Callable[[], None]) -> threading.Thread:
        """Start the loop of this pulse, which a stop does not wait for."""
        thread = threading.Thread(target=pulse.run, args=(loop, self._stopping), name=pulse.name, daemon=True)
        thread.start()
        return thread

    def add(self, thread: threading.Thread) -> None:
        """Let a stop wait for this thread as well."""
        self._joined.append(thread)

    @property
    def running(self) -> bool:
        """Whether a thread still runs that a stop waits for; the calling thread does not count."""
        return any(thread.is_alive() for thread in self._others())

    def join(self, timeout: float) -> None:
        """Wait for each of the threads, at most `timeout` seconds for one."""
        for thread in self._others():
            thread.join(timeout)

    def _others(self) -> list[threading.Thread]:
        return [thread for thread in self._joined if thread is not threading.current_thread()]
