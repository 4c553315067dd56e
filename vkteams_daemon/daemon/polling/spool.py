"""The spool: a file that takes the events while the database is away, so that they can be acknowledged all the same.

There is one file a bot, in the state directory. It holds one record after the other (see spool_records.py). The first
record says whose spool it is. A record counts when fsync has returned, and only then may its events be acknowledged.
What follows the last whole record was never acknowledged and is cut off.

A file with anything else in it is put aside, because it may hold events that the API has forgotten.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from vkteams_daemon import plain_file
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling import spool_records
from vkteams_daemon.daemon.polling.pending_batch import PendingBatch
from vkteams_daemon.daemon.polling.spool_records import Answer, Header, Record
from vkteams_daemon.errors import ApiError, CannotWrite
from vkteams_daemon.store.ingest import id_restart
from vkteams_daemon.system import files

log = logging.getLogger(__name__)

BATCH = 1000  # events that go into the database at once, about
SUFFIX = ".spool"


class SpoolRefused(CannotWrite):
    """The spool does not take an answer; nothing of it may be acknowledged."""


class Spool:
    """One bot's spool. It belongs to one thread; its counts may be read by any.

    Args:
        directory: the state directory.
        bot_id: whose events it takes.
        max_bytes: the size that the file may reach; replaceable.

    Attributes:
        path: the file, which exists only while events wait in it.
        events: how many wait.
        size: bytes of the file.
        since: when the file was begun; None without one.
        last_event_id: the highest id in the file; None without one.
        generation: the one that its last events were polled under; None without one.
        until: when its last events arrived; None without one.
        damaged: bytes in it that cannot be read.

    Raises:
        SpoolRefused: a file is there and cannot be opened.
    """

    def __init__(self, directory: Path, bot_id: str, *, max_bytes: int) -> None:
        self.path = directory / f"{quote(bot_id, safe='@')[:100]}{SUFFIX}"
        self.max_bytes = max_bytes
        self._bot_id = bot_id
        self._descriptor: int | None = None
        self.events = self.size = 0
        self.since: datetime | None = None
        self.last_event_id: int | None = None
        self.generation: int | None = None
        self.until: datetime | None = None
        self._drained = 0  # the offset before which everything is committed
        self._batch_end, self._batch_events = 0, 0  # where the last next_batch ends, and how many events it has
        self.damaged = 0
        if os.path.lexists(self.path):
            self._open()

    @property
    def waiting(self) -> bool:
        """Whether anything waits in the file."""
        return self.size > self._drained

    def append(self, events: Sequence[Event], generation: int, last_event_id: int) -> None:
        """Write the events of one answer to the disk; they may be acknowledged afterwards.

        Args:
            events: in the order of the answer, which arrived at one time.
            generation: the one they were polled under.
            last_event_id: the lastEventId of their poll.

        Raises:
            SpoolRefused: the ids do not ascend, the file is full, or the disk does not take it; the spool is as it was.
        """
        ids = [event.event_id for event in events if event.numbered]
        last = last_event_id if self.last_event_id is None else self.last_event_id
        if not ids or min(ids) <= last or not id_restart.is_ascending(events):
            raise SpoolRefused(
                f"an answer's event ids do not ascend from {last}, so only the database can take it",
                hint="The daemon polls again when the database is back.",
            )
        line = Answer(generation, last_event_id, max(ids), len(events), events[0].received_at)
        record = spool_records.encode_answer(line, events)
        if record is None:
            raise SpoolRefused("an answer cannot be read back from the spool, so only the database can take it")
        if self.size + len(record) > self.max_bytes:
            raise SpoolRefused(
                f"the spool {self.path} is full ({self.max_bytes} bytes), so polling stops until the database is back",
                hint="Repair the database, or raise [storage] spool_max_bytes.",
            )
        try:
            descriptor = self._create() if self._descriptor is None else self._descriptor
            if not os.fstat(descriptor).st_nlink:
                raise SpoolRefused(f"the spool {self.path} was removed while events waited in it")
            self._write(descriptor, record)
        except OSError as error:
            raise SpoolRefused(f"the spool {self.path} cannot be written: {error.strerror}") from error
        self.size += len(record)
        self.events += len(events)
        self.last_event_id, self.generation, self.until = max(ids), generation, line.received_at

    def next_batch(self) -> PendingBatch | None:
        """The events that go into the database next, of one generation; None if nothing waits.

        Raises:
            SpoolRefused: the disk does not give them.
        """
        events: list[Event] = []
        generation = 0
        try:
            for record in self._records(self._drained):
                if not isinstance(record.line, Answer):
                    continue
                if events and (record.line.generation != generation or len(events) >= BATCH):
                    break
                generation = record.line.generation
                events += record.events()
                self._batch_end, self._batch_events = record.end, len(events)
        except (OSError, ApiError) as error:
            raise SpoolRefused(f"the spool {self.path} cannot be read: {error}") from error
        if events:
            return PendingBatch(events, generation, time.monotonic())
        if self.waiting:
            self._put_aside(f"{self.size - self._drained} bytes in it are damaged")
        return None

    @property
    def is_last_batch(self) -> bool:
        """Whether the last `next_batch` ends where the file ends."""
        return self._batch_end >= self.size

    def discard_batch(self) -> None:
        """Discard the last `next_batch`, which is committed. Remove the file when nothing waits in it any more."""
        self._drained = self._batch_end
        self.events = max(0, self.events - self._batch_events)
        if not self.waiting:
            self._finish()

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _reset(self) -> None:
        self.events = self.size = self._drained = self._batch_end = self._batch_events = self.damaged = 0
        self.since = self.last_event_id = self.generation = self.until = None

    def _create(self) -> int:
        """Begin the file: its name and its first record are on the disk when this returns."""
        now = datetime.now(UTC)
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o640)
        try:
            os.fchmod(descriptor, 0o640)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            first = spool_records.encode_header(Header(spool_records.FORMAT, self._bot_id, now))
            self._write(descriptor, first)
            files.fsync_path(self.path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(descriptor)
            raise
        self._descriptor, self.size, self._drained, self.since = descriptor, len(first), len(first), now
        return descriptor

    def _write(self, descriptor: int, record: bytes) -> None:
        """Append a record and wait for the disk. If that fails, cut the file back."""
        at = self.size
        try:
            rest = memoryview(record)
            while rest:
                written = os.pwrite(descriptor, rest, at)
                at, rest = at + written, rest[written:]
            os.fsync(descriptor)
        except BaseException:
            # If it cannot be cut now, the next record overwrites the rest, or the next process cuts it as torn.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self.size)
            raise

    def _open(self) -> None:
        """Take up the file that an earlier process has left behind."""
        try:
            self._descriptor = plain_file.open_plain(self.path, os.O_RDWR | os.O_NOFOLLOW)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            reason = self._scan()
        except BlockingIOError as error:
            self.close()
            raise SpoolRefused(f"another process writes the spool {self.path}") from error
        except OSError as error:
            self.close()
            raise SpoolRefused(f"the spool {self.path} cannot be opened: {error.strerror}") from error
        if reason:
            self._put_aside(reason)
        elif not self.waiting:
            self._finish()
        else:
            log.warning("%d events wait in the spool %s since %s", self.events, self.path, self.since)

    def _scan(self) -> str:
        """Count what waits, and cut a torn end. Returns why the file is no spool of this bot; empty if it is one."""
        assert self._descriptor is not None
        size = os.fstat(self._descriptor).st_size
        self.size = size
        os.fsync(self._descriptor)  # the process that wrote the last record may have died before it was on the disk
        end = 0
        for record in self._records(0):
            line = record.line
            if isinstance(line, Header):
                if line.format != spool_records.FORMAT:
                    return f"it has the format {line.format}, of another version of this program"
                if line.bot != self._bot_id:
                    return f"it is the spool of bot {line.bot}"
                self.since, self._drained = line.since, record.end
            elif end == 0:
                return "its first record is damaged"
            elif line is None:
                self.damaged += record.end - end  # it is whole, so it is not torn: another version may have written it
            else:
                self.damaged += record.start - end
                self.events += line.events
                self.last_event_id = max(self.last_event_id or 0, line.last_event_id)
                self.generation, self.until = line.generation, line.received_at
            end = record.end
        if end == 0 and size > spool_records.HEAD.size:
            return "it is no spool"
        if end < size:
            log.warning("the spool %s ends in a torn record of %d bytes, which is cut", self.path, size - end)
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)
            self.size = end
        return ""

    def _records(self, start: int) -> Iterator[Record]:
        return spool_records.read(self._descriptor, start, self.size) if self._descriptor is not None else iter(())

    def _finish(self) -> None:
        """Everything is stored: remove the file, or put it aside if a part of it is damaged."""
        if self.damaged:
            self._put_aside(f"{self.damaged} bytes in it are damaged")
            return
        with contextlib.suppress(OSError):
            # If the file comes back after a power cut, the writer recognises its events as stored.
            self.path.unlink(missing_ok=True)
            files.fsync_path(self.path.parent)
        self.close()
        self._reset()

    def _put_aside(self, reason: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.aside-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        with contextlib.suppress(OSError):
            self.path.rename(aside)
            files.fsync_path(self.path.parent)
        log.error("the spool %s is put aside as %s: %s; it may hold events that are stored nowhere else",
                  self.path, aside.name, reason)  # fmt: skip
        self.close()
        self._reset()


def list_aside(directory: Path) -> list[Path]:
    """The spools that were put aside."""
    return sorted(directory.glob(f"*{SUFFIX}.aside-*"))


def delete_aside(directory: Path, before: datetime) -> None:
    """Delete the spools that were put aside and hold nothing that arrived later than this moment (aware)."""
    for path in list_aside(directory):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < before.timestamp():
                path.unlink()
                log.warning("retention: %s was put aside and is older than the archive may be; it is deleted", path)


def read_waiting(directory: Path) -> Iterator[Event]:
    """The events in the spools of a state directory, read beside the daemon that writes them.

    Some of them may be committed already: the file stays until all are.

    Raises:
        OSError: a spool cannot be read.
    """
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        with (
            contextlib.suppress(FileNotFoundError),
            os.fdopen(plain_file.open_plain(path, os.O_RDONLY), "rb") as file,
        ):
            size = os.fstat(file.fileno()).st_size
            for record in spool_records.read(file.fileno(), 0, size):
                with contextlib.suppress(ApiError):  # the daemon puts such a file aside
                    yield from record.events()
