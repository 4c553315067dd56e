"""`vkteamsctl database cursor`: the cursor of each bot, shown or changed by hand."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_database
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.store.admin.cursors import BotCursor


def register(noun: Noun) -> None:
    """Add the verb cursor."""
    cursor = noun.verb(
        "cursor",
        "show the last acknowledged event of each bot; set it, or begin a new generation",
        _cursor,
        "vkteamsctl database cursor --restart --yes",
    )
    cursor.add_argument("--bot", metavar="ID", help="the bot, if the archive has several")
    change = cursor.add_mutually_exclusive_group()
    change.add_argument("--set", metavar="EVENTID", type=argument_types.event_id, help="poll from this event id on")
    change.add_argument("--restart", action="store_true", help="the server has restarted its ids: poll from 0 on")
    cursor.add_argument("--yes", action="store_true", help="confirm: events that are passed over never come again")


def _cursor(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store import connection_profiles
    from vkteams_daemon.store.admin import cursors

    with open_database(config, reads=args.set is None and not args.restart) as database:
        with database.connection() as connection:
            if args.set is None and not args.restart:
                return _answer(cursors.list_cursors(connection))
            bot = cursors.find_cursor(connection, args.bot)
        if not args.yes:
            raise UsageError(f"not done: {_risk(bot, args.set)}", hint="Add --yes to do it.")
        connect = functools.partial(database.connect, connection_profiles.WORKER)
        if args.set is not None:
            changed = cursors.set_cursor(connect, bot.bot_id, args.set, patience=database.patience)
        else:
            changed = cursors.restart_cursor(connect, bot.bot_id, patience=database.patience)
        return _answer([changed])


def _risk(bot: BotCursor, event_id: int | None) -> str:
    """What happens when the cursor is set to this event id, or with None when a new generation begins."""
    if event_id is None:
        return f"generation {bot.generation + 1} will begin, and polling will start again from 0"
    if bot.highest_stored is None or event_id > bot.highest_stored:
        return f"no event above {bot.highest_stored or 0} is stored, and the events up to {event_id} will never come"
    return f"the bot has acknowledged up to {bot.last_event_id}; polling will continue after {event_id}"


def _answer(cursors: list[BotCursor]) -> Answer:
    def render(screen: Screen) -> None:
        if not cursors:
            screen.line("the archive has no bot yet")
            return
        screen.table(
            ("bot", "nick", "generation", "last event id", "highest stored", "changed"),
            [(c.bot_id, c.nick, c.generation, c.last_event_id, c.highest_stored, c.updated_at) for c in cursors],
        )

    return Answer({"rows": cursors}, render, ids=[f"{c.bot_id} {c.last_event_id}" for c in cursors])
