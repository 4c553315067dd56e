"""The daemon's health, seen from outside: from the lock on its PID file and the age of its status file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from vkteams_daemon.config import Config
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.daemon.process.pidfile_holder import PidFileHolder, doubt, find_holder, read_pid
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.errors import PermissionRefused, VkTeamsError

State = Literal["running", "standby", "starting", "degraded", "stopping", "stale", "dead", "not running", "unknown"]

# The exit codes of an init script's `status` (Linux Standard Base, init script actions); every other state is 0.
EXIT_CODES: dict[State, int] = {"dead": 1, "not running": 3, "stale": 4, "unknown": 4}

# A status file is stale after so many missed writes, and GRACE: a slow disk or a busy machine may delay a write.
MISSED_WRITES = 3
GRACE = 15.0  # seconds
_SETTLE_TIME = 0.1  # seconds; a PID file without a lock may belong to a daemon that is just starting or ending


@dataclass(frozen=True, slots=True)
class DaemonHealth:
    """The health of a daemon.

    Attributes:
        state: as `vkteamsctl daemon status` prints it.
        pid: the process that holds the lock; None if there is none, or it is in another PID namespace.
        status: the status file, which an ended daemon leaves behind; None if it is missing or from another process.
        age: seconds since that file was written.
        error: why the state is unknown, or None.
    """

    state: State
    pid: int | None
    status: Status | None
    age: float | None
    error: str | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of an init script's `status`: 0 running, 1 dead with a PID file, 3 not running, 4 unknown."""
        return EXIT_CODES.get(self.state, 0)

    @property
    def alive(self) -> bool:
        """Whether a daemon holds the lock."""
        return self.state not in ("dead", "not running", "unknown")

    @property
    def uptime(self) -> float | None:
        """Seconds since the daemon started; None if none runs."""
        if not self.alive or self.status is None:
            return None
        return round(max(0.0, (datetime.now(UTC) - self.status.started_at).total_seconds()), 3)

    @property
    def events_processed(self) -> int | None:
        """Events that the daemon has processed since it started: saved, duplicate or filtered."""
        counts = self.status.events if self.status else None
        return counts.saved + counts.duplicate + counts.filtered if counts else None

    @property
    def last_activity(self) -> datetime | None:
        """The later of the API's last answer and the last event."""
        if self.status is None:
            return None
        times = [self.status.api.last_poll_at, self.status.events.last_event_at]
        return max((time for time in times if time), default=None)

    def summary(self) -> dict[str, Any]:
        """The fields that `diagnostic health` and `daemon status` share."""
        return {
            "status": self.state,
            "uptime": self.uptime,
            "events_processed": self.events_processed,
            "last_activity": self.last_activity,
        }


def read_health(config: Config) -> DaemonHealth:
    """The health of the daemon that this configuration describes; never raises, never takes a lock."""
    try:
        holder, file_exists = _find_holder(config)
        if holder is None and file_exists:
            time.sleep(_SETTLE_TIME)
            holder, file_exists = _find_holder(config)
        reason = _doubt(config, holder)
    except (VkTeamsError, OSError) as error:
        return DaemonHealth("unknown", None, None, None, str(error))
    stopped: State = "dead" if file_exists else "not running"
    try:
        status = status_file.read(config.status_file)
    except VkTeamsError as error:
        if holder is None:
            return DaemonHealth(stopped, None, None, None)
        # The lock says that a daemon runs, and only the file could say how it is.
        return DaemonHealth("unknown", holder.pid, None, None, str(error))
    age = (datetime.now(UTC) - status.updated_at).total_seconds() if status else None
    if holder is None:
        return DaemonHealth(stopped, None, status, age)
    if reason is not None:
        sentence = f"process {holder.pid} holds {config.pid_file} and is not proven to be vkteamsd: {reason}"
        return DaemonHealth("unknown", None, None, None, sentence)
    return _running(config, holder, status, age)


def _find_holder(config: Config) -> tuple[PidFileHolder | None, bool]:
    """The holder of the PID file, and whether the file exists."""
    holder = find_holder(config.pid_file)
    return holder, holder is not None or config.pid_file.exists()


def _doubt(config: Config, holder: PidFileHolder | None) -> str | None:
    """Why the holder is not proven to be vkteamsd; None if it is, or this user cannot see it."""
    if holder is None or holder.pid is None:
        return None
    try:
        reason = doubt(config.pid_file, holder.pid)
    except PermissionRefused:
        return None
    # It may have ended since, or another may have taken its place.
    return reason if reason and find_holder(config.pid_file) == holder else None


def _running(config: Config, holder: PidFileHolder, status: Status | None, age: float | None) -> DaemonHealth:
    max_age = MISSED_WRITES * config.daemon.status_interval + GRACE
    # Compare the two numbers that the daemon itself has written. The holder's number may be from another PID namespace.
    if status is None or age is None or status.pid != read_pid(config.pid_file):
        # The daemon has its lock and has not written its status file yet. That takes moments, not minutes.
        try:
            lock_age = time.time() - config.pid_file.lstat().st_mtime
        except OSError:
            lock_age = 0.0
        return DaemonHealth("stale" if lock_age > max_age else "starting", holder.pid, None, None)
    if age > max_age:
        return DaemonHealth("stale", holder.pid, status, age)
    states: dict[str, State] = {"listening": "running", "embedding": "running"}
    return DaemonHealth(states.get(status.state, status.state), holder.pid, status, age)  # type: ignore[arg-type]
