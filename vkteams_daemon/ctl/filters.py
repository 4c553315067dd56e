"""The options by which several verbs choose messages: chats, author, time."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vkteams_daemon.ctl import argument_types
from vkteams_daemon.errors import UsageError

if TYPE_CHECKING:
    from vkteams_daemon.search.archive import Archive


def add_chat_ids(verb: argparse.ArgumentParser, line: str = "only this chat; may be repeated") -> None:
    """Add --chat-id, which may be repeated."""
    verb.add_argument("--chat-id", metavar="ID", action="append", help=line)


def add_chat_ids_with_threads(verb: argparse.ArgumentParser) -> None:
    """Add --chat-id for a verb that takes the threads of the chats too."""
    add_chat_ids(verb, "only this chat and its threads; may be repeated")


def add_author_and_time(verb: argparse.ArgumentParser) -> None:
    """Add --user-id, --since and --until."""
    verb.add_argument("--user-id", metavar="ID", help="only what this person wrote")
    add_span(verb)


def add_span(verb: argparse.ArgumentParser) -> None:
    """Add --since and --until."""
    verb.add_argument(
        "--since", metavar="TIME", type=argument_types.since, help="from this time on: 2h, 2026-11-24, вчера"
    )
    verb.add_argument(
        "--until", metavar="TIME", type=argument_types.until, help="up to this time; a date includes its day"
    )


def add_names(verb: argparse.ArgumentParser) -> None:
    """Add --user and --chat, which take a name."""
    verb.add_argument("--user", metavar="NAME", help="only what the person of this name wrote: a name or a part of it")
    verb.add_argument("--chat", metavar="TITLE", help="only the chat of this title: the title or a part of it")


def take_names(args: argparse.Namespace, archive: Archive) -> tuple[str, ...]:
    """Put the ids that --user and --chat mean into `user_id` and `chat_id`; returns what each was taken for.

    Raises:
        UsageError: a name and an id are given, or several have the name.
        NotFound: nobody has the name, or the id.
    """
    meant = []
    if args.user is not None:
        if args.user_id is not None:
            raise UsageError("--user and --user-id name a person twice")
        meant.append(archive.find_user(args.user))
        args.user_id = meant[-1].id
    elif args.user_id is not None:
        args.user_id = archive.known_user_id(args.user_id)
    if args.chat is not None:
        if args.chat_id:
            raise UsageError("--chat and --chat-id name a chat twice")
        meant.append(archive.find_chat(args.chat))
        args.chat_id = [meant[-1].id]
    return tuple(one.sentence for one in meant)


def add_count_since(verb: argparse.ArgumentParser) -> None:
    """Add --since for a verb that counts."""
    verb.add_argument(
        "--since", metavar="TIME", type=argument_types.since, help="count only from this time on: 2h, 2026-11-24, вчера"
    )
