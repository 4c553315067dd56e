"""Gaps: events that are not in the archive, or may not be. An administrator looks at each and dismisses it.

A daemon remembers outside the database which cursor it has sent last (`Acknowledgements`). If the database has an
earlier cursor when the daemon opens it, the database went back: it failed over to a server that lagged, or was restored
from a backup. What was acknowledged meanwhile does not come again. The API forgets events as well: after a time of its
own, and when its ids start over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

import psycopg
from psycopg.rows import class_row

from vkteams_daemon.errors import NotFound
from vkteams_daemon.store import schema
from vkteams_daemon.store.connections import Connection, translate_errors

WENT_BACK = "the database went back to an earlier state"
RESTORED = "the archive was restored from a backup"
NOT_SAVED = "the events were acknowledged with --no-save"
SPOOL_LOST = "the spool was removed or damaged before its events were in the archive"
RESTARTED = "the API started its event ids over"
OUTAGE = "no poll was answered for longer than the API keeps events"
POSSIBLE_OUTAGE = (
    "possible: no poll was answered for more than a day, and how long the API keeps events is not known"
    " ([api] retention)"
)
UNKNOWN_RETENTION = 86400.0  # seconds; the pause that may be a gap if nobody knows how long the API keeps events


@dataclass(frozen=True, slots=True)
class Position:
    """A cursor of a bot as it was sent.

    Attributes:
        moves: how often the bot's cursor had moved; it never falls, while the cursor itself may.
        at: when it was first sent, or None if that is not known.
    """

    generation: int
    last_event_id: int
    moves: int
    at: datetime | None = None

    def lost_by(self, stored: Position) -> bool:
        """Whether a database with this stored cursor has lost moves that were made before ours was sent."""
        if stored.moves != self.moves:
            return stored.moves < self.moves
        return (stored.generation, stored.last_event_id) < (self.generation, self.last_event_id)


@dataclass(frozen=True, slots=True)
class Polls:
    """The polls of a host that the API has answered.

    Attributes:
        first, last: the first and the last answer.
        pauses: the long pauses between them, each with the answers before and after it.
    """

    first: datetime
    last: datetime
    pauses: tuple[tuple[datetime, datetime], ...] = ()


@dataclass(frozen=True, slots=True)
class Missing:
    """Events that are gone: their ids and times of arrival from … to, and their chats; None if unknown."""

    reason: str
    from_event_id: int | None = None
    to_event_id: int | None = None
    from_time: datetime | None = None
    to_time: datetime | None = None
    chat_ids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A row of the table `gaps`."""

    gap_id: int
    bot_id: str
    chat_ids: list[str] | None
    from_event_id: int | None
    to_event_id: int | None
    from_time: datetime | None
    to_time: datetime | None
    reason: str
    detected_at: datetime
    dismissed_at: datetime | None
    dismissed_by: str | None


def id_span(gap: Missing | Gap) -> str:
    """The events of a gap within a sentence, with a space before it: " up to 50", " from 31 on", or ""."""
    if gap.to_event_id is not None:
        return f" up to {gap.to_event_id}"
    return f" from {gap.from_event_id} on" if gap.from_event_id is not None else ""


class Acknowledgements(Protocol):
    """What a host remembers, outside the database, of the cursors that it has sent for one bot."""

    def position(self, archive_id: str) -> Position | None:
        """The last cursor that was sent while this archive was used; None if there is none."""

    def remember(self, archive_id: str, position: Position) -> None:
        """Remember a cursor, before it is sent. Never raises."""

    def unsaved(self) -> Sequence[Missing]:
        """What was acknowledged and did not reach the archive: with --no-save, or in a spool that was lost."""

    def forget_unsaved(self) -> None:
        """Forget what `unsaved` has returned: it is in the archive's table of gaps now."""


def archive_id(connection: Connection) -> str:
    """The identity of this archive."""
    row = connection.execute("SELECT archive_id::text FROM archive_identity").fetchone()
    assert row is not None
    return str(row[0])


def detect(
    connection: Connection, bot_id: str, identity: str, stored: Position, sent: Acknowledgements
) -> list[Missing]:
    """Compare what was sent with what the database holds, and store the gaps; returns those that are new.

    A gap that a restored backup has opened ends now: what is polled from now on goes into the archive.

    Args:
        connection: in a transaction.
        bot_id: the bot.
        identity: of this archive.
        stored: the cursor of the bot in the database.
        sent: what this host remembers.
    """
    connection.execute(
        "UPDATE gaps SET to_time = clock_timestamp() WHERE bot_id = %s AND reason = %s AND to_time IS NULL",
        (bot_id, RESTORED),
    )
    missing = list(sent.unsaved())
    position = sent.position(identity)
    if position is not None and position.lost_by(stored):
        lost = _lost(connection, bot_id, stored, position)
        missing.append(_complete_restored(connection, bot_id, lost) or lost)
    return [each for each in missing if each.reason == RESTORED or _insert(connection, bot_id, each)]


def add_restored(connection: Connection, backed_up_at: datetime) -> None:
    """Store a gap for each bot of a restored archive: what was acknowledged after the backup does not come again.

    Args:
        connection: in a transaction.
        backed_up_at: the moment whose archive the backup holds.
    """
    for bot_id, last_event_id in connection.execute("SELECT bot_id, last_event_id FROM bots").fetchall():
        _insert(connection, bot_id, Missing(RESTORED, from_event_id=last_event_id + 1, from_time=backed_up_at))


