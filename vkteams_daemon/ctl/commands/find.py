"""`vkteamsctl find WORDS…`: the search by words and meaning, without quotes, with numbers for `vkteamsctl open`."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands import search
from vkteams_daemon.ctl.output import Answer


def register(noun: Noun) -> None:
    """Add the command find."""
    find = noun.verb(
        "find",
        "find messages by words and meaning; no quotes needed",
        _find,
        "vkteamsctl find почему встала почта",
        "vkteamsctl find сбой оплаты --since 'на прошлой неделе' --user Анна",
        "vkteamsctl find --has file --chat Эксплуатация",
        note="vkteamsctl open 3 opens the third hit.",
    )
    find.add_argument(
        "words",
        metavar="WORDS",
        nargs="*",
        help="words or a question; without any, the newest that pass the filters",
    )
    search.add_options(find)
    find.set_defaults(recency=None, deleted=False)


def _find(args: argparse.Namespace, config: Config) -> Answer:
    return search.search(args, config, " ".join(args.words), "hybrid")
