"""A small file that is overwritten often: two slots of one size, written by turns, each with a number and a checksum.

Replacing a file (files.atomic_write) costs the disk three writes: the content, the new name, the old name's end. Here a
write goes into the slot that is not in use, and one fdatasync ends it: the file is allocated beforehand, so nothing but
the content changes. A write that was torn leaves a slot without a valid checksum, and the other one counts.

A slot is: a mark (4 bytes), the number of the write (8 bytes), the length of the content (4 bytes), a CRC-32 of the
number, the length and the content (4 bytes), the content, zeros. Numbers are big-endian. The first slot begins at 0,
the second in the middle of the file. The valid slot with the higher number counts.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

from vkteams_daemon import plain_file
from vkteams_daemon.system import files

MIN_SLOT = 4096  # bytes; a page of the file's cache, so that one slot is never written with the other
_MARK = b"\x89vk2"
_HEAD = struct.Struct(">4sQII")  # mark, number, length, CRC-32


class SlotFile:
    """One such file. One process writes it at a time.

    Args:
        path: the file; it need not exist.
        mode: its permission bits.
    """

    def __init__(self, path: Path, mode: int) -> None:
        self.path = path
        self._mode = mode
        self._number = 0

    def read(self) -> bytes | None:
        """The content that was written last; None if there is no file.

        Raises:
            OSError: the file cannot be read.
            ValueError: no slot of it is valid.
        """
        try:
            stored = plain_file.read(self.path)
        except FileNotFoundError:
            return None
        size = len(stored) // 2
        slots = [slot for slot in (_decode(stored[:size]), _decode(stored[size:])) if slot]
        if not slots:
            raise ValueError("no slot of it is whole")
        self._number, content = max(slots)
        return content

    def write(self, content: bytes) -> None:
        """Write the content to the disk.

        Raises:
            OSError: the disk does not take it; the content that was written before counts.
        """
        slot = _encode(self._number + 1, content)
        size = MIN_SLOT
        while size < len(slot):
            size *= 2
        try:
            descriptor = plain_file.open_plain(self.path, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            self._create(slot, size)
        else:
            try:
                stored_size = os.fstat(descriptor).st_size
                if stored_size < 2 * size or stored_size % (2 * MIN_SLOT):
                    self._create(slot, size)
                else:
                    _write_at(descriptor, slot, (self._number + 1) % 2 * (stored_size // 2))
            finally:
                os.close(descriptor)
        self._number += 1

    def _create(self, slot: bytes, size: int) -> None:
        """Replace the file by one with larger slots, or with slots at all."""
        place = (self._number + 1) % 2 * size
        files.atomic_write(self.path, (bytes(place) + slot).ljust(2 * size, b"\0"), self._mode)
        # Without this, the name may still be the old file's after a power cut.
        files.fsync_path(self.path.parent)


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        offset, rest = offset + written, rest[written:]
    os.fdatasync(descriptor)


def _encode(number: int, content: bytes) -> bytes:
    return _HEAD.pack(_MARK, number, len(content), _checksum(number, content)) + content


def _decode(slot: bytes) -> tuple[int, bytes] | None:
    """The number and the content of a slot; None if it is not whole."""
    if len(slot) < _HEAD.size:
        return None
    mark, number, length, checksum = _HEAD.unpack_from(slot)
    content = slot[_HEAD.size : _HEAD.size + length]
    if mark != _MARK or len(content) < length or checksum != _checksum(number, content):
        return None
    return number, content


def _checksum(number: int, content: bytes) -> int:
    return zlib.crc32(content, zlib.crc32(struct.pack(">QI", number, len(content))))