def add_restart(connection: Connection, bot_id: str, last_event_id: int, received_at: datetime) -> None:
    """Store the gap of an id restart: what the server had not delivered before it does not come any more.

    Args:
        connection: in a transaction.
        bot_id: the bot.
        last_event_id: the cursor before.
        received_at: when the first event with a new id arrived.
    """
    row = connection.execute(
        "SELECT pg_catalog.max(received_at) FROM events WHERE bot_id = %s AND received_at < %s", (bot_id, received_at)
    ).fetchone()
    start = row[0] if row else None
    _insert(connection, bot_id, Missing(RESTARTED, last_event_id + 1, None, start, received_at))


def note_polls(connection: Connection, bot_id: str, polls: Polls, retention: float | None) -> list[Missing]:
    """Note when the API answered last, and store a gap for each time in which it had not answered for too long.

    Args:
        connection: in autocommit mode.
        bot_id: the bot that this process listens to.
        polls: of this host; some of them may be noted already.
        retention: seconds for which the API keeps events; None if that is not known.

    Returns:
        The gaps that are new.
    """
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        row = connection.execute("SELECT polled_at FROM bots WHERE bot_id = %s FOR UPDATE", (bot_id,)).fetchone()
        if row is None:
            return []
        connection.execute("UPDATE bots SET polled_at = %s WHERE bot_id = %s", (polls.last, bot_id))
        if row[0] is None:
            return []
        # Another host may have polled until then.
        pauses = [(max(begin, row[0]), end) for begin, end in ((row[0], polls.first), *polls.pauses)]
        missing = [_outage(begin, end, retention) for begin, end in pauses]
        return [each for each in missing if each is not None and _insert(connection, bot_id, each)]


def _outage(begin: datetime, end: datetime, retention: float | None) -> Missing | None:
    """The gap of a pause between two polls; None if it was not too long."""
    if (end - begin).total_seconds() <= (UNKNOWN_RETENTION if retention is None else retention):
        return None
    if retention is None:
        return Missing(POSSIBLE_OUTAGE, from_time=begin, to_time=end)
    return Missing(OUTAGE, from_time=begin, to_time=end - timedelta(seconds=retention))


def _lost(connection: Connection, bot_id: str, stored: Position, sent: Position) -> Missing:
    row = connection.execute(
        "SELECT received_at FROM events WHERE bot_id = %s AND generation = %s ORDER BY event_id DESC LIMIT 1",
        (bot_id, stored.generation),
    ).fetchone()
    follows = stored.generation == sent.generation and stored.last_event_id < sent.last_event_id
    return Missing(
        WENT_BACK,
        from_event_id=stored.last_event_id + 1 if follows else None,
        to_event_id=sent.last_event_id,
        from_time=row[0] if row else None,
        to_time=sent.at,
    )


def _complete_restored(connection: Connection, bot_id: str, lost: Missing) -> Missing | None:
    """Say where the gap of a restored backup ends, if this loss is that gap, which nobody has dismissed.

    Two gaps for one loss would have to be looked at and dismissed twice.
    """
    row = connection.execute(
        "UPDATE gaps SET to_event_id = %s WHERE bot_id = %s AND reason = %s AND from_event_id = %s"
        " AND to_event_id IS NULL AND dismissed_at IS NULL RETURNING from_event_id, from_time, to_time",
        (lost.to_event_id, bot_id, RESTORED, lost.from_event_id),
    ).fetchone()
    return Missing(RESTORED, row[0], lost.to_event_id, row[1], row[2]) if row else None


def _insert(connection: Connection, bot_id: str, missing: Missing) -> bool:
    """Store a gap; False if it is stored already, because an earlier process ended before it could forget it."""
    chats = None if missing.chat_ids is None else list(missing.chat_ids)
    return (
        connection.execute(
            "INSERT INTO gaps (bot_id, chat_ids, from_event_id, to_event_id, from_time, to_time, reason)"
            " SELECT %(bot)s, %(chats)s::text[], %(from_id)s::bigint, %(to_id)s::bigint, %(from_time)s::timestamptz,"
            " %(to_time)s::timestamptz, %(reason)s WHERE NOT EXISTS (SELECT FROM gaps g WHERE g.bot_id = %(bot)s"
            " AND g.reason = %(reason)s AND g.to_event_id IS NOT DISTINCT FROM %(to_id)s::bigint"
            " AND g.to_time IS NOT DISTINCT FROM %(to_time)s::timestamptz)",
            {
                "bot": bot_id, "chats": chats, "from_id": missing.from_event_id, "to_id": missing.to_event_id,
                "from_time": missing.from_time, "to_time": missing.to_time, "reason": missing.reason,
            },
        ).rowcount
        == 1
    )  # fmt: skip


def list_gaps(connection: psycopg.Connection[Any], *, dismissed: bool = False) -> list[Gap]:
    """The gaps, the newest first; dismissed ones only if asked for."""
    with translate_errors(), connection.cursor(row_factory=class_row(Gap)) as cursor:
        cursor.execute(
            "SELECT gap_id, bot_id, chat_ids, from_event_id, to_event_id, from_time, to_time, reason, detected_at,"
            " dismissed_at, dismissed_by FROM gaps WHERE dismissed_at IS NULL OR %s ORDER BY gap_id DESC",
            (dismissed,),
        )
        return cursor.fetchall()


def dismiss(connection: Connection, gap_id: int, by: str) -> None:
    """Dismiss a gap: answers and health leave it out from now on.

    Args:
        connection: in autocommit mode.
        gap_id: a gap of this archive; a second dismissal changes nothing.
        by: who dismisses it.

    Raises:
        NotFound: there is no such gap.
    """
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        count = connection.execute(
            "UPDATE gaps SET dismissed_at = coalesce(dismissed_at, clock_timestamp()),"
            " dismissed_by = coalesce(dismissed_by, %s) WHERE gap_id = %s",
            (by, gap_id),
        ).rowcount
    if not count:
        raise NotFound(f"the archive has no gap {gap_id}", hint="`vkteamsctl database gaps --all` lists them.")
