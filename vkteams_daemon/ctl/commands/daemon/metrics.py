"""`vkteamsctl daemon metrics`: the status file as Prometheus metrics, for a collector that reads files."""

from __future__ import annotations

import argparse
from pathlib import Path

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.daemon.status import read_daemon_health
from vkteams_daemon.ctl.commands.daemon.target import add_role
from vkteams_daemon.ctl.output import Answer
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.system import files

_MODE = 0o644  # the collector runs as a user of its own, and metrics hold no secret


def register(noun: Noun) -> None:
    """Add the verb metrics, which needs no readable configuration."""
    verb = noun.verb(
        "metrics",
        "the metrics of vkteamsd, for the node exporter's textfile collector",
        _metrics,
        "vkteamsctl daemon metrics --file /var/lib/prometheus/node-exporter/vkteams.prom",
        needs_config=False,
    )
    verb.add_argument("--file", metavar="FILE", help="replace this file as a whole instead of printing")
    add_role(verb)


def _metrics(args: argparse.Namespace, _: Config) -> Answer:
    from prometheus_client import CollectorRegistry, generate_latest

    from vkteams_daemon.daemon.metrics.families import StatusCollector

    health = read_daemon_health(args)
    if health.state == "unknown":
        return Answer(
            {"status": health.state}, None, health.exit_code, f"the daemon's state is unknown: {health.error}"
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(lambda: health.status, running=health.alive))
    text = generate_latest(registry)
    if not args.file:
        return Answer({"metrics": text.decode()}, lambda screen: screen.line(text.decode().rstrip()))
    path = Path(args.file)
    try:
        files.atomic_write(path, text, _MODE)
    except OSError as error:
        raise CannotCreate(f"{path}: cannot be written: {error.strerror}") from error
    return Answer({"file": str(path)})
