"""`vkteamsctl database cleanup`: old messages and what old events say, counted or erased."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from vkteams_daemon import times
from vkteams_daemon.config import Config
from vkteams_daemon.ctl import filters
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_connection
from vkteams_daemon.ctl.output import Answer, Screen, cell
from vkteams_daemon.ctl.progress import Bar
from vkteams_daemon.errors import ErasureRefused, PermissionRefused, UsageError, VkTeamsError

_API_TIMEOUT = 5.0  # seconds
_SPOOL_WAIT = 20.0  # seconds in which a running daemon should have stored what waits in its spool
_SPOOL_INTERVAL = 0.2  # seconds between two looks at the spool


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """What waits in the daemon's spool: all events, and those that the erasure would take if they were stored."""

    events: int
    expired: int


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
        spool = _count_spool(config, before, chats)
        # Some of the events that arrived before then may belong to these messages: the two numbers do not add up.
        counts = (
            f"{expired.messages} messages with {expired.versions} earlier texts, {expired.vectors} vectors and what"
            f" their events say, and what {expired.events} events say that arrived before then"
        )
        if spool.expired:
            counts += f"; {spool.expired} of {spool.events} events in the daemon's spool are as old, and go in first"
        if args.dry_run:
            sentence = f"everything from before {cell(before)} would be erased: {counts}"
            data = {"before": before, "dry_run": True, "found": expired, "spool": spool}
            return Answer(data, lambda screen: screen.line(sentence))
        if not args.yes:
            raise UsageError(
                f"not done: everything from before {cell(before)} would be erased for good: {counts}",
                hint="Add --yes to do it.",
            )
        spool = _wait_for_spool(config, before, chats)
        with Bar("cleanup", "messages and events") as bar:
            erased = erasure.erase(connection, before, chats, progress=bar)
        if chats is None:
            delete_aside(config.state_dir, before)

    def render(screen: Screen) -> None:
        screen.line(
            f"{erased.messages} messages from before {cell(before)} are erased, with what their events said;"
            f" {erased.events} other events were emptied"
        )
        if erased.locked:
            screen.line(f"{erased.locked} were left out, because other sessions have locked them: run it again later")
        screen.line("run `vkteamsctl database maintenance` to make their space usable again", "dim")

    return Answer({"before": before, "dry_run": False, "found": expired, "spool": spool, "done": erased}, render)


def _count_spool(config: Config, before: datetime, chats: Collection[str] | None) -> SpoolCounts:
    """Count what waits in the spool of this host, and what of it an erasure would take.

    Raises:
        PermissionRefused: this user may not read the spool.
    """
    from vkteams_daemon.daemon.polling.spool import read_waiting

    events = expired = 0
    try:
        for event in read_waiting(config.state_dir):
            message = event.facts.message
            sent_at = message.sent_at if message else event.received_at
            events += 1
            expired += (chats is None or event.chat_id in chats) and min(sent_at, event.received_at) < before
    except OSError as error:
        raise PermissionRefused(
            f"the spool in {config.state_dir} cannot be read: {error.strerror}",
            hint="What waits there may have to be erased too: run this as root or as the daemon's user.",
        ) from error
    return SpoolCounts(events, expired)


def _wait_for_spool(config: Config, before: datetime, chats: Collection[str] | None) -> SpoolCounts:
    """Wait until nothing waits in the spool that the erasure would miss.

    Raises:
        ErasureRefused: nobody stores it.
    """
    deadline = time.monotonic() + _SPOOL_WAIT
    while True:
        spool = _count_spool(config, before, chats)
        if not spool.expired:
            return spool
        if time.monotonic() >= deadline:
            raise ErasureRefused(
                f"nothing is erased: {spool.expired} of {spool.events} events in the spool in {config.state_dir} are"
                f" from before {cell(before)}, and would come into the archive after the erasure",
                hint="Start vkteamsd, which stores them, and run this again.",
            )
        time.sleep(_SPOOL_INTERVAL)


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
