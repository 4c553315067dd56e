"""Facts about other processes, from the kernel.

A process number can become another program's at any time. So open a pidfd first, ask for the facts then, and look with
`alive` last: if the process of the pidfd still lives, the facts are about that process.

The files of /proc are read as bytes: a codec would be imported at its first use, and root that acts as another user may
not be able to read it.
"""

from __future__ import annotations

import select
from pathlib import Path


def user_of(pid: int) -> int | None:
    """The user that the process runs as; None if it has ended, is hidden, or runs as several users (set-user-ID)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_bytes().splitlines()
    except OSError:
        return None
    uids = next((line.split()[1:4] for line in lines if line.startswith(b"Uid:")), [])
    return int(uids[0]) if len(uids) == 3 and len(set(uids)) == 1 else None


def name_of(pid: int) -> str | None:
    """The name of the process, at most 15 bytes, as `ps -o comm` shows it; None if it has ended or is hidden."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().removesuffix(b"\n").decode("utf-8", "replace")
    except OSError:
        return None


def alive(pidfd: int) -> bool:
    """Whether the process of this pidfd has not ended yet."""
    return not select.select([pidfd], [], [], 0)[0]
