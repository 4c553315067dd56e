"""The Unix socket that the bundled PostgreSQL listens on: its directory, and who listens there."""

from __future__ import annotations

import os
import socket
import stat
import struct
import tempfile
from pathlib import Path

from vkteams_daemon.system.user import Owner

DATABASE = "vkteams"
_NOT_READY = "57P03"  # the server starts, or stops
PORT = "5432"  # no network port: only a part of the socket's name
SOCKET = f".s.PGSQL.{PORT}"

_MAX_SOCKET_PATH = 107  # bytes of sun_path without the closing zero, unix(7)


def choose_directory(owner: Owner, configured: Path, recorded: Path) -> Path:
    """The directory to listen in: the configured one, the one used last, or a new short one in /tmp.

    The first is taken whose path is short enough, that is the owner's own and closed to other writers, and where no
    other server listens.
    """
    for directory in (configured, recorded):
        if _fits(directory) and _belongs_to(owner, directory) and listener_pid(directory) is None:
            return directory
    with owner.acting():
        private = Path(tempfile.mkdtemp(prefix="vkteams-pg-", dir="/tmp"))
        private.chmod(0o750 if owner.impersonated else 0o700)
    return private


def conninfo(directory: Path, role: str, peer: str) -> str:
    """The conninfo of the server in this directory; `peer` (requirepeer) is the only user whose server is accepted.

    It sets every option of libpq, so that no variable of the environment leads elsewhere.
    """
    from psycopg.conninfo import make_conninfo

    from vkteams_daemon.store.database_url import closed_to_environment

    options = {"host": str(directory), "port": PORT, "dbname": DATABASE, "user": role, "requirepeer": peer}
    return make_conninfo("", **closed_to_environment(options))


def accepts_connections(conninfo: str, data: Path) -> bool:
    """Whether the server of this data directory takes connections.

    A refusal that will not pass (no such role, say) counts as an answer: the caller's own connection reports it.
    """
    import psycopg

    from vkteams_daemon.store.connections import build_conninfo, connect

    try:
        with connect(build_conninfo(conninfo, 2, "vkteams"), None) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
    except psycopg.OperationalError as error:
        return error.sqlstate not in (None, _NOT_READY)
    return row is not None and Path(row[0]).resolve() == data.resolve()


def listener_pid(directory: Path) -> int | None:
    """The process that listens in this directory (SO_PEERCRED, unix(7)); None if this user can reach none."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(directory / SOCKET))
        except OSError:
            return None
        pid, _, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid)


def _fits(directory: Path) -> bool:
    """Whether the socket's path is short enough, and libpq does not take it for a list of hosts."""
    return len(os.fsencode(directory / SOCKET)) <= _MAX_SOCKET_PATH and "," not in str(directory)


def _belongs_to(owner: Owner, directory: Path) -> bool:
    """Whether it is the owner's own directory, open to the owner and writable for nobody else."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    own = stat.S_ISDIR(status.st_mode) and status.st_uid == owner.uid and not status.st_mode & 0o022
    return own and owner.first_closed(directory) is None
