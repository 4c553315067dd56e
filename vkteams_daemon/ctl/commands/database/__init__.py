"""`vkteamsctl database`: the archive's tables, its statistics, and the repairs that an administrator makes by hand."""

from __future__ import annotations

from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.database import (
    backup,
    cleanup,
    cursor,
    erase,
    export,
    gaps,
    hold,
    maintenance,
    quarantine,
    roster,
    schema,
    stats,
)


def register(noun: Noun) -> None:
    """Add every verb."""
    for verbs in (schema, stats, export, backup, quarantine, cleanup, erase, hold, roster, maintenance, cursor, gaps):
        verbs.register(noun)
