"""`vkteamsctl database quarantine` and `replay`: the events that could not be read, and reading stored events again."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.ctl.progress import Bar
from vkteams_daemon.errors import UsageError


def register(noun: Noun) -> None:
    """Add the verbs quarantine and replay."""
    quarantine = noun.verb(
        "quarantine",
        "list the events that could not be read, with the reason; their bytes are kept",
        _quarantine,
        "vkteamsctl database quarantine --limit 5",
    )
    quarantine.add_argument("--limit", metavar="N", type=argument_types.positive, default=100, help="most events (100)")
    replay = noun.verb(
        "replay",
        "derive messages again from stored events: from those in quarantine, or from all",
        _replay,
        "vkteamsctl database replay --all --yes",
    )
    replay.add_argument("--all", action="store_true", help="all stored events, not only those in quarantine")
    replay.add_argument("--yes", action="store_true", help="confirm --all, which rewrites all derived rows")


def _quarantine(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.admin import stored_events

    with open_connection(config, reads=True) as connection:
        rows = stored_events.quarantined_events(connection, limit=args.limit)
        total = stored_events.count_quarantined(connection)

    def render(screen: Screen) -> None:
        if rows:
            screen.table(
                ("bot", "event", "type", "chat", "received", "why"),
                [(e.bot_id, e.event_id, e.type, e.chat_id, e.received_at, e.error) for e in rows],
                free=("why",),
            )
        screen.line(f"{total} in quarantine" if total else "nothing is in quarantine")

    return Answer({"rows": rows, "total": total}, render, ids=[f"{e.bot_id} {e.event_id}" for e in rows])


def _replay(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.rebuild import replay

    if args.all and not args.yes:
        raise UsageError(
            "not done: all messages, versions, chats, users and members will be derived again from the stored events",
            hint="Add --yes to do it.",
        )
    run = replay.everything if args.all else replay.quarantined
    erase = config.storage.on_delete == "erase"
    with open_connection(config) as connection, Bar("replay", "events") as bar:
        done = run(connection, erase=erase, progress=bar)
    if args.all:
        lines = [f"{done.messages} messages changed, {done.queued} messages wait for a new vector"]
        if done.erased:
            lines.append(f"{done.erased} erased messages stay as they are")
    else:
        lines = [f"{done.readable} of {done.events} quarantined events were read and derived"]
    if done.unreadable:
        lines.append(f"{done.unreadable} events cannot be read; see `vkteamsctl database quarantine`")

    def render(screen: Screen) -> None:
        for line in lines:
            screen.line(line)

    return Answer(done, render)
