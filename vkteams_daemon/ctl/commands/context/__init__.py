"""`vkteamsctl context`: conversations with their threads, one message with its thread, and the chats and people."""

from __future__ import annotations

from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.context import directory, get, message


def register(noun: Noun) -> None:
    """Add the verbs get, message, chats and users."""
    for verbs in (get, message, directory):
        verbs.register(noun)
