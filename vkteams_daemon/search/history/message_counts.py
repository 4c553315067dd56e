"""Counts of messages: altogether, by chat, by author and by day; and how far the archive lagged behind lately."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

from vkteams_daemon.search.history.days import Days, days_between
from vkteams_daemon.search.history.results import ChatStatistics, DayStatistics, Lag, UserStatistics
from vkteams_daemon.search.names import chat_titles, names
from vkteams_daemon.search.scope import MANY_CHATS, Scope, chat_by_chat
from vkteams_daemon.store.connections import Connection

_TOP = 20  # chats, and authors
_DAYS = 30
_LAG_SAMPLE = 1000  # newest messages whose lag is measured
# The place of a moment's day among the days of the reader's zone, 1 for the oldest; 0 before it.
_STARTS = "(%(days)s::timestamptz[])"
_DAY = f"pg_catalog.width_bucket(sent_at, {_STARTS})"
_LOOK_BACK = _DAYS  # days; among them the newest days with messages are looked for first, then further back
_EDGES = (
    "SELECT c.chat_id, (SELECT pg_catalog.min(m.sent_at) FROM messages m WHERE m.chat_id = c.chat_id),"
    " (SELECT pg_catalog.max(m.sent_at) FROM messages m WHERE m.chat_id = c.chat_id)"
    " FROM {chats}"
)
_ALL, _CHAT, _USER, _DATE = 7, 3, 5, 6  # the value of grouping(chat, user, day) for each set


@dataclass(frozen=True, slots=True)
class CountedPart:
    """The part of the archive that is counted: the chats of a scope, from its `since` on."""

    scope: Scope

    @property
    def whole(self) -> bool:
        """Whether it is the whole archive."""
        return self.scope.chat_ids is None and self.scope.since is None and self.scope.until is None

    @property
    def values(self) -> dict[str, Any]:
        """The values that the conditions name."""
        chats = self.scope.parameters["chat_ids"]
        return {"chats": chats, "since": self.scope.since, "until": self.scope.until, **self.scope.period_parameters}

    def where(self, moment: str, *more: str) -> str:
        """WHERE for a table with a chat_id and this column for its time; empty if there is no condition."""
        return self._where([*self._since(moment), *more, *self._periods("chat_id", moment)])

    def where_few(self, moment: str, condition: str) -> str:
        """The same with a condition whose few rows an index names (see `Scope.condition_of_few`)."""
        many = self.scope.chat_ids is not None and len(self.scope.chat_ids) > MANY_CHATS
        where = self.where(moment, condition)
        return where.replace("chat_id = ANY", "chat_id || ''::text = ANY") if many else where

    def of_messages(self, table: str) -> str:
        """WHERE for a table whose rows belong to messages and have no time of their own."""
        times = [*self._since("m.sent_at"), *self._periods("m.chat_id", "m.sent_at")]
        return self._where([self._message(table, "msg_id", times)] if times else [])

    def of_events(self) -> str:
        """WHERE for the events, as `events AS e`.

        A confined reader does not learn that a message was edited or deleted that they may not see.
        """
        times = [*self._since("m.sent_at"), *self._periods("m.chat_id", "m.sent_at")]
        if not (self.scope.confined and times):
            return self.where("received_at")
        return self._where([self._message("e", "subject", times)])

    @staticmethod
    def _message(table: str, column: str, times: list[str]) -> str:
        return (
            f"({table}.chat_id, {table}.{column}) IN (SELECT m.chat_id, m.msg_id FROM messages m"
            f" WHERE {' AND '.join(times)})"
        )

    def _since(self, moment: str) -> list[str]:
        since = [f"{moment} >= %(since)s"] if self.scope.since is not None else []
        return since + ([f"{moment} < %(until)s"] if self.scope.until is not None else [])

    def _periods(self, chat: str, moment: str) -> list[str]:
        return [self.scope.within_periods(chat, moment)] if self.scope.periods else []

    def _where(self, parts: list[str]) -> str:
        chats = ["chat_id = ANY(%(chats)s)"] if self.scope.chat_ids is not None else []
        return f"WHERE {' AND '.join([*parts, *chats])}" if parts or chats else ""


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """The counts of one part; the lists are those of `results.Statistics`."""

    messages: int = 0
    edited: int = 0
    deleted: int = 0
    versions: int = 0
    chats: int = 0
    users: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    by_chat: list[ChatStatistics] = field(default_factory=list)
    by_user: list[UserStatistics] = field(default_factory=list)
    by_day: list[DayStatistics] = field(default_factory=list)


def message_counts(connection: Connection, part: CountedPart) -> MessageCounts:
    """Count the messages of this part."""
    days = _days(connection)
    if part.scope.chats_alone and days.begin_with_an_hour:
        rows = _kept_rows(connection, part, days)
    else:
        values = {**part.values, "days": days.starts}
        rows = connection.execute(_counted(part).encode(), values, prepare=False).fetchall()
    groups: dict[int, list[tuple[Any, ...]]] = {_ALL: [], _CHAT: [], _USER: [], _DATE: []}
    for group, *row in rows:
        groups[group].append(tuple(row))
    titles = chat_titles(connection, [row[0] for row in groups[_CHAT]], part.scope)
    authors = names(connection, [row[0] for row in groups[_USER]], part.scope)
    _, messages, edited, deleted, first, last, _, chats, users, versions = groups[_ALL][0]
    return MessageCounts(
        messages, edited, deleted, versions, chats, users, first, last,
        by_chat=[ChatStatistics(c, titles.get(c), n, e, d, last) for c, n, e, d, _, last, *_ in groups[_CHAT]],
        by_user=[UserStatistics(u, authors.get(u), n, e, d, last) for u, n, e, d, _, last, *_ in groups[_USER]],
        by_day=[
            DayStatistics(days.dates[day - 1], n, e, d)
            for _, n, e, d, _, _, day, *_ in reversed(groups[_DATE])
            if day
        ],
    )  # fmt: skip


def _days(connection: Connection) -> Days:
    """The days of the whole archive. Those in which the reader may see nothing have no row in the answer."""
    row = connection.execute(b"SELECT pg_catalog.min(sent_at), pg_catalog.max(sent_at) FROM messages").fetchone()
    return days_between(*row) if row and row[0] else Days([], [])


def _counted(part: CountedPart) -> str:
    """The query that reads each message of this part once."""
    return (
        # First each machine groups what it has. Citus cannot group by sets over several machines.
        f"WITH groups AS MATERIALIZED (SELECT chat_id, user_id, {_DAY} AS day, count(*) AS n,"
        "  pg_catalog.count(edited_at) AS edited, pg_catalog.count(deleted_at) AS deleted,"
        "  pg_catalog.sum(greatest(version - 1, 0)) AS versions, pg_catalog.min(sent_at) AS first,"
        f"  pg_catalog.max(sent_at) AS last FROM messages {part.where('sent_at')} GROUP BY 1, 2, 3),"
        " c AS MATERIALIZED (SELECT grouping(chat_id, user_id, day) AS g, chat_id, user_id, day,"
        "  coalesce(pg_catalog.sum(n), 0)::bigint AS n, coalesce(pg_catalog.sum(edited), 0)::bigint AS edited,"
        "  coalesce(pg_catalog.sum(deleted), 0)::bigint AS deleted, pg_catalog.sum(versions)::bigint AS versions,"
        "  pg_catalog.min(first) AS first, pg_catalog.max(last) AS last FROM groups"
        "  GROUP BY GROUPING SETS ((), (chat_id), (user_id), (day)))"
        " SELECT g, NULL::text, n, edited, deleted, first, last, NULL::int4,"
        f"  (SELECT count(*) FROM c WHERE g = {_CHAT}),"
        f"  (SELECT count(*) FROM c WHERE g = {_USER} AND user_id IS NOT NULL), coalesce(versions, 0)"
        f"  FROM c WHERE g = {_ALL}"
        f" UNION ALL (SELECT g, chat_id, n, edited, deleted, first, last, NULL, 0, 0, 0 FROM c WHERE g = {_CHAT}"
        f"  ORDER BY n DESC, chat_id LIMIT {_TOP})"
        " UNION ALL (SELECT g, user_id, n, edited, deleted, first, last, NULL, 0, 0, 0 FROM c"
        f"  WHERE g = {_USER} AND user_id IS NOT NULL ORDER BY n DESC, user_id LIMIT {_TOP})"
        f" UNION ALL (SELECT g, NULL, n, edited, deleted, first, last, day, 0, 0, 0 FROM c WHERE g = {_DATE}"
        f"  ORDER BY day DESC LIMIT {_DAYS})"
    )


def _kept_rows(connection: Connection, part: CountedPart, days: Days) -> list[tuple[Any, ...]]:
    """The same rows from the kept counts, for a part that is whole chats."""
    chats = part.where("")
    sums = ", ".join(f"pg_catalog.sum({column})::bigint AS {column}" for column in ("messages", "edited", "deleted"))
    last_of_all = "pg_catalog.max(last_at) AS last"
    where = chats or "WHERE true"

    def rows(query: str, **values: Any) -> list[tuple[Any, ...]]:
        return connection.execute(query.encode(), part.values | values, prepare=False).fetchall()

    # Each once over the counts; of both only some are sent.
    by_chat = rows(
        f"SELECT *, pg_catalog.sum(messages) OVER (), pg_catalog.sum(edited) OVER (), pg_catalog.sum(deleted) OVER (),"
        f" pg_catalog.sum(versions) OVER (), count(*) OVER () FROM (SELECT chat_id, {sums},"
        f" pg_catalog.sum(versions)::bigint AS versions, {last_of_all} FROM chat_user_counts {chats} GROUP BY chat_id)"
        f" AS c ORDER BY messages DESC, chat_id LIMIT {_TOP}"
    )
    by_user = rows(
        f"SELECT *, count(*) OVER () FROM (SELECT user_id, {sums}, {last_of_all} FROM chat_user_counts"
        f" {where} AND user_id <> '' GROUP BY user_id) AS u ORDER BY messages DESC, user_id LIMIT {_TOP}"
    )
    of_each = _EDGES.format(chats=chat_by_chat(connection, "chats"))
    edges = {chat_id: times for chat_id, *times in rows(of_each, chats=[row[0] for row in by_chat])} if by_chat else {}
    if part.scope.chat_ids is None:
        [ends] = rows("SELECT pg_catalog.min(sent_at), pg_catalog.max(sent_at) FROM messages")
    else:
        times = rows(of_each)
        ends = (min((t[1] for t in times if t[1]), default=None), max((t[2] for t in times if t[2]), default=None))
    # Each person apart: one access to an index. Who has deleted nothing is known from the counts.
    newest = f"SELECT pg_catalog.max(sent_at) FROM messages {where} AND user_id = %(user)s"
    found: list[tuple[Any, ...]] = []
    *sums_of_all, chat_count = by_chat[0][6:] if by_chat else (0, 0, 0, 0, 0)
    messages, edited, deleted, versions = map(int, sums_of_all)
    user_count = by_user[0][5] if by_user else 0
    found.append((_ALL, None, messages, edited, deleted, *ends, None, chat_count, user_count, versions))
    for chat_id, *numbers in by_chat:
        found.append((_CHAT, chat_id, *numbers[:3], None, edges[chat_id][1], None, 0, 0, 0))
    for user_id, *numbers in by_user:
        last = rows(newest, user=user_id)[0][0] if numbers[2] else numbers[3]
        found.append((_USER, user_id, *numbers[:3], None, last, None, 0, 0, 0))
    by_day = (  # the day is looked for once for each hour, and not for each chat
        f"WITH h AS MATERIALIZED (SELECT hour, {sums} FROM chat_hour_counts {where} AND hour >= %(begin)s"
        " GROUP BY hour)"
        f" SELECT {_DATE}, NULL, {sums}, NULL, NULL, pg_catalog.width_bucket(hour, {_STARTS}) AS day, 0, 0, 0"
        f" FROM h GROUP BY day ORDER BY day DESC LIMIT {_DAYS}"
    )
    return found + _newest_days(days, lambda begin: rows(by_day, begin=begin, days=days.starts))


def _newest_days(days: Days, rows: Callable[[datetime], list[tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
    """The newest days that have messages: those of the last weeks, and further back if these are too few."""
    back = _LOOK_BACK
    while days.starts:
        found = rows(days.starts[-min(back, len(days.starts))])
        if len(found) == _DAYS or back >= len(days.starts):
            return found
        back *= 8
    return []


def lag(connection: Connection, part: CountedPart) -> Lag:
    """How far the archive lagged behind with the newest messages of this part."""
    percentiles = "pg_catalog.percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY extract(epoch FROM {})::float8)"
    row = connection.execute(
        "WITH newest AS MATERIALIZED (SELECT chat_id, msg_id, sent_at, received_at, version FROM messages"
        # A row of version 0 comes from a pin or a deletion: its message has not just arrived.
        f" {part.where('sent_at', 'version > 0')} ORDER BY sent_at DESC LIMIT {_LAG_SAMPLE})"
        f" SELECT (SELECT {percentiles.format('n.received_at - n.sent_at')} FROM newest n),"
        # A new model starts with messages that are long in the archive.
        f" (SELECT {percentiles.format('e.embedded_at - n.received_at')} FROM newest n"
        "   JOIN embeddings e ON e.chat_id = n.chat_id AND e.msg_id = n.msg_id"
        "   AND e.kind = 'message' AND e.chunk = 0"
        "   JOIN embedding_models m ON m.model_id = e.model_id AND m.state = 'active'"
        "   WHERE n.version = 1 AND n.received_at >= m.created_at)".encode(),
        part.values,
        prepare=False,
    ).fetchone()
    stored, vectors = row or (None, None)
    return Lag(*(stored or (None, None)), *(vectors or (None, None)))


def counts_by_chat(connection: Connection, scope: Scope) -> dict[str, tuple[int, int, int]]:
    """Of each chat the messages of the hours that begin after the scope's `since`, the deleted, earlier versions."""
    part = CountedPart(scope)
    rows = connection.execute(
        "SELECT chat_id, pg_catalog.sum(messages)::bigint, pg_catalog.sum(deleted)::bigint,"
        f" pg_catalog.sum(versions)::bigint FROM chat_hour_counts {part.where('hour')} GROUP BY chat_id".encode(),
        part.values,
        prepare=False,
    )
    return {chat_id: (messages, deleted, versions) for chat_id, messages, deleted, versions in rows}


