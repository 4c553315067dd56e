"""Asks again if a connection of the pool has died with a server that has restarted since.

The pool's own check (`check=`) sleeps between two dead connections, each time twice as long: after a restart the first
question would wait for seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from vkteams_daemon.errors import DatabaseUnavailable

T = TypeVar("T")

_RETRY_FOR = 1.0  # seconds; a dead connection fails sooner than that, a server that is gone later


def retry(question: Callable[[], T], connections: int) -> T:
    """The answer to a question, which each of so many connections may fail once.

    Raises:
        VkTeamsError: the archive refuses the question, or cannot answer it.
    """
    deadline = time.monotonic() + _RETRY_FOR
    for _ in range(connections):
        try:
            return question()
        except DatabaseUnavailable:
            # A question fails at once on a dead connection, and the pool drops that connection.
            if time.monotonic() > deadline:
                raise
    return question()
