"""The memory of this machine, or of the container that this process runs in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def physical_memory() -> int:
    """Bytes of memory that processes here share; a container's limit, if it has one."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            sizes.append(int(Path(file).read_text()))
    return min(sizes)
