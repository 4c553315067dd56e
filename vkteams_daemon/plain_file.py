"""Opens files, and nothing that only looks like one: a FIFO would wait for its other end, a device may have no end.

Every file that somebody else may have laid under its name is opened here: configuration, secrets, the daemon's own
files. Only the standard library is imported, because `vkteamsctl daemon status` must start quickly.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_NULL = os.makedev(1, 3)  # null(4), which stands for an empty file
_KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def open_plain(path: Path, flags: int, mode: int = 0o600) -> int:
    """Open a file as open(2) does, and never wait; returns a descriptor that no child inherits.

    A device can be opened to be written alone, as a log may be, and null(4) to be read.

    Raises:
        OSError: it cannot be opened, or it is no file. Its `strerror` says what it is then.
    """
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError(errno.EINVAL, f"it is {_kind(path.lstat().st_mode)} and not a file", str(path)) from None
    about = os.fstat(descriptor)
    access = flags & os.O_ACCMODE
    is_device = stat.S_ISCHR(about.st_mode)
    readable = access == os.O_RDONLY and about.st_rdev == _NULL
    if stat.S_ISREG(about.st_mode) or (is_device and (readable or access == os.O_WRONLY)):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, f"it is {_kind(about.st_mode)} and not a file", str(path))


def read(path: Path) -> bytes:
    """The content of a file; errors as of `open_plain`."""
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        return file.read()


def read_text(path: Path) -> str:
    """The content of a file in UTF-8, without a byte order mark.

    Raises:
        OSError: as of `open_plain`.
        UnicodeDecodeError: it is not UTF-8.
    """
    # Not "utf-8-sig": Python would look for that codec's file, which the user in force may not be able to read.
    return read(path).decode("utf-8").removeprefix("\ufeff")


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "something else")
