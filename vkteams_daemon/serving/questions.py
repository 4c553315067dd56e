"""Puts questions to the archive, for the page and the MCP server alike, also where both are in one process.

Each question runs in a thread, and no more of them at once than the archive has connections. If whoever asks goes away,
the thread is abandoned; `[search] timeout` ends the statement that still runs in the database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import anyio
import anyio.to_thread

from vkteams_daemon.access import Access
from vkteams_daemon.serving.retry import retry


class Readable(Protocol):
    """An archive that can be narrowed to what a reader sees."""

    def seen_by(self: A, access: Access) -> A:
        """The same archive for a reader with this access, as it stands now."""

    def close(self) -> None:
        """Close the connections."""


A = TypeVar("A", bound=Readable)
T = TypeVar("T")


class Questions(Generic[A]):
    """Asks one archive. Safe for several threads.

    Args:
        make_archive: makes it, at the first question.
        connections: how many it has.
    """

    def __init__(self, make_archive: Callable[[], A], connections: int) -> None:
        self._make = make_archive
        self._connections = connections
        self._made: A | None = None
        self._making = threading.Lock()
        self._threads = anyio.CapacityLimiter(connections)

    async def ask(self, access: Access, question: Callable[[A], T]) -> T:
        """The answer to a question of a reader with this access.

        Raises:
            VkTeamsError: the archive refuses the question, or cannot answer it.
        """
        return await anyio.to_thread.run_sync(
            lambda: retry(lambda: question(self.archive.seen_by(access)), self._connections),
            abandon_on_cancel=True,
            limiter=self._threads,
        )

    @property
    def archive(self) -> A:
        """The archive as a whole."""
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made

    def close(self) -> None:
        """Close the archive; this releases the bundled database."""
        if self._made is not None:
            self._made.close()
