"""`vkteamsctl database roster`: who is in the chats, asked of the Bot API now and not within a day."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import filters
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_database, refuse_reader
from vkteams_daemon.ctl.output import Answer, Screen
from vkteams_daemon.ctl.progress import Bar
from vkteams_daemon.errors import ApiError, ConfigError

if TYPE_CHECKING:
    from vkteams_daemon.store.rosters import DueRoster, Roster

_PAGE = 100  # members of one answer; only the time left is reckoned with it


def register(noun: Noun) -> None:
    """Add the verb roster."""
    roster = noun.verb(
        "roster",
        "ask the Bot API now who is in each chat and who runs it, one request a second",
        _roster,
        "vkteamsctl database roster --chat-id 681869378@chat.agent",
    )
    filters.add_chat_ids_with_threads(roster)


class RequestBar:
    """Counts the requests, and how many are still to come by the last lists.

    Args:
        bar: shows them.
        due: the chats.
    """

    def __init__(self, bar: Callable[[int, int], None], due: list[DueRoster]) -> None:
        self._bar = bar
        self._expected = {one.chat_id: _requests(one) for one in due}
        self._of_chat = 0
        self._done = 0

    def begin(self, chat_id: str) -> None:
        """The next requests are for this chat."""
        self._of_chat = self._expected.pop(chat_id, 0)
        self._show()

    def count(self) -> None:
        """A request was answered."""
        self._done += 1
        self._of_chat = max(0, self._of_chat - 1)
        self._show()

    def _show(self) -> None:
        self._bar(self._done, self._done + self._of_chat + sum(self._expected.values()))


def _requests(due: DueRoster) -> int:
    """What the chat is, its members page by page, and its admins."""
    return 1 if due.private else 2 + max(1, -(-due.members // _PAGE))


def _roster(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.botapi.client import make_client
    from vkteams_daemon.daemon import roster
    from vkteams_daemon.search.scope import existing
    from vkteams_daemon.store import rosters

    refuse_reader(config)
    if not config.api.roster:
        raise ConfigError("api.roster is false: this archive keeps no rosters", hint="Set it to true.")
    if not config.api.token:
        raise ConfigError("api.token: it is not set", hint="Set it, token_file or VKTEAMS_BOT_API_TOKEN.")
    client = make_client(config)
    try:
        with open_database(config) as database, Bar("roster", "requests") as bar:
            with database.connection() as connection:
                named = existing(connection, args.chat_id, threads=True) if args.chat_id else None
            chat_ids = [chat_id.lower() for chat_id in named or config.storage.chat_ids] or None
            bot_id = client.self_get().user_id
            begin = datetime.now(UTC)
            with database.connection() as connection:
                due = rosters.list_due(connection, begin, chat_ids, bot_id=bot_id, others_before=begin - 2 * roster.AGE)
            requests = RequestBar(bar, due)

            def pause() -> None:
                requests.count()
                time.sleep(roster.PACE)

            asked: list[str] = []
            try:
                for chat_id in [one.chat_id for one in due]:
                    requests.begin(chat_id)
                    with database.connection() as connection:
                        known = rosters.list_rosters(connection, [chat_id])
                    if known and known[0].read_at and known[0].read_at >= begin:
                        continue  # the daemon has read it meanwhile
                    time.sleep(roster.PACE)
                    roster.read_chat(database, client, chat_id, datetime.now(UTC), pause, bot_id=bot_id)
                    requests.count()
                    asked.append(chat_id)
            except ApiError as error:
                error.hint = f"{error.hint} Chats asked for: {len(asked)}; run it again for the others.".lstrip()
                raise
            with database.connection() as connection:
                rows = rosters.list_rosters(connection, named or asked)
    finally:
        client.close()
    return Answer({"rows": rows, "asked": asked}, lambda screen: _show(screen, rows, asked), ids=asked)


def _show(screen: Screen, rows: list[Roster], asked: list[str]) -> None:
    screen.line(f"asked for {len(asked)} chats")
    screen.table(
        ("chat", "members", "read", "why not"),
        [(row.chat_id, row.members, row.read_at, row.refused) for row in rows],
        free=("why not",),
    )
