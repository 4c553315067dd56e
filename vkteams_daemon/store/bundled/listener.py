"""Where the bundled PostgreSQL listens, and asking what listens there."""

from __future__ import annotations

import os
import re
import socket
import stat
import struct
import tempfile
from pathlib import Path

from vkteams_daemon.system.user import Owner

DATABASE = "vkteams"
PORT = "5432"  # no network port: only a part of the socket's name
NAME = f".s.PGSQL.{PORT}"

_LONGEST = 107  # bytes of sun_path, unix(7), less the closing zero


def choose(owner: Owner, wanted: Path, recorded: Path) -> Path:
    """The directory to listen in: the wanted one, the one used last, or a new short one in /tmp.

    The first that is short enough, the owner's own, closed to other writers, and where no other server listens.
    """
    for directory in (wanted, recorded):
        if _fits(directory) and _belongs(directory, owner) and listening(directory) is None:
            return directory
    with owner.acting():
        private = Path(tempfile.mkdtemp(prefix="vkteams-pg-", dir="/tmp"))
        private.chmod(0o750 if owner.impersonated else 0o700)
    return private


def conninfo(directory: Path, role: str, peer: str) -> str:
    """The conninfo of the server in this directory; with `requirepeer` nobody else's server is taken for it."""
    # The port stands here because PGPORT may be set.
    parts = {"host": str(directory), "port": PORT, "dbname": DATABASE, "user": role, "requirepeer": peer}
    quoted = {name: re.sub(r"(['\\])", r"\\\1", value) for name, value in parts.items() if value}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


def answers(conninfo: str, data: Path) -> bool:
    """Whether the server of this data directory takes connections; refusals that will not pass are the caller's."""
    import psycopg

    try:
        with psycopg.connect(conninfo, connect_timeout=2, autocommit=True) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
    except psycopg.OperationalError as error:
        return "FATAL" in str(error) and "the database system is" not in str(error)
    return row is not None and Path(row[0]).resolve() == data.resolve()


def listening(directory: Path) -> int | None:
    """The process that listens in this directory (SO_PEERCRED, unix(7)), if this user can reach it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(directory / NAME))
        except OSError:
            return None
        pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def _fits(directory: Path) -> bool:
    """Whether the socket's path is short enough, and no list of hosts to libpq."""
    return len(os.fsencode(directory / NAME)) <= _LONGEST and "," not in str(directory)


def _belongs(directory: Path, owner: Owner) -> bool:
    """Whether it is the owner's own directory, reachable for the owner and writable for nobody else."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    own = stat.S_ISDIR(found.st_mode) and found.st_uid == owner.uid and not found.st_mode & 0o022
    return own and owner.closed(directory) is None
