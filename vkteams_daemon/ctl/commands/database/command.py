"""`vkteamsctl database`: the archive's tables, its numbers, and the repairs an administrator makes by hand."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.commands.database import export, maintenance, statistics_view
from vkteams_daemon.ctl.opening import opened
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.ctl.progress import Bar
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.store.admin.cursors import BotCursor


def register(nouns: Any, common: argparse.ArgumentParser) -> None:
    """Add the noun `database` with its verbs."""
    noun = nouns.add_parser("database", help="the archive's tables, numbers and repairs", parents=[common])
    verbs = noun.add_subparsers(dest="verb", metavar="VERB", title="verbs", required=True)

    def verb(name: str, line: str, example: str, func: Any) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=line, description=line, parents=[common], epilog=f"example:\n  {example}")
        made.set_defaults(func=func)
        return made  # type: ignore[no-any-return]

    verb("init", "make the archive's tables where there are none", "vkteamsctl database init", _migrate)
    verb("migrate", "bring the tables up to this version", "vkteamsctl database migrate", _migrate)
    stats = verb(
        "stats", "what the archive holds", "vkteamsctl database stats --since 7d --output json", statistics_view.answer
    )
    stats.add_argument("--chat-id", metavar="ID", help="count only this chat")
    stats.add_argument(
        "--since", metavar="TIME", type=argument_types.since, help="count only from then on: 2h, 7d, 2026-11-24"
    )
    export.options(
        verb(
            "export",
            "every message as JSON Lines or CSV",
            "vkteamsctl database export --format csv --file ops.csv --chat-id 681869378@chat.agent --since 30d",
            export.answer,
        )
    )
    quarantine = verb(
        "quarantine",
        "events that could not be read, and why; their bytes are kept",
        "vkteamsctl database quarantine --limit 5",
        _quarantine,
    )
    quarantine.add_argument("--limit", metavar="N", type=argument_types.positive, default=100, help="most events (100)")
    replay = verb(
        "replay",
        "derive messages anew from the stored events: those in quarantine, or all of them",
        "vkteamsctl database replay --all --yes",
        _replay,
    )
    replay.add_argument("--all", action="store_true", help="every stored event, not only the quarantined ones")
    replay.add_argument("--yes", action="store_true", help="do not ask: --all rewrites what is derived")
    maintenance.cleanup_options(
        verb(
            "cleanup",
            "erase what is older, for good: messages with their versions and vectors, and what events say",
            "vkteamsctl database cleanup --older-than 365d --dry-run",
            maintenance.cleanup,
        )
    )
    maintenance.maintenance_options(
        verb(
            "maintenance",
            "vacuum, analyse, rebuild indexes that have grown, delete what retired models left",
            "vkteamsctl database maintenance --check",
            maintenance.maintenance,
        )
    )
    cursor = verb(
        "cursor",
        "up to which event the archive has acknowledged; set it, or let ids start over",
        "vkteamsctl database cursor --restart --yes",
        _cursor,
    )
    cursor.add_argument("--bot", metavar="ID", help="which bot, where the archive has several")
    change = cursor.add_mutually_exclusive_group()
    change.add_argument("--set", metavar="EVENTID", type=_event_id, help="poll from this event id on")
    change.add_argument("--restart", action="store_true", help="the server has started its ids over: poll from 0 on")
    cursor.add_argument("--yes", action="store_true", help="do not ask: events in between are never fetched again")


def _migrate(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.schema import schema_history

    with opened(config, migrate=True) as database, database.connection() as connection:
        applied = schema_history(connection)
    version = applied[-1].version

    def render(screen: Screen) -> None:
        screen.line(f"the schema is version {version}", "green")
        screen.table(("version", "applied"), [(row.version, row.applied_at) for row in applied])

    return Answer({"version": version, "rows": applied}, render)


def _quarantine(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.admin import stored_events

    with opened(config) as database, database.connection() as connection:
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

    if args.all:
        _confirmed(args, "all messages, versions, chats, users and members will be derived anew from the stored events")
    run = replay.everything if args.all else replay.quarantined
    erase = config.storage.on_delete == "erase"
    with opened(config) as database, database.connect() as connection, Bar("replay", "events") as bar:
        done = run(connection, erase=erase, progress=bar)
    if args.all:
        lines = [
            f"{done.messages} messages changed; {done.queued} wait for a new vector",
            f"{done.erased} erased messages stay as they are" if done.erased else "",
        ]
    else:
        lines = [f"{done.readable} of {done.events} quarantined events could be read and are derived"]
    left = f"{done.unreadable} events cannot be read; see `vkteamsctl database quarantine`" if done.unreadable else ""

    def render(screen: Screen) -> None:
        for line in (*lines, left):
            if line:
                screen.line(line)

    return Answer(done, render)


def _cursor(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.admin import cursors

    with opened(config) as database:
        with database.connection() as connection:
            if args.set is None and not args.restart:
                return _show_cursors(cursors.list_cursors(connection))
            bot = cursors.find_cursor(connection, args.bot)
        if args.set is not None:
            if bot.highest_stored is None or args.set > bot.highest_stored:
                risk = (
                    f"nothing above {bot.highest_stored or 0} is stored, and what is up to {args.set} will never come"
                )
            else:
                risk = f"the bot has acknowledged up to {bot.last_event_id}; polling will go on after {args.set}"
            _confirmed(args, risk)
            return _show_cursors([cursors.set_cursor(database.connect, bot.bot_id, args.set)])
        _confirmed(args, f"generation {bot.generation + 1} will begin, and polling starts again from 0")
        return _show_cursors([cursors.restart_cursor(database.connect, bot.bot_id)])


def _show_cursors(cursors: list[BotCursor]) -> Answer:
    def render(screen: Screen) -> None:
        if not cursors:
            screen.line("the archive has no bot yet")
            return
        screen.table(
            ("bot", "nick", "generation", "last event id", "highest stored", "changed"),
            [(c.bot_id, c.nick, c.generation, c.last_event_id, c.highest_stored, c.updated_at) for c in cursors],
        )

    return Answer({"rows": cursors}, render, ids=[f"{c.bot_id} {c.last_event_id}" for c in cursors])


def _confirmed(args: argparse.Namespace, risk: str) -> None:
    if not args.yes:
        raise UsageError(f"not done: {risk}", hint="Add --yes if that is meant.")


def _event_id(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not an event id")
    return int(text)
