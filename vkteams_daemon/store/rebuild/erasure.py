"""Erases by age: deletes old messages with their versions and vectors, and erases the content of old events.

Events keep their keys. So no erased event is fetched again, and nothing is derived from it again: replay skips erased
events. Each batch is a transaction that holds the locks of its chats for a moment, so erasure runs beside a daemon. It
never waits for a lock, because the daemon would then wait for it: it leaves out what others have locked and comes back
to it. An interrupted erasure is continued by the next call. Chats, users and members stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from vkteams_daemon.errors import ErasureRefused
from vkteams_daemon.store import erasure_rules, schema
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import chat_locks, message_rows

Progress = Callable[[int, int], None]  # called with the messages and events done so far, and their total

MAX_CLOCK_DIFFERENCE = timedelta(days=1)
MAX_SHARE = 5  # an erasure that nobody has confirmed may take one message in so many

_BATCH = 500
_RETRY_FOR = 15.0  # seconds; by then the session of a silent process has been ended
_RETRY_INTERVAL = 0.2  # seconds
_IN_CHATS = "(%(chats)s::text[] IS NULL OR m.chat_id = ANY(%(chats)s)) AND " + erasure_rules.NOT_HELD
_HELD = (
    f"(%(chats)s::text[] IS NULL OR m.chat_id = ANY(%(chats)s)) AND m.chat_id = ANY(ARRAY({erasure_rules.HELD_CHATS}))"
)
_SENT_BEFORE = "m.sent_at < %(before)s"
# A message can claim to be from the future, by a wrong clock or on purpose to escape erasure. Then its arrival counts.
_SENT_IN_FUTURE = "m.sent_at > now() AND m.received_at < %(before)s"
_EXPIRED_MESSAGE = f"({_SENT_BEFORE} OR {_SENT_IN_FUTURE}) AND {_IN_CHATS}"
_EXPIRED_EVENT = f"m.received_at < %(before)s AND (m.payload IS NOT NULL OR m.raw IS NOT NULL) AND {_IN_CHATS}"
# Two queries, because the index on sent_at answers each of them. For both conditions in one query the server would read
# the whole index.
_MESSAGE_PAGES = tuple(
    f"SELECT m.sent_at, m.chat_id, m.msg_id FROM messages m WHERE {condition} AND {_IN_CHATS} AND m.sent_at >= %(last)s"
    " ORDER BY m.sent_at LIMIT %(batch)s"
    for condition in (_SENT_BEFORE, _SENT_IN_FUTURE)
)
_EVENT_PAGE = (
    f"SELECT m.received_at, m.bot_id, m.generation, m.event_id FROM events m WHERE {_EXPIRED_EVENT}"
    " AND m.received_at >= %(last)s ORDER BY m.received_at LIMIT %(batch)s"
)
# Skip an event that another transaction has locked, because that transaction may wait for an event that we have locked.
# The next call takes it.
_ERASE_EVENTS = (
    "SELECT m.generation, m.event_id FROM unnest(%s::int[], %s::bigint[]) AS page (generation, event_id)"
    " JOIN events m ON m.bot_id = %s AND m.generation = page.generation AND m.event_id = page.event_id"
    " WHERE (m.chat_id = ANY(%s)) IS NOT TRUE FOR UPDATE OF m SKIP LOCKED",
    "UPDATE events e SET payload = NULL, raw = NULL FROM unnest(%s::int[], %s::bigint[]) AS page (generation, event_id)"
    " WHERE e.bot_id = %s AND e.generation = page.generation AND e.event_id = page.event_id",
)
_COUNT_EXPIRED_MESSAGES = f"SELECT count(*) FROM messages m WHERE {_EXPIRED_MESSAGE}"
_COUNT = (
    f"SELECT (SELECT count(*) FROM messages m WHERE {_EXPIRED_MESSAGE}),"
    f" (SELECT count(*) FROM message_versions JOIN messages m USING (chat_id, msg_id) WHERE {_EXPIRED_MESSAGE}),"
    f" (SELECT count(*) FROM embeddings JOIN messages m USING (chat_id, msg_id) WHERE {_EXPIRED_MESSAGE}),"
    f" (SELECT count(*) FROM events m WHERE {_EXPIRED_EVENT}),"
    f" (SELECT count(*) FROM messages m WHERE ({_SENT_BEFORE} OR {_SENT_IN_FUTURE}) AND {_HELD})"
)


@dataclass(frozen=True, slots=True)
class ExpiredCounts:
    """What an erasure would take.

    Attributes:
        messages: messages that were sent before the moment.
        versions, vectors: the earlier texts and the vectors of these messages.
        events: events that arrived before the moment and are not erased yet. Later events about the same messages are
            erased as well, and are not in this number.
        held: messages from before the moment that a hold keeps.
    """

    messages: int
    versions: int
    vectors: int
    events: int
    held: int


@dataclass(slots=True)
class ErasureResult:
    """What an erasure has done.

    Attributes:
        messages: messages deleted, the content of their events included.
        events: further events whose content was erased.
        locked: messages and events that other sessions have kept locked. The next erasure takes them.
        held: messages that a hold has kept.
    """

    messages: int = 0
    events: int = 0
    locked: int = 0
    held: int = 0


def count_expired(connection: Connection, before: datetime, chat_ids: Sequence[str] | None = None) -> ExpiredCounts:
    """Count what `erase` would take, with the same arguments."""
    with translate_errors():
        row = connection.execute(_COUNT.encode(), _query_parameters(before, chat_ids)).fetchone()
    assert row is not None
    return ExpiredCounts(*row)


def check_clocks(connection: Connection, now: datetime, api_time: datetime | None) -> None:
    """Compare this host's clock with the database's and the Bot API's. A wrong clock would erase everything.

    Args:
        connection: to the database.
        now: the time by this host's clock, with a time zone.
        api_time: the time by the API's clock, or None if it is not known.

    Raises:
        ErasureRefused: two clocks differ by more than a day.
    """
    with translate_errors():
        row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    assert row is not None
    seconds = {"the database": row[0], "the Bot API": api_time.timestamp() if api_time else None}
    for whose, other in seconds.items():
        if other is not None and abs(now.timestamp() - other) > MAX_CLOCK_DIFFERENCE.total_seconds():
            days = (now.timestamp() - other) / 86400
            raise ErasureRefused(
                f"nothing is erased: this host's clock ({now:%Y-%m-%d %H:%M} UTC) is {abs(days):,.0f} days"
                f" {'ahead of' if days > 0 else 'behind'} the clock of {whose}",
                hint="Set the clock that is wrong.",
            )


def check_share(connection: Connection, before: datetime) -> None:
    """Refuse to erase more than a fifth of the messages at once, unless somebody confirms it.

    Raises:
        ErasureRefused: more than a fifth of the messages was sent before the moment.
    """
    with translate_errors():
        row = connection.execute(_COUNT_EXPIRED_MESSAGES.encode(), _query_parameters(before, None)).fetchone()
        assert row is not None
        expired = row[0]
        # Count no further than needed: normally a day's messages expire, and the archive holds many times as many.
        row = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM messages LIMIT %s) AS m", (MAX_SHARE * expired,)
        ).fetchone()
    total = row[0] if row else 0
    if total < MAX_SHARE * expired:
        raise ErasureRefused(
            f"nothing is erased: {expired} of {total} messages are from before {before:%Y-%m-%d %H:%M} UTC, and more"
            " than a fifth is erased only by hand",
            hint="If that is right, do it once with `vkteamsctl database cleanup --older-than AGE --yes`.",
        )


def erase(
    connection: Connection,
    before: datetime,
    chat_ids: Sequence[str] | None = None,
    *,
    progress: Progress = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
    retry_for: float = _RETRY_FOR,
) -> ErasureResult:
    """Erase the messages that were sent, and the events that arrived, before a moment.

    For a message that claims to be from the future, its arrival counts.

    Args:
        connection: used for this alone, in autocommit mode.
        before: the moment, with a time zone.
        chat_ids: only these chats; None means everything, with the events of no chat.
        progress: called after each batch.
        stopped: called between batches; True ends the erasure.
        retry_for: seconds in which it comes back to what others have locked.
    """
    result = ErasureResult()
    deadline = time.monotonic() + retry_for
    parameters = _query_parameters(before, chat_ids)
    with translate_errors():
        message_rows.prepare_connection(connection)
        expired = count_expired(connection, before, chat_ids)
        result.held = expired.held
        total = expired.messages + expired.events

        def report() -> None:
            progress(min(result.messages + result.events, total), total)

        def run(query: str, take: Callable[[Sequence[tuple[Any, ...]]], int], counter: str) -> int:
            """Take every page of a query; returns how many rows others have locked."""
            locked, parameters["last"] = 0, "-infinity"
            while not stopped():
                before = parameters["last"]
                page = _page(connection, query, parameters)
                if not page:
                    break
                taken = take(page)
                setattr(result, counter, getattr(result, counter) + taken)
                report()
                if not taken and parameters["last"] == before:
                    locked = len(page)  # the page would come again
                    break
                locked += len(page) - taken
            return locked

        while True:
            delete = partial(_delete_messages, connection)
            result.locked = sum(run(query, delete, "messages") for query in _MESSAGE_PAGES)
            result.locked += run(_EVENT_PAGE, partial(_erase_events, connection), "events")
            if not result.locked or stopped() or time.monotonic() >= deadline:
                return result
            time.sleep(_RETRY_INTERVAL)


def _query_parameters(before: datetime, chat_ids: Sequence[str] | None) -> dict[str, Any]:
    chats = None if chat_ids is None else list(chat_ids)
    return {"before": before, "chats": chats, "batch": _BATCH, "last": "-infinity"}


def _page(connection: Connection, query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The oldest remaining rows. `last` moves on, so that the next page does not read the deleted rows again."""
    page = connection.execute(query.encode(), parameters, prepare=False).fetchall()
    if page:
        parameters["last"] = page[-1][0]
    return page


