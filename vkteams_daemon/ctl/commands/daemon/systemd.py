"""Sends root to systemctl for a daemon that an installed systemd unit runs.

Two supervisors of one daemon would undo each other's work. Daemons of other users, and daemons with a configuration
or PID file of their own, are not concerned.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vkteams_daemon.errors import UsageError
from vkteams_daemon.options import SYSTEM_DIRECTORY

RUNTIME_DIRECTORY = Path("/run/systemd/system")  # exists while systemd runs, sd_booted(3)
UNIT_DIRECTORIES = (Path("/etc/systemd/system"), Path("/lib/systemd/system"), Path("/usr/lib/systemd/system"))


def refuse_start(args: argparse.Namespace, verb: str) -> None:
    """Refuse to start a daemon for which a systemd unit is installed.

    Raises:
        UsageError: its hint has the systemctl command.
    """
    instance = getattr(args, "instance", "")
    file, name = ("vkteamsd@.service", f"vkteamsd@{instance}") if instance else ("vkteamsd.service", "vkteamsd")
    installed = any((directory / file).exists() for directory in UNIT_DIRECTORIES)
    if installed and not args.foreground and _is_system_daemon(args):
        raise UsageError("systemd manages this daemon", hint=f"Use `systemctl {verb} {name}`.")


def refuse_stop(pid: int) -> None:
    """Refuse to stop a daemon that systemd has started and would start again.

    Raises:
        UsageError: its hint has the systemctl command.
    """
    try:
        group = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return
    for part in group.replace("\n", "/").split("/"):
        if part == "vkteamsd.service" or (part.startswith("vkteamsd@") and part.endswith(".service")):
            hint = f"Use `systemctl stop {part.removesuffix('.service')}`."
            raise UsageError("systemd manages this daemon", hint=hint)


def _is_system_daemon(args: argparse.Namespace) -> bool:
    """Whether root asks for the system's daemon on a machine that systemd runs."""
    file = getattr(args, "config", None) or os.environ.get("VKTEAMS_BOT_CONFIG")
    own = (file and Path(file).absolute().parent != SYSTEM_DIRECTORY) or getattr(args, "pid_file", None)
    return os.geteuid() == 0 and RUNTIME_DIRECTORY.is_dir() and not own
