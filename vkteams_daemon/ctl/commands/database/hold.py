"""`vkteamsctl database hold` and `lift`: chats that are kept from every erasure."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.system.user import login_name


def register(noun: Noun) -> None:
    """Add the verbs hold and lift."""
    hold = noun.verb(
        "hold",
        "keep chats and their threads from every erasure; without a chat, list the holds",
        _hold,
        "vkteamsctl database hold 681869378@chat.agent",
    )
    hold.add_argument("chat", nargs="*", metavar="CHAT", help="the id of a chat")
    hold.add_argument("--all", action="store_true", help="list the holds that were lifted as well")
    lift = noun.verb("lift", "end the hold of chats", _lift, "vkteamsctl database lift 681869378@chat.agent")
    lift.add_argument("chat", nargs="+", metavar="CHAT", help="the id of a chat")


def _hold(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.scope import existing
    from vkteams_daemon.store import erasure_rules

    with open_connection(config, reads=not args.chat) as connection:
        for chat_id in existing(connection, args.chat, threads=False) or ():
            erasure_rules.hold(connection, chat_id, login_name())
        rows = erasure_rules.list_holds(connection, lifted=args.all)

    def render(screen: Screen) -> None:
        if not rows:
            screen.line("no chat is held")
            return
        screen.table(
            ("chat", "held", "by", "lifted", "lifted by"),
            [(row.chat_id, row.held_at, row.held_by, row.lifted_at, row.lifted_by) for row in rows],
        )

    return Answer({"rows": rows}, render, ids=[row.chat_id for row in rows])


def _lift(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.search.scope import spelled_chats
    from vkteams_daemon.store import erasure_rules

    with open_connection(config) as connection:
        chats = spelled_chats(connection, args.chat)
        for chat_id in chats:
            erasure_rules.lift(connection, chat_id, login_name())
    sentence = f"{', '.join(chats)}: retention and other erasures take it again"
    return Answer({"lifted": chats}, lambda screen: screen.line(sentence))
