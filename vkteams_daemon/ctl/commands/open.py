"""`vkteamsctl open N`: a hit of the last search in its conversation."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types, hit_numbers
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.context import get
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer

_MAX_DIGITS = 4  # of a number of a hit; a message id is longer


def register(noun: Noun) -> None:
    """Add the command open."""
    verb = noun.verb(
        "open",
        "show a hit of the last search in its conversation",
        _open,
        "vkteamsctl open 3",
        "vkteamsctl open 7576322310174586465",
    )
    verb.add_argument("number", metavar="NUMBER", help="number of the hit, or the id of a message")
    verb.add_argument("--ids", action="store_true", help="show the ids of the chat and of the message")
    get.add_max_tokens(verb)


def _open(args: argparse.Namespace, config: Config) -> Answer:
    number = args.number if args.number.isascii() and args.number.isdecimal() else ""
    hit = hit_numbers.find(config, argument_types.positive(number)) if 0 < len(number) <= _MAX_DIGITS else None
    with open_archive(config) as archive:
        chat_id, msg_id = hit or (archive.chat_of(args.number), args.number)
        context = archive.context(
            "around", message=(chat_id, msg_id), max_tokens=get.token_limit(args), cost=get.token_cost(args)
        )
    return get.answer(context, ids=args.ids)