def edits_by_chat(connection: Connection, scope: Scope) -> dict[str, int]:
    """Of each chat of the scope with edited messages: the sum of their version numbers, which grows with each edit."""
    edited = replace(scope, edited=True)
    rows = connection.execute(
        "SELECT m.chat_id, pg_catalog.sum(m.version)::bigint FROM messages m"
        f" WHERE {edited.condition} GROUP BY m.chat_id".encode(),
        edited.parameters,
        prepare=False,
    )
    return {chat_id: int(versions) for chat_id, versions in rows}


@dataclass(frozen=True, slots=True)
class DayLag:
    """How long the messages of a day took from the time of sending to the arrival here, in seconds."""

    date: date
    messages: int
    p50: float
    p99: float


def lag_by_day(connection: Connection, days: Days) -> list[DayLag]:
    """The lag of each of these days that has messages, of every chat."""
    percentiles = "pg_catalog.percentile_cont(ARRAY[0.5, 0.99]::float8[]) WITHIN GROUP (ORDER BY waited)"
    rows = connection.execute(
        f"WITH m AS MATERIALIZED (SELECT {_DAY} AS day, extract(epoch FROM received_at - sent_at)::float8 AS waited"
        " FROM messages WHERE sent_at >= %(since)s AND sent_at < now() AND version > 0)"
        f" SELECT day, count(*), {percentiles} FROM m GROUP BY day ORDER BY day".encode(),
        {"days": days.starts, "since": days.starts[0]},
        prepare=False,
    ).fetchall()
    return [DayLag(days.dates[day - 1], number, *percentiles) for day, number, percentiles in rows]
