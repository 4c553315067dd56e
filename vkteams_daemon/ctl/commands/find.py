"""`vkteamsctl find WORDS…`: the search by words and meaning, without quotes, with numbers for `vkteamsctl open`."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands import search
from vkteams_daemon.ctl.output import Answer
from vkteams_daemon.errors import UsageError


def register(noun: Noun) -> None:
    """Add the command find."""
    find = noun.verb(
        "find",
        "find messages by words and meaning; no quotes needed",
        _find,
        "vkteamsctl find почему встала почта",
        "vkteamsctl find сбой оплаты --since 'на прошлой неделе' --user Анна",
        note="vkteamsctl open 3 opens the third hit.",
    )
    find.add_argument("words", metavar="WORDS", nargs="*", help="words or a question, as you would say it")
    search.add_options(find)
    find.set_defaults(recency=None, deleted=False)


def _find(args: argparse.Namespace, config: Config) -> Answer:
    words = " ".join(args.words)
    if not words.strip():
        raise UsageError("no words to find are given", hint="Write them behind it: `vkteamsctl find сбой оплаты`.")
    return search.search(args, config, words, "hybrid")
