"""The probes /livez and /readyz: whether the daemon lives, and whether it does its work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vkteams_daemon.daemon.status import Status

_READY = ("listening", "standby", "embedding")


@dataclass(frozen=True, slots=True)
class Probe:
    """The answer of a probe.

    Attributes:
        passed: answered as 200; otherwise as 503.
        state: the daemon's.
        reasons: why it has not passed, one sentence each.
        checks: the state of each part that was looked at.
    """

    passed: bool
    state: str
    reasons: Sequence[str] = ()
    checks: dict[str, str | None] = field(default_factory=dict)


def live(status: Status, *, alive: bool) -> Probe:
    """Whether the vital loops go on. A service that has not passed for minutes should be started again."""
    return Probe(alive, status.state, () if alive else status.warnings or ("a loop does not go on",))


def ready(status: Status) -> Probe:
    """Whether the daemon archives or embeds, or waits as a standby for another one that archives."""
    checks: dict[str, str | None] = {"database": status.database.state}
    if status.role != "embed":
        lock = {"listening": "held", "standby": "held by another process"}.get(status.state)
        checks |= {"lock": lock, "api": status.api.state, "spool": "in use" if status.spool.events else "empty"}
    checks["embedding"] = status.embedding.state
    passed = status.state in _READY
    return Probe(passed, status.state, () if passed else _reasons(status), checks)


def _reasons(status: Status) -> list[str]:
    errors = (status.api.last_error, status.database.last_error, status.spool.last_error)
    reasons = [error for error in errors if error] + status.warnings
    return reasons or [f"the daemon is {status.state}"]
