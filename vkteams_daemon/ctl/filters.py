"""The options by which several verbs choose messages: chats, author, time."""

from __future__ import annotations

import argparse

from vkteams_daemon import times


def add_chat_ids(verb: argparse.ArgumentParser, line: str = "only this chat; may be repeated") -> None:
    """Add --chat-id, which may be repeated."""
    verb.add_argument("--chat-id", metavar="ID", action="append", help=line)


def add_chat_ids_with_threads(verb: argparse.ArgumentParser) -> None:
    """Add --chat-id for a verb that takes the threads of the chats too."""
    add_chat_ids(verb, "only this chat and its threads; may be repeated")


def add_author_and_time(verb: argparse.ArgumentParser) -> None:
    """Add --user-id, --since and --until."""
    verb.add_argument("--user-id", metavar="ID", help="only what this person wrote")
    verb.add_argument(
        "--since", metavar="TIME", type=times.parse_since, help="from this time on: 2h, 2026-11-24, вчера"
    )
    verb.add_argument(
        "--until", metavar="TIME", type=times.parse_until, help="up to this time; a date includes its day"
    )


def add_count_since(verb: argparse.ArgumentParser) -> None:
    """Add --since for a verb that counts."""
    verb.add_argument(
        "--since", metavar="TIME", type=times.parse_since, help="count only from this time on: 2h, 2026-11-24, вчера"
    )
