"""The status file: the daemon's state and counters as one JSON document, which is always replaced as a whole.

This module imports nothing heavy, because `vkteamsctl daemon status` must be quick.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from vkteams_daemon import plain_file
from vkteams_daemon.errors import CannotCreate, PermissionRefused, VkTeamsError
from vkteams_daemon.options import READERS_GROUP
from vkteams_daemon.system import files

State = Literal["starting", "listening", "standby", "embedding", "degraded", "stopping"]
ApiState = Literal["ok", "backoff", "unauthorized"]
EmbeddingState = Literal["ok", "off", "failing"]
RetentionState = Literal["ok", "refused", "failing"]
# The sentences of `read_backlog`; `{name}` stands for a value.
SPOOLED_ONE = "1 event waits in the daemon's spool{since} and cannot be found yet"
SPOOLED = "{number} events wait in the daemon's spool{since} and cannot be found yet"
DATABASE_DOWN = "the daemon cannot reach its database, so the newest messages may be missing"
Step = Literal["poll", "event_to_row", "row_to_vector"]  # a step whose duration is counted


class Bot(msgspec.Struct, kw_only=True):
    """The bot that the token belongs to; None until self/get has answered."""

    id: str | None = None
    nick: str | None = None


class Api(msgspec.Struct, kw_only=True):
    """The long poll; `waits_until` is the time of the next attempt after a failure."""

    state: ApiState | None = None
    last_poll_at: datetime | None = None
    last_error: str | None = None
    consecutive_failures: int = 0
    waits_until: datetime | None = None


class Database(msgspec.Struct, kw_only=True):
    """The writer's connection; `blocked_by` names sessions that hold a lock for long and cannot be ended."""

    state: Literal["ok", "down"] | None = None
    last_error: str | None = None
    blocked_by: str | None = None


class Events(msgspec.Struct, kw_only=True):
    """Events since this process started. `failed` counts the pending batch; `per_second` is over the last minute."""

    received: int = 0
    saved: int = 0
    duplicate: int = 0
    filtered: int = 0
    quarantined: int = 0
    failed: int = 0
    last_event_id: int | None = None
    last_event_at: datetime | None = None
    per_second: float = 0.0


class Spool(msgspec.Struct, kw_only=True):
    """Events that are acknowledged and wait for the database in the spool's file."""

    events: int = 0
    bytes: int = 0
    since: datetime | None = None
    last_error: str | None = None

    @property
    def backlog(self) -> str | None:
        """One sentence on what the archive does not have yet; None if nothing waits."""
        if not self.events:
            return None
        since = f" since {self.since:%Y-%m-%d %H:%M} UTC" if self.since else ""
        return SPOOLED_ONE.format(since=since) if self.events == 1 else SPOOLED.format(number=self.events, since=since)


class EmbeddingModel(msgspec.Struct, kw_only=True):
    """One of the models that the workers embed for."""

    name: str
    state: Literal["ok", "failing"] = "ok"
    queued: int | None = None
    embedded: int = 0
    failed: int = 0
    texts_per_second: float = 0.0
    last_error: str | None = None


class Embedding(msgspec.Struct, kw_only=True):
    """The embedding workers, over all models; `queued` is the queues' length at their last count."""

    models: list[EmbeddingModel] = msgspec.field(default_factory=list)
    state: EmbeddingState = "off"
    queued: int | None = None
    embedded: int = 0
    failed: int = 0
    texts_per_second: float = 0.0
    last_error: str | None = None


class Retention(msgspec.Struct, kw_only=True):
    """The erasure by age; `state` is None before the first one, and without `[storage] retention`."""

    state: RetentionState | None = None
    last_error: str | None = None
    last_run_at: datetime | None = None
    next_run_at: datetime | None = None


class Archive(msgspec.Struct, kw_only=True):
    """The archive as it was at `measured_at`; the daemon measures it once a minute.

    `bytes` is the size of the database, `free_bytes` the free space below the state directory. `queued_since` is when
    the oldest message began to wait for its vector. `gaps` counts those that nobody has dismissed.
    """

    measured_at: datetime | None = None
    bytes: int | None = None
    free_bytes: int | None = None
    quarantined: int | None = None
    gaps: int | None = None
    queued_since: datetime | None = None


class Percentiles(msgspec.Struct, kw_only=True):
    """Milliseconds, over the last thousand measurements; None before the first."""

    p50: float | None = None
    p99: float | None = None


class Latency(msgspec.Struct, kw_only=True):
    """The time from the API's answer to the committed row, and from the committed row to its vector."""

    poll_to_row: Percentiles = msgspec.field(default_factory=Percentiles)
    row_to_vector: Percentiles = msgspec.field(default_factory=Percentiles)


class Status(msgspec.Struct, kw_only=True):
    """The whole file. Times are UTC; an unknown value is null. `warnings` are sentences (see daemon/watch.py)."""

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
    spool: Spool = msgspec.field(default_factory=Spool)
    embedding: Embedding = msgspec.field(default_factory=Embedding)
    retention: Retention = msgspec.field(default_factory=Retention)
    archive: Archive = msgspec.field(default_factory=Archive)
    latency_ms: Latency = msgspec.field(default_factory=Latency)
    rss_bytes: int = 0
    warnings: list[str] = msgspec.field(default_factory=list)


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
        CannotCreate: the file cannot be written; the old file stays as it was.
    """
    now = datetime.now(UTC)
    status.updated_at = now
    status.uptime_seconds = round((now - status.started_at).total_seconds(), 3)
    status.rss_bytes = rss_bytes()
    content = msgspec.json.format(msgspec.json.encode(status), indent=1) + b"\n"
    try:
        # Only the holder of the PID file writes here, so the next writer removes a temporary file that a kill -9 left.
        files.atomic_write(path, content, 0o640, group=group)
    except OSError as error:
        raise CannotCreate(f"{path}: the status file cannot be written: {error.strerror}") from error


def read_backlog(path: Path, *, restricted: bool = False) -> str | None:
    """One sentence on what the daemon of this status file has received and the archive does not have yet, or None.

    Args:
        path: the status file; one that is missing or unreadable says nothing.
        restricted: for a client that may not see everything. What waits is then neither counted nor dated, because that
            would depend on chats that the client may not see.
    """
    try:
        status = read(path)
    except VkTeamsError:
        return None
    if status is None:
        return None
    if not restricted:
        return status.spool.backlog
    down = status.database.state == "down"
    return DATABASE_DOWN if down else None


def read(path: Path) -> Status | None:
    """The status in the file; None if there is no file.

    Raises:
        PermissionRefused: this user may not read it.
        VkTeamsError: the file cannot be read, or is not a status file.
    """
    try:
        return msgspec.json.decode(plain_file.read(path), type=Status)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise PermissionRefused(
            f"{path}: this user may not read the status file", hint=f"Become root or join the group {READERS_GROUP}."
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VkTeamsError(f"{path}: is not a readable status file: {reason}") from error
