"""`--no-save`: prints each event as a JSON line and stores nothing, the one exception to the archive's promise.

What is acknowledged is noted in the state directory. At the next start that saves, the note becomes a gap.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import TextIO

from vkteams_daemon.botapi.chat_filter import ChatFilter
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.store.gaps import NOT_SAVED, Missing
from vkteams_daemon.store.ingest.event_cursor import Cursor
from vkteams_daemon.store.ingest.writer import StoreResult
from vkteams_daemon.system.text import terminal_safe_json

_MAX_CHATS = 1000  # a note names no more chats than this


class OutputLost(CannotCreate):
    """Standard output cannot be written: its reader has ended, or the disk is full."""


class EventPrinter:
    """Takes the writer's place in the poll loop. Its cursor is in memory only, so acknowledged events are lost.

    Args:
        chat_ids: print only these chats; empty prints everything.
        out: standard output by default.
        acknowledged: where the loss is noted; None: nowhere.
    """

    def __init__(
        self,
        chat_ids: Collection[str] = (),
        out: TextIO | None = None,
        acknowledged: AcknowledgedFile | None = None,
    ) -> None:
        self._chat_filter = ChatFilter(chat_ids)
        self._out = out or sys.stdout
        self.cursor: Cursor | None = Cursor(1, 0, 0)
        self.holds_lock = False
        self.last_arrival: datetime | None = None
        self._acknowledged = acknowledged
        self._printed: Missing | None = None
        self._noted: Missing | None = None

    def acquire(self) -> bool:
        """There is no lock, so no other process can hold it."""
        self.holds_lock = True
        return True

    def ping(self) -> None:
        """There is no session to keep alive."""

    def before_poll(self, cursor: Cursor) -> None:
        """Note what the next poll acknowledges."""
        if self._acknowledged is not None and self._printed is not None and self._printed != self._noted:
            self._acknowledged.note_unsaved(self._printed)
            self._noted = self._printed

    def store(self, events: list[Event], limit: int | None = None) -> StoreResult:
        """Print a batch and move the cursor. There is no database, so `limit` is ignored.

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
        self._count(events, last_id)
        return StoreResult(saved=0, filtered=len(events) - len(selected), moved=last_id != cursor.last_event_id)

    def _count(self, events: list[Event], last_id: int) -> None:
        """Extend what was printed by these events."""
        printed = self._printed or Missing(
            NOT_SAVED,
            from_event_id=min((e.event_id for e in events if e.numbered), default=None),
            from_time=events[0].received_at,
            chat_ids=(),
        )
        chats = {*(printed.chat_ids or ()), *(e.chat_id for e in events if e.chat_id)}
        known = printed.chat_ids is not None and len(chats) <= _MAX_CHATS and not any(e.error for e in events)
        self._printed = replace(
            printed,
            to_event_id=last_id,
            to_time=events[-1].received_at,
            chat_ids=tuple(sorted(chats)) if known else None,
        )

    def _discard(self) -> None:
        """Send later output to /dev/null: the flush at exit would fail, and its error would replace our exit code."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
