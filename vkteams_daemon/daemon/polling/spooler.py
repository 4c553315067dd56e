"""Decides when events go to the spool, and gives its events back when the database answers again.

The poller asks it before each step. It is told when the database fails and answers, who holds the bot's lock, and which
cursor is committed, because the spool continues from there.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.daemon.polling.pending_batch import PendingBatch
from vkteams_daemon.daemon.polling.spool import Spool, SpoolRefused
from vkteams_daemon.daemon.status import Spool as SpoolStatus
from vkteams_daemon.store.gaps import SPOOL_LOST, Missing, Polls
from vkteams_daemon.store.ingest.event_cursor import Cursor

log = logging.getLogger(__name__)


class Spooler:
    """Belongs to the thread of the poll loop; its attributes may be read by any thread.

    Args:
        directory: the state directory, with the spool; None keeps no spool.
        max_bytes: the size that the spool may reach.
        after: seconds without the database after which events go to the spool; 0 for never; replaceable.
        status: the spool's part of the status file.
        on_change: called after every change of state.
        warn: see `AcknowledgedFile`.

    Attributes:
        spool: the bot's spool, once the bot is known; None if there is none.
        acknowledged: the bot's file of what was acknowledged, once the bot is known; None without a directory.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        max_bytes: int = 0,
        after: float = 0.0,
        status: SpoolStatus | None = None,
        on_change: Callable[[], None] = lambda: None,
        warn: Callable[[str | None], None] = lambda sentence: None,
    ) -> None:
        self.after = after
        self.spool: Spool | None = None
        self.acknowledged: AcknowledgedFile | None = None
        self._directory = directory
        self._max_bytes = max_bytes
        self._status = status or SpoolStatus()
        self._on_change = on_change
        self._warn = warn
        self._standby = False
        self._committed: Cursor | None = None  # the last cursor that this process knows to be committed
        self._down_since: float | None = None  # monotonic
        self._retry_at = 0.0  # when the database is tried again, monotonic
        self._first_at: datetime | None = None  # when the first events arrived that this process has spooled
        self._batch: PendingBatch | None = None  # the part of the spool that goes into the database now

    def open(self, bot_id: str) -> None:
        """Open the bot's spool. What an earlier process left goes into the database even if nothing is spooled now."""
        if self._directory is None:
            return
        self.acknowledged = AcknowledgedFile(self._directory, bot_id, self._warn)
        try:
            self.spool = Spool(self._directory, bot_id, max_bytes=self._max_bytes)
        except SpoolRefused as error:
            log.error("%s", error)
            self._status.last_error = str(error)
            return
        self._look_for_loss()

    def configure(self, config: Config) -> None:
        """Put the options of a configuration in force. Nothing is spooled if another host could be the listener."""
        nobody_else = not config.database.url or config.daemon.single_host
        self.after = config.storage.spool_after if nobody_else else 0.0
        self._max_bytes = config.storage.spool_max_bytes
        if self.spool:
            self.spool.max_bytes = self._max_bytes

    def close(self) -> None:
        """Close the file, which stays."""
        if self.spool:
            self.spool.close()

    @property
    def waiting(self) -> bool:
        """Whether events wait in the spool."""
        return self.spool is not None and self.spool.waiting

    @property
    def active(self) -> bool:
        """Whether events go to the spool now, until the database is tried again."""
        if not self.after or self._standby or self._down_since is None or self.position is None:
            return False
        # If events wait in the spool already, the patience is spent.
        patience = 0.0 if self.waiting else self.after
        return self._down_since + patience <= time.monotonic() < self._retry_at

    @property
    def position(self) -> Cursor | None:
        """The generation and the last id that the spool continues from; None without a spool, or if nobody knows."""
        if self.spool is None:
            return None
        if self.spool.last_event_id is None or self.spool.generation is None:
            return self._committed
        return Cursor(self.spool.generation, self.spool.last_event_id, 0)

    def time_left(self) -> float:
        """Seconds until the database is tried again; negative after that."""
        return self._retry_at - time.monotonic()

    def poll_time(self, longest: int) -> int:
        """Seconds that one poll may take: it ends when it is time to try the database again."""
        return max(1, min(longest, math.ceil(self.time_left())))

    def lock_taken(self, cursor: Cursor | None) -> None:
        """This process holds the bot's lock, at this cursor."""
        self._standby, self._committed = False, cursor

    def lock_refused(self) -> None:
        """Another process holds the bot's lock: this one does not know the cursor any more."""
        self._standby, self._committed = True, None
        if self.spool and self.spool.waiting:
            log.warning("%d events wait in the spool until this process listens again", self.spool.events)

    def committed(self, cursor: Cursor | None) -> None:
        """Note a cursor that is committed."""
        self._committed = cursor or self._committed

    def database_failed(self, wait: float) -> float:
        """Note a failure, and the seconds to the next attempt; returns the seconds until the poller's next step."""
        now = time.monotonic()
        self._down_since = self._down_since or now
        self._retry_at = now + wait
        if self.active:
            return 0.0
        spooling_in = self._down_since + self.after - now
        return min(wait, spooling_in) if self.after and self.position and spooling_in > 0 else wait

    def polled(self, polls: Polls | None) -> None:
        """Note outside the database when the API has answered."""
        if self.acknowledged is not None and polls is not None:
            self.acknowledged.note_polls(polls)

    @property
    def lost(self) -> bool:
        """Whether the spool has lost events, and the archive does not know of it yet."""
        return self.acknowledged is not None and bool(self.acknowledged.unsaved())

    def database_answered(self) -> None:
        """The database stores events."""
        self._down_since = None

    def before_poll(self) -> None:
        """Note outside the spool what the next poll acknowledges, although only the spool has it."""
        if self.acknowledged is None or self.spool is None or not self.spool.waiting:
            return
        noted = self.acknowledged.spooled
        if noted is None:
            first = self._committed.last_event_id + 1 if self._committed else None
            noted = Missing(SPOOL_LOST, from_event_id=first, from_time=self._first_at or self.spool.since)
        noted = replace(noted, to_event_id=self.spool.last_event_id, to_time=self.spool.until)
        self.acknowledged.note_spooled(noted)

    def append(self, pending: PendingBatch, last_event_id: int) -> None:
        """Write a batch to the spool; its events may be acknowledged afterwards.

        Args:
            pending: a batch that was polled and is not committed.
            last_event_id: the lastEventId of its poll.

        Raises:
            SpoolRefused: the spool takes none of it.
        """
        assert self.spool is not None
        begins = not self.spool.waiting
        self.spool.append(pending.events, pending.generation, last_event_id)
        if begins:
            self._first_at = pending.events[0].received_at
            log.warning("the database is away; the events go to the spool %s", self.spool.path)
            self._on_change()
        self._succeeded()

    def next_part(self) -> PendingBatch | None:
        """The events of the next transaction; None if nothing waits.

        Raises:
            SpoolRefused: the disk does not give them.
        """
        if self._batch is None and self.spool is not None:
            self._batch = self.spool.next_batch()
            if self._batch is None:
                self._look_for_loss()
        return self._batch and self._batch.first_part()

    def halve(self) -> None:
        """Take half as many events in each of the next transactions."""
        if self._batch is not None:
            self._batch = self._batch.halved()

    def part_begun(self, saved: int) -> None:
        """One transaction has saved so many events of the part; more of them remain."""
        if self._batch is not None:
            self._batch = self._batch.with_saved(saved)

    def part_committed(self, part: PendingBatch) -> None:
        """The part that `next_part` returned is in the database."""
        assert self.spool is not None
        assert self._batch is not None
        self._batch = self._batch.after(part)
        if self._batch is None:
            if self.acknowledged and self.spool.is_last_batch and not self.spool.damaged:
                # Remove the note before the file: a note without a file means a loss.
                self.acknowledged.note_spooled(None)
            self.spool.discard_batch()
            self._look_for_loss()
            if not self.spool.waiting:
                log.info("the spool is empty: its events are in the database")
                self._on_change()
        self._succeeded()

    def failed(self, error: SpoolRefused) -> None:
        """Note that the spool takes or gives nothing."""
        if self._status.last_error != str(error):
            log.error("%s%s", error, f". {error.hint}" if error.hint else "")
            self._status.last_error = str(error)
            self._on_change()

    def _look_for_loss(self) -> None:
        """Compare the spool with the note of what it holds. What it has lost becomes a gap, see `lost`."""
        noted = self.acknowledged.spooled if self.acknowledged else None
        if noted is None or self.acknowledged is None or self.spool is None:
            return
        if not self.spool.waiting:
            self.acknowledged.spool_lost(noted)
        elif (self.spool.last_event_id or 0) < (noted.to_event_id or 0):
            self.acknowledged.spool_lost(replace(noted, from_event_id=(self.spool.last_event_id or 0) + 1))
            self.before_poll()

    def _succeeded(self) -> None:
        if self._status.last_error is not None:
            self._status.last_error = None
            log.info("the spool works again")
            self._on_change()


def make_spooler(
    config: Config,
    status: SpoolStatus | None = None,
    on_change: Callable[[], None] = lambda: None,
    warn: Callable[[str | None], None] = lambda sentence: None,
) -> Spooler:
    """The spooler that a configuration asks for; it keeps no spool if nothing is saved."""
    directory = config.state_dir if config.storage.save else None
    spooler = Spooler(directory, status=status, on_change=on_change, warn=warn)
    spooler.configure(config)
    return spooler
