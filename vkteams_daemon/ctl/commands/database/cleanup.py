"""`vkteamsctl database cleanup`: old messages and what old events say, counted or erased."""

from __future__ import annotations

import argparse
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vkteams_daemon import times
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import filters
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.commands.database import spool_wait
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen, cell
from vkteams_daemon.ctl.progress import Bar
from vkteams_daemon.errors import UsageError, VkTeamsError

if TYPE_CHECKING:
    from vkteams_daemon.botapi.events import Event

_API_TIMEOUT = 5.0  # seconds


def register(noun: Noun) -> None:
    """Add the verb cleanup."""
    cleanup = noun.verb(
        "cleanup",
        "erase old messages for good, with their versions and vectors, and what old events say",
        _cleanup,
        "vkteamsctl database cleanup --older-than 365d --dry-run",
    )
    cleanup.add_argument(
        "--older-than", metavar="AGE", type=times.parse_age, required=True, help="for example 365d or 52w"
    )
    filters.add_chat_ids_with_threads(cleanup)
    cleanup.add_argument("--dry-run", action="store_true", help="only count what would be erased")
    cleanup.add_argument("--yes", action="store_true", help="confirm: erased messages cannot be restored")


def _cleanup(args: argparse.Namespace, config: Config) -> Answer:
    from vkteams_daemon.daemon.polling.spool import delete_aside
    from vkteams_daemon.search.scope import existing
    from vkteams_daemon.store.rebuild import erasure

    now = datetime.now(UTC)
    before = now - args.older_than
    with open_connection(config) as connection:
        # Even with --yes: by a wrong clock the age means another moment than the one that was meant.
        erasure.check_clocks(connection, now, _api_time(config))
        chats = existing(connection, args.chat_id, threads=True) if args.chat_id else None
        expired = erasure.count_expired(connection, before, chats)

        def is_expired(event: Event) -> bool:
            message = event.facts.message
            sent_at = message.sent_at if message else event.received_at
            return (chats is None or event.chat_id in chats) and min(sent_at, event.received_at) < before

        spool = spool_wait.count(config, is_expired)
        # Some of the events that arrived before then may belong to these messages: the two numbers do not add up.
        counts = (
            f"{expired.messages} messages with {expired.versions} earlier texts, {expired.vectors} vectors and what"
            f" their events say, and what {expired.events} events say that arrived before then"
        )
        if spool.concerned:
            counts += f"; {spool.concerned} of {spool.events} events in the daemon's spool are as old, and go in first"
        if expired.held:
            counts += f"; holds keep {expired.held} further messages"
        if args.dry_run:
            sentence = f"everything from before {cell(before)} would be erased: {counts}"
            data = {"before": before, "dry_run": True, "found": expired, "spool": _spool_data(spool)}
            return Answer(data, lambda screen: screen.line(sentence))
        if not args.yes:
            raise UsageError(
                f"not done: everything from before {cell(before)} would be erased for good: {counts}",
                hint="Add --yes to do it.",
            )
        spool = spool_wait.wait(config, is_expired, f"from before {cell(before)}")
        with Bar("cleanup", "messages and events") as bar:
            erased = erasure.erase(connection, before, chats, progress=bar)
        if chats is None:
            delete_aside(config.state_dir, before)

    def render(screen: Screen) -> None:
        screen.line(
            f"{erased.messages} messages from before {cell(before)} are erased, with what their events said;"
            f" {erased.events} other events were emptied"
        )
        if erased.held:
            screen.line(f"holds have kept {erased.held} messages: `vkteamsctl database hold` lists them")
        if erased.locked:
            screen.line(f"{erased.locked} were left out, because other sessions have locked them: run it again later")
        screen.line("run `vkteamsctl database maintenance` to make their space usable again", "dim")

    return Answer(
        {"before": before, "dry_run": False, "found": expired, "spool": _spool_data(spool), "done": erased}, render
    )


def _spool_data(spool: spool_wait.SpoolCounts) -> dict[str, int]:
    return {"events": spool.events, "expired": spool.concerned}


def _api_time(config: Config) -> datetime | None:
    """The time by the Bot API's clock, or None if it does not answer."""
    from vkteams_daemon.botapi.client import make_client

    if not config.api.token:
        return None
    with contextlib.suppress(VkTeamsError):
        client = make_client(config, limit=_API_TIMEOUT)
        try:
            client.self_get()
            return client.api_time()
        finally:
            client.close()
    return None
