"""`vkteamsctl database gaps`: what the archive knows to be missing, and dismissing it."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.system.user import login_name


def register(noun: Noun) -> None:
    """Add the verb gaps."""
    gaps = noun.verb(
        "gaps",
        "list events that were acknowledged and are not in the archive; dismiss what you have looked at",
        _gaps,
        "vkteamsctl database gaps --dismiss 1",
    )
    gaps.add_argument(
        "--dismiss", metavar="ID", type=argument_types.positive,
        help="leave this gap out of answers and health from now on",
    )  # fmt: skip
    gaps.add_argument("--all", action="store_true", help="list dismissed gaps as well")


def _gaps(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.store import gaps

    with open_connection(config, reads=args.dismiss is None) as connection:
        if args.dismiss is not None:
            gaps.dismiss(connection, args.dismiss, login_name())
        rows = gaps.list_gaps(connection, dismissed=args.all)

    def render(screen: Screen) -> None:
        if not rows:
            screen.line("no gap is known")
            return
        screen.table(
            ("gap", "bot", "chats", "events", "from", "to", "why", "detected", "dismissed"),
            [
                (
                    g.gap_id, g.bot_id, "any" if g.chat_ids is None else ", ".join(g.chat_ids),
                    f"{g.from_event_id or '?'}–{g.to_event_id or '?'}", g.from_time, g.to_time, g.reason, g.detected_at,
                    f"by {g.dismissed_by}" if g.dismissed_at else None,
                )
                for g in rows
            ],
            free=("why", "chats"),
        )  # fmt: skip

    return Answer({"rows": rows}, render, ids=[str(g.gap_id) for g in rows])
