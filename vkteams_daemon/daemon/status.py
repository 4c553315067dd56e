"""The status file: what the daemon says about itself, as one JSON document that is replaced whole.

Only msgspec and the standard library are imported here: `vkteamsctl daemon status` must be quick.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from vkteams_daemon.errors import CannotCreate, PermissionRefused, VkTeamsError
from vkteams_daemon.system import files

State = Literal["starting", "listening", "standby", "embedding", "degraded", "stopping"]


class Bot(msgspec.Struct, kw_only=True):
    """Who the token belongs to; None until self/get has answered."""

    id: str | None = None
    nick: str | None = None


class Api(msgspec.Struct, kw_only=True):
    """The long poll."""

    state: Literal["ok", "backoff", "unauthorized"] | None = None
    last_poll_at: datetime | None = None
    last_error: str | None = None
    consecutive_failures: int = 0


class Database(msgspec.Struct, kw_only=True):
    """The writer's connection."""

    state: Literal["ok", "down"] | None = None
    last_error: str | None = None


class Events(msgspec.Struct, kw_only=True):
    """Events since this process started; `per_second` is over the last minute."""

    received: int = 0
    saved: int = 0
    duplicate: int = 0
    filtered: int = 0
    quarantined: int = 0
    failed: int = 0
    last_event_id: int | None = None
    last_event_at: datetime | None = None
    per_second: float = 0.0


class Embedding(msgspec.Struct, kw_only=True):
    """The embedding workers; `queued` is the queue's length when it was last looked at."""

    model: str | None = None
    state: Literal["ok", "off", "failing"] = "off"
    queued: int | None = None
    embedded: int = 0
    failed: int = 0
    texts_per_second: float = 0.0


class Percentiles(msgspec.Struct, kw_only=True):
    """Milliseconds over the last thousand; None before the first."""

    p50: float | None = None
    p99: float | None = None


class Latency(msgspec.Struct, kw_only=True):
    """From the API's answer to the committed row, and from the committed row to its vector."""

    poll_to_row: Percentiles = msgspec.field(default_factory=Percentiles)
    row_to_vector: Percentiles = msgspec.field(default_factory=Percentiles)


class Status(msgspec.Struct, kw_only=True):
    """The whole file. Times are UTC; what is unknown is null."""

    version: str
    pid: int
    role: Literal["all", "listen", "embed"]
    state: State = "starting"
    started_at: datetime
    updated_at: datetime
    uptime_seconds: float = 0.0
    bot: Bot = msgspec.field(default_factory=Bot)
    api: Api = msgspec.field(default_factory=Api)
    database: Database = msgspec.field(default_factory=Database)
    events: Events = msgspec.field(default_factory=Events)
    embedding: Embedding = msgspec.field(default_factory=Embedding)
    latency_ms: Latency = msgspec.field(default_factory=Latency)
    rss_bytes: int = 0


def new(version: str, role: Literal["all", "listen", "embed"]) -> Status:
    """The status of this process at its start."""
    now = datetime.now(UTC)
    return Status(version=version, pid=os.getpid(), role=role, started_at=now, updated_at=now)


def rss_bytes() -> int:
    """Resident memory of this process, from /proc/self/statm."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def write(status: Status, path: Path, *, group: int | None = None) -> None:
    """Replace the file by this status, mode 0640.

    Raises:
        CannotCreate: the directory does not take it; the old file is as it was.
    """
    now = datetime.now(UTC)
    status.updated_at = now
    status.uptime_seconds = round((now - status.started_at).total_seconds(), 3)
    status.rss_bytes = rss_bytes()
    content = msgspec.json.format(msgspec.json.encode(status), indent=1) + b"\n"
    try:
        # There is one writer, the holder of the PID file: what a kill -9 leaves behind, the next one takes away.
        files.atomic_write(path, content, 0o640, group=group)
    except OSError as error:
        raise CannotCreate(f"{path}: the status file cannot be written: {error.strerror}") from error


def read(path: Path) -> Status | None:
    """The status that stands in the file; None where there is no file.

    Raises:
        PermissionRefused: this user may not read it.
        VkTeamsError: it is not a status file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Status)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise PermissionRefused(
            f"{path}: this user may not read the status file", hint="Become root or join the group _vkteams."
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise VkTeamsError(f"{path}: is not a readable status file: {error}") from error
