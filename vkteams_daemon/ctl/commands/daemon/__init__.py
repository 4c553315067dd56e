"""`vkteamsctl daemon`: start, stop and watch vkteamsd."""

from __future__ import annotations

from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.daemon import control, metrics, status, top


def register(noun: Noun) -> None:
    """Add the verbs start, stop, restart, reload, status, stats, metrics and top."""
    for verbs in (control, status, metrics, top):
        verbs.register(noun)
