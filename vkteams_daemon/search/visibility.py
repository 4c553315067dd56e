"""What a reader may see, as chats and periods: made of the reader's access and of the rosters, before each question.

A chat is nobody's while its roster cannot be trusted: it was never read, or too long ago, or the last attempt was
refused, or a bot has left the chat since. A thread belongs to the chat of the message that it hangs on. While that chat
is unknown, the thread is nobody's.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from vkteams_daemon.access import Access
from vkteams_daemon.search import notes
from vkteams_daemon.search.scope import Period, Scope, chat_by_chat, spelled_chats, with_threads
from vkteams_daemon.store.connections import Connection

# A thread has a parent. If that is not known yet, its first and its newest message still say that they stand in a
# thread.
_EDGES = (
    "SELECT c.chat_id, (SELECT pg_catalog.min(m.sent_at) FROM messages m WHERE m.chat_id = c.chat_id),"
    " (SELECT pg_catalog.max(m.sent_at) FROM messages m WHERE m.chat_id = c.chat_id)"
    " FROM {chats}"
)
_IN_THREADS = (
    "SELECT DISTINCT m.chat_id FROM unnest(%(edge_chats)s::text[], %(edges)s::timestamptz[])"
    " AS e (chat_id, sent_at) JOIN messages m ON m.chat_id = e.chat_id AND m.sent_at = e.sent_at"
    " WHERE m.thread IS NOT NULL"
)
# `r` is the chat's roster, as far as there is one.
_TRUSTED = (
    "(r.read_at >= now() - %(max_age)s::interval AND r.refused IS NULL"
    " AND NOT EXISTS (SELECT FROM chat_members b JOIN bots ON bots.bot_id = b.user_id WHERE b.chat_id = r.chat_id"
    "  AND b.left_at >= r.read_at))"
)
# Somebody who left after the list was read still stands in the list.
_MEMBERSHIPS = (
    "SELECT c.chat_id, CASE WHEN pg_catalog.isfinite(m.since) THEN m.since END, m.until FROM roster_members m"
    " JOIN rosters r ON r.chat_id = m.chat_id"
    " JOIN chats c ON c.chat_id = m.chat_id"
    f" WHERE m.user_id = %(user)s AND {_TRUSTED} AND c.parent_chat_id IS NULL"
    " AND EXISTS (SELECT FROM roster_members p WHERE p.chat_id = m.chat_id AND p.user_id = m.user_id"
    "  AND p.until IS NULL)"
    " AND NOT EXISTS (SELECT FROM chat_members l WHERE l.chat_id = m.chat_id AND l.user_id = m.user_id"
    "  AND l.left_at >= r.read_at)"
    " ORDER BY 1, 2"
)
_PRIVATE = "SELECT chat_id FROM chats WHERE chat_id = %(user)s AND type = 'private'"
_THREADS = "SELECT chat_id, parent_chat_id FROM chats WHERE parent_chat_id = ANY(%(chats)s) ORDER BY 1"
_NOBODYS = (
    "SELECT c.chat_id, CASE WHEN r.chat_id IS NULL OR r.read_at IS NULL"
    "  AND r.refused IS NULL THEN %(never)s::text WHEN r.refused IS NOT NULL"
    "  THEN pg_catalog.replace(%(refused)s::text, '{reason}', r.refused)"
    "  WHEN r.read_at < now() - %(max_age)s::interval THEN %(old)s::text"
    f"  ELSE %(bot_left)s::text END, {_TRUSTED} IS TRUE"
    " FROM chats c LEFT JOIN rosters r ON r.chat_id = c.chat_id"
    " WHERE c.type IS DISTINCT FROM 'private' AND c.parent_chat_id IS NULL ORDER BY 1"
)


@dataclass(frozen=True, slots=True)
class Visible:
    """What a reader may see.

    Attributes:
        chat_ids: only these chats, threads included; None is every chat.
        since: only messages sent from this moment on (aware).
        periods: of a chat that is named here, only these periods.
    """

    chat_ids: frozenset[str] | None = None
    since: datetime | None = None
    periods: tuple[Period, ...] = ()

    def narrow(self, scope: Scope) -> Scope:
        """The scope without anything that the reader may not see."""
        chats: Collection[str] | None = scope.chat_ids
        if self.chat_ids is not None:
            chats = sorted(self.chat_ids if chats is None else self.chat_ids.intersection(chats))
        since = max((moment for moment in (scope.since, self.since) if moment), default=None)
        return replace(scope, chat_ids=chats, since=since, periods=self.periods, confined=True)


@dataclass(frozen=True, slots=True)
class NobodysChat:
    """A chat that nobody sees through a roster."""

    chat_id: str
    reason: str


def visible(connection: Connection, access: Access, *, history: str, roster_max_age: timedelta) -> Visible:
    """What a reader with this access may see now.

    Args:
        connection: in a transaction of its own.
        access: the reader's.
        history: `joined` shows what was said while the person was a member, `whole` everything.
        roster_max_age: the age at which a roster is trusted no more.
    """
    chats = None
    if access.chats is not None:
        chats = frozenset(with_threads(connection, spelled_chats(connection, access.chats), access.since))
    if access.user is None:
        return Visible(chats, access.since)
    rows = _rows(connection, _MEMBERSHIPS, user=access.user, max_age=roster_max_age)
    _, in_threads = _known_threads(connection, {chat_id for chat_id, _, _ in rows})
    rows = [row for row in rows if row[0] not in in_threads]
    whole = {chat_id for chat_id, since, until in rows if until is None and (history == "whole" or since is None)}
    periods: dict[str, list[tuple[datetime | None, datetime | None]]] = {}
    for chat_id, since, until in rows:
        if chat_id not in whole:
            periods.setdefault(chat_id, []).append((since, until))
    parents = [*whole, *periods]
    threads = _rows(connection, _THREADS, chats=parents)
    private = [chat_id for (chat_id,) in _rows(connection, _PRIVATE, user=access.user)]
    limited = periods | {chat_id: periods[parent] for chat_id, parent in threads if parent in periods}
    seen = Visible(
        frozenset([*parents, *private, *(chat_id for chat_id, _ in threads)]),
        access.since,
        tuple(Period(chat_id, *period) for chat_id in sorted(limited) for period in limited[chat_id]),
    )
    # A thread that says nothing to the reader is not there: its id alone would say that somebody answered.
    scope = seen.narrow(Scope([chat_id for chat_id, _ in threads]))
    silent = {chat_id for chat_id, _ in threads}.difference(_speaking(connection, scope))
    assert seen.chat_ids is not None
    kept = seen.chat_ids - silent if chats is None else (seen.chat_ids - silent) & chats
    return replace(seen, chat_ids=kept, periods=tuple(period for period in seen.periods if period.chat_id in kept))


def _speaking(connection: Connection, scope: Scope) -> list[str]:
    """The chats of the scope that have a message in it."""
    rows = _rows(
        connection,
        f"SELECT c.chat_id FROM {chat_by_chat(connection, 'chat_ids')}"
        " WHERE EXISTS (SELECT FROM messages m WHERE m.chat_id = c.chat_id"
        f" AND {scope.condition_with_deleted})",
        **scope.parameters,
    )
    return [chat_id for (chat_id,) in rows]


def _known_threads(connection: Connection, chat_ids: Collection[str]) -> tuple[set[str], set[str]]:
    """Those of these chats that have messages, and those whose first or newest message stands in a thread."""
    each = chat_by_chat(connection, "chats")
    edges = _rows(connection, _EDGES.format(chats=each), chats=sorted(chat_ids)) if chat_ids else []
    speaking = {chat_id for chat_id, first, _ in edges if first is not None}
    ends = [(chat_id, at) for chat_id, *both in edges for at in both if at is not None]
    if not ends:
        return speaking, set()
    found = _rows(connection, _IN_THREADS, edge_chats=[end[0] for end in ends], edges=[end[1] for end in ends])
    return speaking, {chat_id for (chat_id,) in found}


def nobodys_chats(connection: Connection, roster_max_age: timedelta) -> list[NobodysChat]:
    """The chats with messages that no person may see, and why; private chats are no such chats."""
    rows = _rows(
        connection, _NOBODYS, max_age=roster_max_age, never=notes.NEVER_READ, refused=notes.REFUSED, old=notes.TOO_OLD,
        bot_left=notes.BOT_LEFT,
    )  # fmt: skip
    # A chat without messages has nothing to show.
    speaking, in_threads = _known_threads(connection, [row[0] for row in rows])
    return [
        NobodysChat(chat_id, notes.NO_PARENT if chat_id in in_threads else reason)
        for chat_id, reason, trusted in rows
        if chat_id in speaking and (chat_id in in_threads or not trusted)
    ]


def _rows(connection: Connection, sql: str, **parameters: Any) -> list[tuple[Any, ...]]:
    return connection.execute(sql.encode(), parameters, prepare=False).fetchall()
