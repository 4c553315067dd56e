"""`vkteamsctl database cleanup` and `maintenance`: what keeps a database small and quick that runs for years."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.opening import opened
from vkteams_daemon.ctl.output import Answer, Screen, cell, size
from vkteams_daemon.ctl.progress import Bar
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.store.admin.maintenance import MaintenancePlan

_COLLATION = (
    "the system sorts text otherwise than when the indexes were built: let the database's owner run REINDEX DATABASE"
    " and ALTER DATABASE … REFRESH COLLATION VERSION"
)


def cleanup_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of cleanup."""
    verb.add_argument("--older-than", metavar="AGE", type=argument_types.age, required=True, help="such as 365d or 52w")
    verb.add_argument(
        "--chat-id", metavar="ID", action="append", help="only this chat and its threads; may be repeated"
    )
    verb.add_argument("--dry-run", action="store_true", help="only count what would be erased")
    verb.add_argument("--yes", action="store_true", help="do not ask: what is erased is gone")


def cleanup(args: argparse.Namespace, config: Config) -> Answer:
    """Erase what is older, or count it."""
    from vkteams_daemon.search.scope import existing
    from vkteams_daemon.store.rebuild import erasure

    before = datetime.now(UTC) - args.older_than
    with opened(config) as database, database.connect() as connection:
        chats = existing(connection, args.chat_id, threads=True) if args.chat_id else None
        found = erasure.count_expired(connection, before, chats)
        # Of the events that arrived before then some may be these messages' own: both are said, they do not add up.
        there = (
            f"{found.messages} messages with {found.versions} earlier texts, {found.vectors} vectors and what their"
            f" events say, and what {found.events} events say that arrived before then"
        )
        if args.dry_run:
            data = {"before": before, "dry_run": True, "found": found}
            said = f"what is from before {cell(before)} would be erased: {there}"
            return Answer(data, lambda screen: screen.line(said))
        if not args.yes:
            raise UsageError(
                f"not done: what is from before {cell(before)} would be erased for good: {there}", hint="Add --yes."
            )
        with Bar("cleanup", "messages and events") as bar:
            done = erasure.erase(connection, before, chats, progress=bar)

    def render(screen: Screen) -> None:
        screen.line(
            f"{done.messages} messages from before {cell(before)} are erased, with what their events said;"
            f" {done.events} further events emptied"
        )
        screen.line("`vkteamsctl database maintenance` gives their room back", "dim")

    return Answer({"before": before, "dry_run": False, "found": found, "done": done}, render)


def maintenance_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of maintenance."""
    verb.add_argument("--check", action="store_true", help="only say what there is to do")


def maintenance(args: argparse.Namespace, config: Config) -> Answer:
    """Do the upkeep, or say what there is to do."""
    from vkteams_daemon.store.admin import maintenance

    with opened(config) as database, database.connect() as connection:
        plan = maintenance.plan(connection)
        if args.check:
            return Answer({"need": plan, "rows": []}, lambda screen: _show_need(screen, plan))
        before = maintenance.database_size(connection)
        with Bar("maintenance", "steps") as bar:
            steps = maintenance.maintain(connection, bar)
        after = maintenance.database_size(connection)

    def render(screen: Screen) -> None:
        screen.table(
            ("done", "seconds", "remark"), [(s.what, f"{s.seconds:.1f}", s.remark) for s in steps], free=("remark",)
        )
        screen.line(f"the database had {size(before)}, it has {size(after)}")
        if plan.collation:
            screen.line(_COLLATION, "yellow")

    return Answer({"need": plan, "rows": steps, "size_before": before, "size_after": after}, render)


def _show_need(screen: Screen, plan: MaintenancePlan) -> None:
    lines = [f"{table}: {count} dead rows" for table, count in plan.dead.items()]
    lines += [f"index {index.name}: half built" for index in plan.invalid]
    lines += [
        f"index {index.name}: {size(index.octets)}, about {size(index.fresh or 0)} if built anew"
        for index in plan.grown
    ]
    lines += [f"model {name}: retired, its vectors are still there" for name in plan.retired]
    if plan.collation:
        lines.append(_COLLATION)
    for line in lines or ["nothing needs to be done"]:
        screen.line(line)
