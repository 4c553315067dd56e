"""The spool: a file that takes the events while the database is away, so that they can be acknowledged all the same.

There is one file a bot, in the state directory. It holds one record after the other: a mark, the length, a checksum,
then a line of JSON and the events of one answer as they came. The first record says whose spool it is. A record counts
when fsync has returned, and only then may its events be acknowledged. What follows the last whole record was never
acknowledged and is cut off.

A file with anything else in it is put aside, because it may hold events that the API has forgotten.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import msgspec

from vkteams_daemon.botapi import events as api_events
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling.pending_batch import PendingBatch
from vkteams_daemon.errors import ApiError, CannotWrite
from vkteams_daemon.store.ingest import event_rows, id_restart
from vkteams_daemon.system import files

log = logging.getLogger(__name__)

BATCH = 1000  # events that go into the database at once, about
SUFFIX = ".spool"
_FORMAT = 1
_MARK = b"\x89vks"
_HEAD = struct.Struct(">4sII")  # mark, length of what follows, CRC-32 of the length and of what follows
_SEARCH = 1 << 20  # bytes looked through at once for the next mark


class SpoolRefused(CannotWrite):
    """The spool does not take an answer; nothing of it may be acknowledged."""


class _Header(msgspec.Struct):
    """The line of the first record: whose spool it is."""

    format: int
    bot: str
    since: datetime


class _Answer(msgspec.Struct):
    """The line of every other record: how one answer was polled, and what is in it."""

    generation: int
    after: int
    last_event_id: int
    events: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class _Record:
    """One record: where it starts and ends in the file, its line (None: it cannot be read) and the bytes after that."""

    start: int
    end: int
    line: _Header | _Answer | None
    body: bytes


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
        self._drained = 0  # everything before this place is committed
        self._taken, self._took = 0, 0  # where the last next_batch ends, and how many events it has
        self._damaged = 0  # bytes
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
            last_event_id: what they were polled with.

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
        line = _Answer(generation, last_event_id, max(ids), len(events), events[0].received_at)
        record = _encode(line, b'{"events":[' + b",".join(map(event_rows.source_bytes, events)) + b"]}")
        if _decoded_events(record) != list(events):
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
        self.last_event_id, self.generation = max(ids), generation

    def next_batch(self) -> PendingBatch | None:
        """The events that go into the database next, of one generation; None where nothing waits.

        Raises:
            SpoolRefused: the disk does not give them.
        """
        events: list[Event] = []
        generation = 0
        try:
            for record in self._records(self._drained):
                if not isinstance(record.line, _Answer):
                    continue
                if events and (record.line.generation != generation or len(events) >= BATCH):
                    break
                generation = record.line.generation
                events += _events_of(record)
                self._taken, self._took = record.end, len(events)
        except (OSError, ApiError) as error:
            raise SpoolRefused(f"the spool {self.path} cannot be read: {error}") from error
        if events:
            return PendingBatch(events, generation, time.monotonic())
        if self.waiting:
            self._put_aside(f"{self.size - self._drained} bytes in it are damaged")
        return None

    def stored(self) -> None:
        """The last `next_batch` is committed. When nothing waits any more, the file goes."""
        self._drained = self._taken
        self.events = max(0, self.events - self._took)
        if not self.waiting:
            self._end()

    def close(self) -> None:
        """Let go of the file, which stays."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _clear(self) -> None:
        self.events = self.size = self._drained = self._taken = self._took = self._damaged = 0
        self.since = self.last_event_id = self.generation = None

    def _create(self) -> int:
        """Begin the file: its name and its first record are on the disk when this returns."""
        now = datetime.now(UTC)
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o640)
        try:
            os.fchmod(descriptor, 0o640)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            first = _encode(_Header(_FORMAT, self._bot_id, now), b"")
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
        """Append a record and wait for the disk; where that fails the file is cut back."""
        at = self.size
        try:
            rest = memoryview(record)
            while rest:
                written = os.pwrite(descriptor, rest, at)
                at, rest = at + written, rest[written:]
            os.fsync(descriptor)
        except BaseException:
            # What cannot be cut now is written over next time, or is cut as torn by the next process.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self.size)
            raise

    def _open(self) -> None:
        """Take up the file that an earlier process has left behind."""
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
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
            self._end()
        else:
            log.warning("%d events wait in the spool %s since %s", self.events, self.path, self.since)

    def _scan(self) -> str:
        """Count what waits, and cut a torn end; why the file is no spool of this bot, or an empty string."""
        assert self._descriptor is not None
        size = os.fstat(self._descriptor).st_size
        self.size = size
        os.fsync(self._descriptor)  # the process that wrote the last record may have died before it was on the disk
        end = 0
        for record in self._records(0):
            line = record.line
            if isinstance(line, _Header):
                if line.format != _FORMAT:
                    return f"it has the format {line.format}, of another version of this program"
                if line.bot != self._bot_id:
                    return f"it is the spool of bot {line.bot}"
                self.since, self._drained = line.since, record.end
            elif end == 0:
                return "its first record is damaged"
            elif line is None:
                self._damaged += record.end - end  # it is whole, so it is not torn: another version may have written it
            else:
                self._damaged += record.start - end
                self.events += line.events
                self.last_event_id = max(self.last_event_id or 0, line.last_event_id)
                self.generation = line.generation
            end = record.end
        if end == 0 and size > _HEAD.size:
            return "it is no spool"
        if end < size:
            log.warning("the spool %s ends in a torn record of %d bytes, which is cut", self.path, size - end)
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)
            self.size = end
        return ""

    def _records(self, at: int) -> Iterator[_Record]:
        """The whole records from this place on; what is damaged between them is passed over."""
        while at < self.size:
            record = self._record_at(at)
            if record is None:
                found = self._next_mark(at + 1)
                if found is None:
                    return
                at = found
                continue
            yield record
            at = record.end

    def _record_at(self, at: int) -> _Record | None:
        head = self._read(at, _HEAD.size)
        if len(head) < _HEAD.size:
            return None
        mark, length, checksum = _HEAD.unpack(head)
        if mark != _MARK or not 0 < length <= self.size - at - _HEAD.size:
            return None
        content = self._read(at + _HEAD.size, length)
        if len(content) < length or _checksum(content) != checksum:
            return None
        line, _, body = content.partition(b"\n")
        decoded: _Header | _Answer | None = None
        with contextlib.suppress(msgspec.MsgspecError):
            decoded = msgspec.json.decode(line, type=_Answer if at else _Header)
        return _Record(at, at + len(head) + length, decoded, body)

    def _next_mark(self, at: int) -> int | None:
        while at < self.size:
            chunk = self._read(at, _SEARCH)
            place = chunk.find(_MARK)
            if place >= 0:
                return at + place
            if len(chunk) < len(_MARK):
                return None
            at += len(chunk) - len(_MARK) + 1
        return None

    def _read(self, at: int, length: int) -> bytes:
        assert self._descriptor is not None
        parts = []
        while length and (part := os.pread(self._descriptor, length, at)):
            parts.append(part)
            at, length = at + len(part), length - len(part)
        return b"".join(parts)

    def _end(self) -> None:
        """Everything is stored: the file goes, or stays beside where it was damaged."""
        if self._damaged:
            self._put_aside(f"{self._damaged} bytes in it are damaged")
            return
        with contextlib.suppress(OSError):
            # Where it comes back after a power cut, its events are recognised as stored.
            self.path.unlink(missing_ok=True)
            files.fsync_path(self.path.parent)
        self.close()
        self._clear()

    def _put_aside(self, reason: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.aside-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        with contextlib.suppress(OSError):
            self.path.rename(aside)
            files.fsync_path(self.path.parent)
        log.error("the spool %s is put aside as %s: %s; it may hold events that are stored nowhere else",
                  self.path, aside.name, reason)  # fmt: skip
        self.close()
        self._clear()


def delete_aside(directory: Path, before: datetime) -> None:
    """Delete the spools that were put aside and hold nothing that arrived later than this moment (aware)."""
    for path in directory.glob(f"*{SUFFIX}.aside-*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < before.timestamp():
                path.unlink()
                log.warning("retention: %s was put aside and is older than the archive may be; it is deleted", path)


def _encode(line: _Header | _Answer, body: bytes) -> bytes:
    content = msgspec.json.encode(line) + b"\n" + body
    return _HEAD.pack(_MARK, len(content), _checksum(content)) + content


def _checksum(content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(struct.pack(">I", len(content))))


def _decoded_events(record: bytes) -> list[Event]:
    """The events of an encoded answer."""
    line, _, body = record[_HEAD.size :].partition(b"\n")
    return _events_of(_Record(0, len(record), msgspec.json.decode(line, type=_Answer), body))


def _events_of(record: _Record) -> list[Event]:
    """The very events that the API delivered."""
    assert isinstance(record.line, _Answer)
    return api_events.read(record.body, record.line.received_at)
