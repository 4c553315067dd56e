"""`vkteamsctl database maintenance`: vacuum, indexes, and the vectors of retired models."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen, size
from vkteams_daemon.ctl.progress import Bar

if TYPE_CHECKING:
    from vkteams_daemon.store.admin.maintenance import MaintenancePlan

_COLLATION = (
    "the system's sort order has changed since the indexes were built: the database's owner must run REINDEX DATABASE"
    " and ALTER DATABASE … REFRESH COLLATION VERSION"
)


def register(noun: Noun) -> None:
    """Add the verb maintenance."""
    maintenance = noun.verb(
        "maintenance",
        "vacuum and analyse tables, rebuild bloated indexes, delete the vectors of retired models",
        _maintenance,
        "vkteamsctl database maintenance --check",
    )
    maintenance.add_argument("--check", action="store_true", help="only show what needs to be done")


def _maintenance(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store.admin import maintenance

    with open_connection(config, maintenance=True) as connection:
        plan = maintenance.plan(connection)
        if args.check:
            return Answer({"need": plan, "rows": []}, lambda screen: _show_plan(screen, plan))
        before = maintenance.database_size(connection)
        with Bar("maintenance", "steps") as bar:
            steps = maintenance.maintain(connection, bar, patience=config.database.patience)
        after = maintenance.database_size(connection)

    def render(screen: Screen) -> None:
        screen.table(
            ("done", "seconds", "remark"), [(s.what, f"{s.seconds:.1f}", s.remark) for s in steps], free=("remark",)
        )
        screen.line(f"the size of the database was {size(before)} and is now {size(after)}")
        if plan.collation:
            screen.line(_COLLATION, "yellow")

    return Answer({"need": plan, "rows": steps, "size_before": before, "size_after": after}, render)


def _show_plan(screen: Screen, plan: MaintenancePlan) -> None:
    lines = [f"{table}: {count} dead rows" for table, count in plan.dead.items()]
    lines += [f"index {index.name}: half built" for index in plan.invalid]
    lines += [
        f"index {index.name}: {size(index.octets)}, about {size(index.fresh or 0)} after a rebuild"
        for index in plan.grown
    ]
    lines += [f"index {name}: built for a smaller archive, and finds too little now" for name in plan.outgrown]
    lines += [f"model {name}: retired, its vectors are still stored" for name in plan.retired]
    if plan.collation:
        lines.append(_COLLATION)
    for line in lines or ["nothing needs to be done"]:
        screen.line(line)
