"""`vkteamsctl daemon status` and `stats`: the health of the daemon, and its status file."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import time
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.daemon.signals import send_signal
from vkteams_daemon.ctl.commands.daemon.target import add_role, configuration_or_pid_file
from vkteams_daemon.ctl.output import Answer, Screen, cell, figure, plain, size
from vkteams_daemon.daemon.health import DaemonHealth, read_health
from vkteams_daemon.errors import ConfigError, NotRunning, PermissionRefused

if TYPE_CHECKING:
    from vkteams_daemon.daemon.status import Status

DEGRADED = 2  # the exit code of `daemon status --check` for a daemon that runs and does not do all of its work
STATS_TIMEOUT = 10.0  # seconds in which a daemon must write its status file on request
_STYLES = {"running": "green", "standby": "green", "starting": "yellow", "stopping": "yellow", "degraded": "yellow"}


def register(noun: Noun) -> None:
    """Add the verbs status and stats, which need no readable configuration."""
    status = noun.verb(
        "status",
        "whether vkteamsd runs: exit code 0 running, 1 dead, 3 not running, 4 unknown",
        _status,
        "vkteamsctl --output json daemon status",
        needs_config=False,
    )
    status.add_argument("--check", action="store_true", help="exit with 2 while vkteamsd is degraded or warns")
    stats = noun.verb(
        "stats",
        "let vkteamsd write its status file now, and show all of it",
        _stats,
        "vkteamsctl daemon stats",
        needs_config=False,
    )
    for verb in (status, stats):
        add_role(verb)


def read_daemon_health(args: argparse.Namespace) -> DaemonHealth:
    """The health of the daemon. If the configuration is wrong or unreadable, the health says so."""
    try:
        config, error = configuration_or_pid_file(args)
    except (ConfigError, PermissionRefused) as refusal:
        return DaemonHealth("unknown", None, None, None, f"{refusal}. {refusal.hint}")
    health = read_health(config)
    if error is None:
        return health
    if health.alive and (health.status is None or health.state == "stale"):
        # Only the configuration could have said where the status file is and how old it may be.
        return DaemonHealth("unknown", None, None, None, str(error))
    return dataclasses.replace(health, error=health.error or str(error))


def style(state: str) -> str:
    """The colour of a state."""
    return _STYLES.get(state, "red")


def _status(args: argparse.Namespace, _: Config) -> Answer:
    health = read_daemon_health(args)
    answer = _answer(health, full=False)
    if not args.check or answer.exit_code:
        return answer
    reason = _reason_to_look(health)
    return dataclasses.replace(answer, exit_code=DEGRADED, error=f"vkteamsd: {reason}") if reason else answer


def _reason_to_look(health: DaemonHealth) -> str | None:
    """Why an administrator should look at a daemon that runs; None if all is well."""
    status = health.status
    if health.state == "degraded" and status:
        errors = (status.api.last_error, status.database.last_error, status.spool.last_error)
        return f"degraded: {next((error for error in errors if error), 'no reason is known')}"
    return status.warnings[0] if status and status.warnings else None


def _stats(args: argparse.Namespace, _: Config) -> Answer:
    health = read_daemon_health(args)
    if not health.alive:
        return _answer(health, full=True)
    config, _error = configuration_or_pid_file(args)
    before = health.status.updated_at if health.status else None
    pid = send_signal(config, signal.SIGUSR1)
    deadline = time.monotonic() + STATS_TIMEOUT
    while time.monotonic() < deadline:
        health = read_health(config)
        if not health.alive or (health.status and (before is None or health.status.updated_at > before)):
            return _answer(health, full=True)
        time.sleep(0.02)
    raise NotRunning(
        f"process {pid} has not written {config.status_file} within {STATS_TIMEOUT:g} s",
        hint="Check whether the process is stopped or stuck.",
    )


def _answer(health: DaemonHealth, *, full: bool) -> Answer:
    """The health, with the whole status file if `full`, otherwise with the main part of it."""
    sentence = f"vkteamsd: {health.state}" + (f": {health.error}" if health.error else "")
    data = {**health.summary(), "pid": health.pid, "age": health.age, "file": health.status}

    def render(screen: Screen) -> None:
        screen.line(f"vkteamsd is {health.state}", style(health.state))
        if health.error:
            screen.line(health.error)
        if health.status is not None and full:
            screen.pairs(_all_pairs(health.status))
        elif health.status is not None and health.alive:
            screen.pairs(_main_pairs(health, health.status))

    return Answer(data, render, health.exit_code, sentence if health.exit_code else None)


def _main_pairs(health: DaemonHealth, status: Status) -> list[tuple[str, Any]]:
    events, embedding, api, database = status.events, status.embedding, status.api, status.database
    models = " + ".join(model.name for model in embedding.models)
    spool = status.spool
    spooled = f"{spool.events} events, {size(spool.bytes)}, since {cell(spool.since)}" if spool.events else "empty"
    return [
        ("process", health.pid),
        ("version", status.version),
        ("uptime", _duration(health.uptime)),
        ("role", status.role),
        ("bot", f"{status.bot.nick or '-'} ({status.bot.id})" if status.bot.id else None),
        ("api", f"{cell(api.state)}{f', {api.last_error}' if api.last_error else ''}"),
        *([("next request", api.waits_until)] if api.waits_until else []),
        ("database", f"{cell(database.state)}{f', {database.last_error}' if database.last_error else ''}"),
        *([("waits for a lock of", database.blocked_by)] if database.blocked_by else []),
        ("events", f"{events.saved} saved, {events.received} received, {figure(events.per_second)} a second"),
        ("last event", events.last_event_at),
        ("spool", f"{spooled}{f', {spool.last_error}' if spool.last_error else ''}"),
        ("embedding", f"{embedding.state}, {models or 'no model'}, {cell(embedding.queued)} queued"),
        ("memory", size(status.rss_bytes)),
        *(("warning", warning) for warning in status.warnings),
    ]


def _all_pairs(status: Status) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            pairs.append((prefix, value))

    walk("", plain(status))
    return pairs


def _duration(seconds: float | None) -> str | None:
    """The two largest units: `3d 4h`."""
    if seconds is None:
        return None
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{value}{unit}" for value, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")) if value]
    return " ".join(parts[:2]) or "0s"
