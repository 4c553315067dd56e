"""`vkteamsctl context chats` and `users`: the chats and the people of the archive."""

from __future__ import annotations

import argparse

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import argument_types, filters
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer, Screen, cell


def register(noun: Noun) -> None:
    """Add the verbs chats and users."""
    for name, line, run in (
        ("chats", "the chats; the one with the newest message first", _chats),
        ("users", "the people; the one with the newest message first", _users),
    ):
        verb = noun.verb(name, line, run, f"vkteamsctl context {name} --since 7d")
        filters.add_chat_ids(verb)
        filters.add_count_since(verb)
        verb.add_argument("--limit", metavar="N", type=argument_types.positive, help="most rows")


def _chats(args: argparse.Namespace, config: Config) -> Answer:
    with open_archive(config) as archive:
        rows = archive.chats(chat_ids=archive.existing(args.chat_id), since=args.since, limit=args.limit)

    def render(screen: Screen) -> None:
        screen.table(
            ("chat", "type", "title", "messages", "authors", "last"),
            [(c.chat_id, "thread" if c.parent_msg_id else c.type, c.title, c.messages, c.users, c.last_message_at)
             for c in rows],
            free=("title",),
        )  # fmt: skip

    return Answer({"rows": rows}, render, ids=[chat.chat_id for chat in rows])


def _users(args: argparse.Namespace, config: Config) -> Answer:
    with open_archive(config) as archive:
        chats = archive.existing(args.chat_id)
        silent = bool(args.chat_id) and args.since is None
        rows = archive.users(chat_ids=chats, since=args.since, limit=args.limit, silent=silent)
        rosters = archive.rosters(chats) if silent else []

    def render(screen: Screen) -> None:
        for roster in rosters:
            state = f"the API refuses its list of members: {roster.refused}" if roster.refused else "members"
            if roster.read_at:
                state = f"{roster.members} members on {cell(roster.read_at)}" + (f"; {state}" if roster.refused else "")
            screen.line(f"{roster.chat_id}: {state}")
        screen.table(
            ("user", "name", "bot", "messages", "chats", "last"),
            [(u.user_id, u.name, u.is_bot, u.messages, u.chats, u.last_message_at) for u in rows],
            free=("name",),
        )

    data = {"rows": rows, "rosters": rosters} if silent else {"rows": rows}
    return Answer(data, render, ids=[user.user_id for user in rows])
