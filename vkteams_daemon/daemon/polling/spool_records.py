"""The records of a spool's file: a mark, the length, a checksum, then a line of JSON and the events of one answer."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from vkteams_daemon.botapi import events as api_events
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.store.ingest import event_rows

FORMAT = 1
HEAD = struct.Struct(">4sII")  # mark, length of what follows, CRC-32 of the length and of what follows
MARK = b"\x89vks"
_SEARCH = 1 << 20  # bytes looked through at once for the next mark


class Header(msgspec.Struct):
    """The line of the first record: whose spool it is."""

    format: int
    bot: str
    since: datetime


class Answer(msgspec.Struct):
    """The line of every other record: how one answer was polled, and what is in it."""

    generation: int
    after: int
    last_event_id: int
    events: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """One record: where it starts and ends in the file, its line (None: it cannot be read) and the bytes after that."""

    start: int
    end: int
    line: Header | Answer | None
    body: bytes

    def events(self) -> list[Event]:
        """The very events that the API delivered; none in the first record."""
        return api_events.read(self.body, self.line.received_at) if isinstance(self.line, Answer) else []


def encode_header(header: Header) -> bytes:
    """The first record."""
    return encode(msgspec.json.encode(header) + b"\n")


def encode_answer(answer: Answer, events: Sequence[Event]) -> bytes | None:
    """The record of one answer; None if the same events cannot be read back from it."""
    line, body = msgspec.json.encode(answer), b'{"events":[' + b",".join(map(event_rows.source_bytes, events)) + b"]}"
    if Record(0, 0, msgspec.json.decode(line, type=Answer), body).events() != list(events):
        return None
    return encode(line + b"\n" + body)


def encode(content: bytes) -> bytes:
    """A record with this content."""
    return HEAD.pack(MARK, len(content), _checksum(content)) + content


def read(descriptor: int, start: int, size: int) -> Iterator[Record]:
    """The whole records of a file of this size, from `start` on. Damaged bytes between them are passed over."""
    while start < size:
        record = _record_at(descriptor, start, size)
        if record is None:
            mark = _next_mark(descriptor, start + 1, size)
            if mark is None:
                return
            start = mark
            continue
        yield record
        start = record.end


def _record_at(descriptor: int, start: int, size: int) -> Record | None:
    head = _read(descriptor, start, HEAD.size)
    if len(head) < HEAD.size:
        return None
    mark, length, checksum = HEAD.unpack(head)
    if mark != MARK or not 0 < length <= size - start - HEAD.size:
        return None
    content = _read(descriptor, start + HEAD.size, length)
    if len(content) < length or _checksum(content) != checksum:
        return None
    line, _, body = content.partition(b"\n")
    decoded: Header | Answer | None = None
    with contextlib.suppress(msgspec.MsgspecError):
        decoded = msgspec.json.decode(line, type=Answer if start else Header)
    return Record(start, start + len(head) + length, decoded, body)


def _next_mark(descriptor: int, start: int, size: int) -> int | None:
    """The offset of the next mark, from `start` on; None if there is none."""
    while start < size:
        chunk = _read(descriptor, start, _SEARCH)
        place = chunk.find(MARK)
        if place >= 0:
            return start + place
        if len(chunk) < len(MARK):
            return None
        start += len(chunk) - len(MARK) + 1
    return None


def _read(descriptor: int, offset: int, length: int) -> bytes:
    parts = []
    while length and (part := os.pread(descriptor, length, offset)):
        parts.append(part)
        offset, length = offset + len(part), length - len(part)
    return b"".join(parts)


def _checksum(content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(struct.pack(">I", len(content))))
