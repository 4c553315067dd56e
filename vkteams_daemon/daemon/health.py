"""How the daemon is, seen from outside: by the lock on its PID file and the age of its status file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from vkteams_daemon.config import Config
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.daemon.process.holder import Holder, find_holder, read_pid
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.errors import VkTeamsError

State = Literal["running", "standby", "starting", "degraded", "stopping", "stale", "dead", "not running", "unknown"]

# The exit codes of an init script's `status` (Linux Standard Base, init script actions); every other state is 0.
EXIT_CODES: dict[State, int] = {"dead": 1, "not running": 3, "stale": 4, "unknown": 4}

# A status file is written every interval; a disk that is slow to sync, or a machine at its limit, may take its time.
MISSED_WRITES = 3
GRACE = 15.0  # seconds
_SETTLING = 0.1  # seconds in which a file without a lock may still turn out to be a daemon coming or going


@dataclass(frozen=True, slots=True)
class DaemonHealth:
    """What can be said about a daemon.

    Attributes:
        state: one word, or two.
        pid: the process that holds the lock; None where there is none or it cannot be seen from here.
        status: its status file, or the last one of a daemon that is gone; None where there is none to read.
        age: seconds since that file was written.
        error: why nothing more is known, where something is in the way.
    """

    state: State
    pid: int | None
    status: Status | None
    age: float | None
    error: str | None = None

    @property
    def exit_code(self) -> int:
        """As an init script's `status`: 0 it runs, 1 dead with a PID file, 3 not running, 4 unknown."""
        return EXIT_CODES.get(self.state, 0)

    @property
    def alive(self) -> bool:
        """Whether a daemon holds the lock."""
        return self.state not in ("dead", "not running", "unknown")

    @property
    def uptime(self) -> float | None:
        """Seconds since the daemon started; None where none runs."""
        if not self.alive or self.status is None:
            return None
        return round(max(0.0, (datetime.now(UTC) - self.status.started_at).total_seconds()), 3)

    @property
    def events_processed(self) -> int | None:
        """Events that the daemon has dealt with since it started: stored, known already, or filtered out."""
        counts = self.status.events if self.status else None
        return counts.saved + counts.duplicate + counts.filtered if counts else None

    @property
    def last_activity(self) -> datetime | None:
        """When the API last answered, or an event last came."""
        if self.status is None:
            return None
        moments = [self.status.api.last_poll_at, self.status.events.last_event_at]
        return max((moment for moment in moments if moment), default=None)

    def summary(self) -> dict[str, Any]:
        """The part of it that `diagnostic health` and `daemon status` share."""
        return {
            "status": self.state,
            "uptime": self.uptime,
            "events_processed": self.events_processed,
            "last_activity": self.last_activity,
        }


def probe(config: Config) -> DaemonHealth:
    """How the daemon is that this configuration describes; never raises, never takes a lock."""
    try:
        found = find_holder(config.pid_file)
        left_behind = found is None and config.pid_file.exists()
        if left_behind:
            time.sleep(_SETTLING)
            found = find_holder(config.pid_file)
            left_behind = found is None and config.pid_file.exists()
    except (VkTeamsError, OSError) as error:
        return DaemonHealth("unknown", None, None, None, str(error))
    pid = found.pid if found else None
    try:
        status = status_file.read(config.status_file)
    except VkTeamsError as error:
        # Without the file, nothing is known about a daemon that is there; that there is none, the lock has said.
        state: State = "unknown" if found else "dead" if left_behind else "not running"
        return DaemonHealth(state, pid, None, None, str(error) if found else None)
    age = (datetime.now(UTC) - status.updated_at).total_seconds() if status else None
    if found is None:
        return DaemonHealth("dead" if left_behind else "not running", None, status, age)
    return _running(config, found, status, age)


def _running(config: Config, found: Holder, status: Status | None, age: float | None) -> DaemonHealth:
    limit = MISSED_WRITES * config.daemon.status_interval + GRACE
    # The number in the file is the daemon's own idea of itself, like the one in its status; the lock's may be another
    # PID namespace's.
    if status is None or age is None or status.pid != read_pid(config.pid_file):
        # It has its lock and has not written its file yet; that takes a moment, not minutes.
        try:
            waiting = time.time() - config.pid_file.lstat().st_mtime
        except OSError:
            waiting = 0.0
        return DaemonHealth("stale" if waiting > limit else "starting", found.pid, None, None)
    if age > limit:
        return DaemonHealth("stale", found.pid, status, age)
    states: dict[str, State] = {"listening": "running", "embedding": "running"}
    return DaemonHealth(states.get(status.state, status.state), found.pid, status, age)  # type: ignore[arg-type]
