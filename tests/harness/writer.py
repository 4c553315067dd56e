"""A writer that a test uses now and then."""

from __future__ import annotations

import contextlib

from vkteams_daemon.errors import StoreError
from vkteams_daemon.store.ingest.writer import Writer


def awake(writer: Writer) -> Writer:
    """The writer with the bot's lock. The server ends a session that is silent for 10 s, and nobody pings a test's."""
    with contextlib.suppress(StoreError):
        writer.ping()
    if not writer.holds_lock:
        assert writer.acquire()
    return writer
