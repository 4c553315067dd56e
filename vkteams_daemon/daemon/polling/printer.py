"""`--no-save`: prints each event as a JSON line and stores nothing, the one exception to the archive's promise."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection
from dataclasses import replace
from typing import TextIO

from vkteams_daemon.botapi.chat_filter import ChatFilter
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.store.ingest.writer import Cursor, StoreResult
from vkteams_daemon.system.text import terminal_safe_json


class OutputLost(CannotCreate):
    """Standard output cannot be written: its reader has ended, or the disk is full."""


class Printer:
    """Takes the writer's place in the poll loop. Its cursor is in memory only, so acknowledged events are lost."""

    def __init__(self, chat_ids: Collection[str] = (), out: TextIO | None = None) -> None:
        self._chat_filter = ChatFilter(chat_ids)
        self._out = out or sys.stdout
        self.cursor: Cursor | None = Cursor(1, 0, 0)
        self.holds_lock = False

    def acquire(self) -> bool:
        """There is no lock, so no other process can hold it."""
        self.holds_lock = True
        return True

    def ping(self) -> None:
        """There is no session to keep alive."""

    def store(self, events: list[Event]) -> StoreResult:
        """Print a batch and move the cursor.

        Raises:
            OutputLost: the batch could not be written completely; none of it is acknowledged.
        """
        cursor = self.cursor or Cursor(1, 0, 0)
        selected = self._chat_filter.apply(events)
        try:
            for event in selected:
                # An event that is not JSON is printed as a JSON string. So each event is one line, and no byte of it
                # reaches the terminal as a control character.
                value = json.loads(event.json) if event.json else (event.raw or b"").decode("utf-8", "replace")
                self._out.write(terminal_safe_json(value, self._out) + "\n")
            self._out.flush()
        except OSError as error:
            self._discard()
            raise OutputLost(f"standard output cannot be written: {error.strerror}") from error
        last_id = max([cursor.last_event_id, *(e.event_id for e in events if e.numbered)])
        self.cursor = replace(cursor, last_event_id=last_id)
        return StoreResult(saved=0, filtered=len(events) - len(selected), moved=last_id != cursor.last_event_id)

    def _discard(self) -> None:
        """Send later output to /dev/null: the flush at exit would fail, and its error would replace our exit code."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