def _delete_messages(connection: Connection, page: Sequence[tuple[Any, ...]]) -> int:
    """Delete the messages of a page that nobody has locked; returns how many."""
    with connection.transaction():
        schema.fence(connection)
        held = erasure_rules.enter(connection).held  # also a hold that has begun since the page was read
        chats = chat_locks.try_lock_chats(connection, {chat_id for _, chat_id, _ in page} - held)
        keys = [(chat_id, msg_id) for _, chat_id, msg_id in page if chat_id in chats]
        return message_rows.delete_messages(connection, keys) if keys else 0


def _erase_events(connection: Connection, page: Sequence[tuple[Any, ...]]) -> int:
    lock, empty = _ERASE_EVENTS
    erased = 0
    with connection.transaction():
        schema.fence(connection)
        held = list(erasure_rules.enter(connection).held)
        # Bot by bot: rows of several machines cannot be locked in one statement.
        for bot_id in sorted({row[1] for row in page}):
            keys = [row[2:4] for row in page if row[1] == bot_id]
            unlocked = connection.execute(lock.encode(), (*_columns(keys), bot_id, held)).fetchall()
            if unlocked:
                erased += connection.execute(empty.encode(), (*_columns(unlocked), bot_id)).rowcount
    return erased


def _columns(keys: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*keys, strict=True)]
