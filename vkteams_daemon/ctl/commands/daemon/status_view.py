"""How the daemon is, as `vkteamsctl daemon status`, `stats` and `top` show it to people and programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vkteams_daemon.ctl.output import Answer, Screen, cell, plain, size
from vkteams_daemon.daemon.health import DaemonHealth

if TYPE_CHECKING:
    from vkteams_daemon.daemon.status import Status

_STYLES = {"running": "green", "standby": "green", "starting": "yellow", "stopping": "yellow", "degraded": "yellow"}


def style(word: str) -> str:
    """The colour of a condition's word."""
    return _STYLES.get(word, "red")


def shown(condition: DaemonHealth, *, full: bool) -> Answer:
    """The answer that says how it is: with `full` the whole status file, otherwise what matters of it."""
    sentence = f"vkteamsd: {condition.state}" + (f": {condition.error}" if condition.error else "")
    data = {**condition.summary(), "pid": condition.pid, "age": condition.age, "file": condition.status}

    def render(screen: Screen) -> None:
        screen.line(f"vkteamsd is {condition.state}", style(condition.state))
        if condition.error:
            screen.line(condition.error)
        if condition.status is not None and full:
            screen.pairs(_all_pairs(condition.status))
        elif condition.status is not None and condition.alive:
            screen.pairs(_pairs(condition, condition.status))

    return Answer(data, render, condition.exit_code, sentence if condition.exit_code else None)


def _pairs(condition: DaemonHealth, status: Status) -> list[tuple[str, Any]]:
    events, embedding, api, database = status.events, status.embedding, status.api, status.database
    return [
        ("process", condition.pid),
        ("version", status.version),
        ("uptime", _duration(condition.uptime)),
        ("role", status.role),
        ("bot", f"{status.bot.nick or '-'} ({status.bot.id})" if status.bot.id else None),
        ("api", f"{cell(api.state)}{f', {api.last_error}' if api.last_error else ''}"),
        ("database", f"{cell(database.state)}{f', {database.last_error}' if database.last_error else ''}"),
        ("events", f"{events.saved} saved, {events.received} received, {events.per_second:g} a second"),
        ("last event", events.last_event_at),
        ("embedding", f"{embedding.state}, {cell(embedding.model)}, {cell(embedding.queued)} queued"),
        ("memory", size(status.rss_bytes)),
    ]


def _all_pairs(status: Status) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            rows.append((prefix, value))

    walk("", plain(status))
    return rows


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest, "s")]
    shown = [f"{value}{unit}" for value, unit in parts if value]
    return " ".join(shown[:2]) or "0s"
