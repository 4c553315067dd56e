"""The daemon's query socket: it gives the vectors of a query by the models that the daemon has loaded.

A question of vkteamsctl then loads neither tokenizer nor graph, which takes a second and more. One connection carries
one request and its answer, each a MessagePack object behind its length (u32, big-endian). The socket lies in the
runtime directory. Those who may read the status file may write to it. The client asks only a server of the daemon's
user, of root or of its own user, because a query is as private as the messages.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vkteams_daemon.config import Config
from vkteams_daemon.embedding.language_axis import QueryVector

MAX_BYTES = 64 << 10  # of a request, and of an answer
PATIENCE = 2.0  # seconds that a client waits for the answer; then it loads the model itself

Message = TypeVar("Message", bound=msgspec.Struct)

_LENGTH = struct.Struct(">I")
_CREDENTIALS = struct.Struct("3i")  # pid, uid and gid of the other end


class QueryRequest(msgspec.Struct):
    """A query, and the fingerprint of the model whose vector is wanted; an empty one only asks what is loaded."""

    text: str = ""
    fingerprint: str = ""


class QueryAnswer(msgspec.Struct):
    """The fingerprints of the loaded models, and the query's vector; None without that model."""

    loaded: list[str]
    vector: QueryVector | None = None


def path(config: Config, role: str = "") -> Path:
    """The socket of the daemon of this role, by default the configured one."""
    stem = "vkteamsd-embed" if (role or config.daemon.role) == "embed" else "vkteamsd"
    return config.runtime_dir / f"{stem}.query"


def loaded(file: Path) -> frozenset[str]:
    """The fingerprints of the models that the daemon at this socket has loaded; empty if none answers."""
    try:
        return frozenset(_ask(file, QueryRequest()).loaded)
    except (OSError, ValueError):
        return frozenset()


def vector(file: Path, fingerprint: str, text: str) -> QueryVector | None:
    """The query's vector by this model; None if the daemon at this socket does not give it."""
    try:
        return _ask(file, QueryRequest(text, fingerprint)).vector
    except (OSError, ValueError):
        return None


def send(connection: socket.socket, message: msgspec.Struct) -> None:
    """Send one message.

    Raises:
        OSError: the other end does not take it.
        ValueError: it is too long.
    """
    content = msgspec.msgpack.encode(message)
    if len(content) > MAX_BYTES:
        raise ValueError("the message is too long")
    connection.sendall(_LENGTH.pack(len(content)) + content)


def receive(connection: socket.socket, kind: type[Message]) -> Message:
    """Receive one message of this kind.

    Raises:
        OSError: the other end does not send it.
        ValueError: it is too long, cut off, or something else.
    """
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    if length > MAX_BYTES:
        raise ValueError("the message is too long")
    return msgspec.msgpack.decode(_read(connection, length), type=kind)


@contextlib.contextmanager
def short_path(file: Path) -> Iterator[str]:
    """A path of the same file that is short enough for a socket's address, whatever the directory's is."""
    descriptor = os.open(file.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{file.name}"
    finally:
        os.close(descriptor)


def _ask(file: Path, request: QueryRequest) -> QueryAnswer:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(PATIENCE)
        with short_path(file) as address:
            connection.connect(address)
        _check_server(connection, file)
        send(connection, request)
        return receive(connection, QueryAnswer)


def _check_server(connection: socket.socket, file: Path) -> None:
    """Refuse a server of a user who could not be the daemon's: the directory may be open to everybody."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid = _CREDENTIALS.unpack(credentials)[1]
    directory = file.parent.stat()
    trusted = {0, os.geteuid()}
    if not directory.st_mode & stat.S_IWOTH and not file.parent.parent.stat().st_mode & stat.S_IWOTH:
        trusted.add(directory.st_uid)
    if uid not in trusted:
        raise PermissionError(f"{file}: its server is of user {uid}")


def _read(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        part = connection.recv(length - len(content))
        if not part:
            raise ValueError("the message was cut off")
        content += part
    return content
