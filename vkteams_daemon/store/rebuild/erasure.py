"""Erases what is old: messages with their versions and vectors go, events lose what they say and keep their keys.

So nothing that was erased is fetched again, or derived again from what is stored: replay passes emptied events by.
Batch by batch, each a transaction that holds the locks of its chats for a moment, beside a running daemon; what was
interrupted is gone on with by the next call. Chats, users and members stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import projection

Progress = Callable[[int, int], None]  # how many messages and events of how many are done

_BATCH = 500
_OF_CHATS = "(%(chats)s::text[] IS NULL OR m.chat_id = ANY(%(chats)s))"
_SENT = "m.sent_at < %(before)s"
# A clock that was wrong, or somebody who wants to stay: a message from the future is as old as its arrival.
_AHEAD = "m.sent_at > now() AND m.received_at < %(before)s"
_OLD = f"({_SENT} OR {_AHEAD}) AND {_OF_CHATS}"
_FULL = f"m.received_at < %(before)s AND (m.payload IS NOT NULL OR m.raw IS NOT NULL) AND {_OF_CHATS}"
# One after the other, for the index on sent_at answers each, and would be read to its end for both at once.
_MESSAGES = tuple(
    f"SELECT m.sent_at, m.chat_id, m.msg_id FROM messages m WHERE {when} AND {_OF_CHATS} AND m.sent_at >= %(last)s"
    " ORDER BY m.sent_at LIMIT %(batch)s"
    for when in (_SENT, _AHEAD)
)
_EVENTS = (
    f"SELECT m.received_at, m.bot_id, m.generation, m.event_id FROM events m WHERE {_FULL}"
    " AND m.received_at >= %(last)s ORDER BY m.received_at LIMIT %(batch)s"
)
# An event that somebody else has in hand is passed by, for we hold others that he may wait for; the next call takes it.
_EMPTY = (
    "WITH these AS (SELECT e.bot_id, e.generation, e.event_id FROM unnest(%s::text[], %s::int[], %s::bigint[])"
    " AS k (bot_id, generation, event_id) JOIN events e USING (bot_id, generation, event_id)"
    " FOR UPDATE OF e SKIP LOCKED)"
    " UPDATE events e SET payload = NULL, raw = NULL FROM these t WHERE e.bot_id = t.bot_id"
    " AND e.generation = t.generation AND e.event_id = t.event_id"
)
_COUNT = (
    f"SELECT (SELECT count(*) FROM messages m WHERE {_OLD}),"
    f" (SELECT count(*) FROM message_versions JOIN messages m USING (chat_id, msg_id) WHERE {_OLD}),"
    f" (SELECT count(*) FROM embeddings JOIN messages m USING (chat_id, msg_id) WHERE {_OLD}),"
    f" (SELECT count(*) FROM events m WHERE {_FULL})"
)


@dataclass(frozen=True, slots=True)
class ExpiredCounts:
    """What is older than some moment.

    Attributes:
        versions, vectors: of these messages.
        events: that arrived before it and still say something; later ones of these messages come on top.
    """

    messages: int
    versions: int
    vectors: int
    events: int


@dataclass(slots=True)
class ErasureResult:
    """What was done: messages deleted, further events emptied."""

    messages: int = 0
    events: int = 0


def count_expired(connection: Connection, before: datetime, chat_ids: Sequence[str] | None = None) -> ExpiredCounts:
    """Count what `erase` would take."""
    with translate_errors():
        row = connection.execute(_COUNT.encode(), _asked(before, chat_ids)).fetchone()
    assert row is not None
    return ExpiredCounts(*row)


def erase(
    connection: Connection,
    before: datetime,
    chat_ids: Sequence[str] | None = None,
    *,
    progress: Progress = lambda done, total: None,
    stopped: Callable[[], bool] = lambda: False,
) -> ErasureResult:
    """Erase the messages that were sent, and the events that arrived, before a moment.

    A message that says it was sent in the future goes by its arrival.

    Args:
        connection: of the caller's own, in autocommit mode.
        before: the moment (aware).
        chat_ids: only of these chats; None is everything, events of no chat included.
        progress: called after each batch.
        stopped: asked between the batches whether to leave it at that.
    """
    done = ErasureResult()
    asked = _asked(before, chat_ids)
    with translate_errors():
        projection.prepare_connection(connection)
        found = count_expired(connection, before, chat_ids)
        total = found.messages + found.events

        def tell() -> None:
            progress(min(done.messages + done.events, total), total)

        for query in _MESSAGES:
            asked["last"] = "-infinity"
            while not stopped() and (page := _page(connection, query, asked)):
                done.messages += _forget(connection, [(chat_id, msg_id) for _, chat_id, msg_id in page])
                tell()
        asked["last"] = "-infinity"
        while not stopped() and (page := _page(connection, _EVENTS, asked)):
            columns = [list(column) for column in zip(*page, strict=True)][1:]
            emptied = connection.execute(_EMPTY.encode(), columns).rowcount
            done.events += emptied
            tell()
            if not emptied:
                break  # in other hands, all of them
    return done


def _asked(before: datetime, chat_ids: Sequence[str] | None) -> dict[str, Any]:
    chats = None if chat_ids is None else list(chat_ids)
    return {"before": before, "chats": chats, "batch": _BATCH, "last": "-infinity"}


def _page(connection: Connection, query: str, asked: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The oldest that are left; the next page need not look again at what was deleted before it."""
    page = connection.execute(query.encode(), asked, prepare=False).fetchall()
    if page:
        asked["last"] = page[-1][0]
    return page


def _forget(connection: Connection, keys: Sequence[tuple[str, str]]) -> int:
    with connection.transaction():
        projection.lock_chats(connection, {chat_id for chat_id, _ in keys})
        projection.delete_messages(connection, keys)
    return len(keys)
