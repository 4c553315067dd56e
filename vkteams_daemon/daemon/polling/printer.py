"""`--no-save`: each event as a JSON line on standard output, and nothing stored. The named exception to the promise."""

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
    """Nobody reads what is printed any more, or it finds no room."""


class Printer:
    """Takes the writer's place in the poll loop. Its cursor lives in memory: what it acknowledges is gone."""

    def __init__(self, chat_ids: Collection[str] = (), out: TextIO | None = None) -> None:
        self._chat_filter = ChatFilter(chat_ids)
        self._out = out or sys.stdout
        self.cursor: Cursor | None = Cursor(1, 0, 0)
        self.holds_lock = False

    def acquire(self) -> bool:
        """Nobody else can hold it."""
        self.holds_lock = True
        return True

    def ping(self) -> None:
        """Nothing to keep alive."""

    def store(self, events: list[Event]) -> StoreResult:
        """Print a batch and move on.

        Raises:
            OutputLost: not all of it could be written; nothing of it is acknowledged.
        """
        before = self.cursor or Cursor(1, 0, 0)
        kept = self._chat_filter.apply(events)
        try:
            for event in kept:
                # What is no JSON is printed as a JSON string: one line an event, and no byte of it steers a terminal.
                value = json.loads(event.json) if event.json else (event.raw or b"").decode("utf-8", "replace")
                self._out.write(terminal_safe_json(value, self._out) + "\n")
            self._out.flush()
        except OSError as error:
            self._discard()
            raise OutputLost(f"standard output cannot be written: {error.strerror}") from error
        last = max([before.last_event_id, *(e.event_id for e in events if e.numbered)])
        self.cursor = replace(before, last_event_id=last)
        return StoreResult(saved=0, filtered=len(events) - len(kept), moved=last != before.last_event_id)

    def _discard(self) -> None:
        """Let the interpreter's own last flush find room, so that the exit code is ours."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
