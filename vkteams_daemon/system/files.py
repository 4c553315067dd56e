"""Replacing a file as a whole, making names durable, and showing that the holder of a file's lock lives.

A file that is replaced here holds its old content or its new one, whatever fails and whenever: the content goes to a
temporary file in the same directory, to the disk, and takes the file's name by rename(2). Only the standard library is
imported, because `vkteamsctl daemon status` must start quickly.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

TOUCH_INTERVAL = 0.2  # seconds between two signs of life of the holder of a lock


def atomic_write(path: Path, content: bytes, mode: int, *, group: int | None = None, writer: str = "") -> None:
    """Replace the file by this content, with exactly this mode whatever the umask.

    Args:
        path: the file; a symbolic link of this name is replaced and not followed.
        content: all of it.
        mode: permission bits.
        group: the number of the group to give the file to; None leaves it to the system.
        writer: see `replace_when_whole`.

    Raises:
        OSError: the directory or the disk does not take it; the old file is as it was.
    """
    with replace_when_whole(path, mode, writer=writer) as file:
        os.fchmod(file.fileno(), mode)
        if group is not None:
            os.fchown(file.fileno(), -1, group)
        file.write(content)


@contextlib.contextmanager
def replace_when_whole(path: Path, mode: int, *, writer: str = "") -> Iterator[BinaryIO]:
    """A new file to write into, which replaces the one at `path` when the block ends without an exception.

    Args:
        path: the file; a symbolic link of this name is replaced and not followed.
        mode: permission bits, less those that the umask takes away.
        writer: distinguishes processes that may write the same file at once (the process number, say). If there is one
            writer at a time, "" lets it reuse the temporary file that a killed predecessor left behind.

    Raises:
        OSError: the directory or the disk does not take it; the old file is as it was, and no temporary file remains.
    """
    temporary = path.with_name(f".{path.name}.{writer or 'new'}")
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        # O_EXCL and O_NOFOLLOW: in a directory that others can write to, the name could be a link that they have laid.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def fsync_path(path: Path) -> None:
    """Flush a file's content, or a directory's names, to the disk.

    Raises:
        OSError: the disk does not take it, or this user may not read it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def touching(descriptor: int) -> Iterator[None]:
    """Touch a lock's file during the block. Others see by its time that the holder lives and is not stopped."""
    done = threading.Event()

    def touch() -> None:
        while not done.wait(TOUCH_INTERVAL):
            with contextlib.suppress(OSError):
                os.utime(descriptor)

    thread = threading.Thread(target=touch, name="touch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
