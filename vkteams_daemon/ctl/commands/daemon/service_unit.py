"""Where systemd looks after the installed daemon, root is sent there: two keepers of one daemon undo each other."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from vkteams_daemon.errors import UsageError
from vkteams_daemon.options import SYSTEM_DIRECTORY

SYSTEMD = Path("/run/systemd/system")  # there while systemd runs, sd_booted(3)
PLACES = (Path("/etc/systemd/system"), Path("/lib/systemd/system"), Path("/usr/lib/systemd/system"))


def refuse_start(args: argparse.Namespace, verb: str) -> None:
    """Refuse to start what an installed unit is there to start. Users' own daemons, and other files, are not meant.

    Raises:
        UsageError: with the command that does it.
    """
    instance = getattr(args, "instance", "")
    file, name = ("vkteamsd@.service", f"vkteamsd@{instance}") if instance else ("vkteamsd.service", "vkteamsd")
    if args.foreground or not _the_systems(args) or not any((place / file).exists() for place in PLACES):
        return
    raise UsageError("systemd looks after this daemon", hint=f"Use `systemctl {verb} {name}`.")


def refuse_stop(pid: int) -> None:
    """Refuse to stop a daemon that systemd started, and would start again.

    Raises:
        UsageError: with the command that does it.
    """
    try:
        group = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    except OSError:
        return
    for part in group.replace("\n", "/").split("/"):
        if part == "vkteamsd.service" or (part.startswith("vkteamsd@") and part.endswith(".service")):
            hint = f"Use `systemctl stop {part.removesuffix('.service')}`."
            raise UsageError("systemd looks after this daemon", hint=hint)


def _the_systems(args: argparse.Namespace) -> bool:
    named = getattr(args, "config", None) or os.environ.get("VKTEAMS_BOT_CONFIG")
    own = (named and Path(named).absolute().parent != SYSTEM_DIRECTORY) or getattr(args, "pid_file", None)
    return os.geteuid() == 0 and SYSTEMD.is_dir() and not own
