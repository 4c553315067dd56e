"""`--no-save`: each event as a JSON line on standard output, and nothing stored. The named exception to the promise."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from dataclasses import replace
from typing import TextIO

from vkteams_daemon.botapi.chosen import ChosenChats
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.store.writing import Cursor, Stored


class Printer:
    """Takes the writer's place in the poll loop. Its cursor lives in memory: what it acknowledges is gone."""

    def __init__(self, chat_ids: Collection[str] = (), out: TextIO | None = None) -> None:
        self._chosen = ChosenChats(chat_ids)
        self._out = out or sys.stdout
        self.cursor: Cursor | None = Cursor(1, 0, 0)
        self.holds = True

    def acquire(self) -> bool:
        """Nothing to take: always held."""
        return True

    def ping(self) -> None:
        """Nothing to keep alive."""

    def store(self, events: list[Event]) -> Stored:
        """Print a batch and move on."""
        before = self.cursor or Cursor(1, 0, 0)
        kept = [event for event in events if event in self._chosen]
        for event in kept:
            # One line an event, whatever line breaks the API put between its tokens.
            line = (
                json.dumps(json.loads(event.json), ensure_ascii=False)
                if event.json
                else (event.raw or b"").decode("utf-8", "replace")
            )
            self._out.write(line.replace("\n", " ") + "\n")
        self._out.flush()
        last = max([before.last_event_id, *(e.event_id for e in events if e.numbered)])
        self.cursor = replace(before, last_event_id=last)
        return Stored(saved=0, filtered=len(events) - len(kept), moved=last != before.last_event_id)
