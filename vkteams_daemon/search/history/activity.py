"""The activity in the archive: how much was said on each day and hour, by whom and where, and how soon others answered.

The kept counts answer for the chats that the reader sees whole, if the reader's days begin with an hour of UTC. Other
messages are counted one by one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

from vkteams_daemon import times
from vkteams_daemon.search.history import conversation
from vkteams_daemon.search.history.days import Days, days_between
from vkteams_daemon.search.names import chat_titles, names
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

MAX_DAYS = 366
WAITS = (60, 300, 1800, 7200, 86400)
"""Seconds: the thresholds between which answers are counted."""
_TOP = 10  # chats, and people
_QUARTER = 900  # seconds; every zone is a multiple of it away from UTC
_ANSWERED = (
    "SELECT o.chat_id, o.msg_id, extract(epoch FROM pg_catalog.min(m.sent_at) - o.sent_at)::float8 AS waited"
    " FROM messages m JOIN (SELECT m.chat_id, m.msg_id, m.user_id, m.sent_at FROM messages m WHERE {asked}) AS o"
    " ON o.chat_id = m.chat_id AND o.msg_id = m.reply_to_msg_id"
    " WHERE {answer} AND m.reply_to_msg_id IS NOT NULL AND m.user_id <> o.user_id AND m.sent_at >= o.sent_at"
    " GROUP BY o.chat_id, o.msg_id, o.sent_at"
)


@dataclass(frozen=True, slots=True)
class ChatActivity:
    """A chat and its messages on each day; `thread` is the beginning of the message that a thread hangs on."""

    chat_id: str
    name: str
    thread: str | None
    messages: int
    days: list[int]


@dataclass(frozen=True, slots=True)
class PersonActivity:
    """A person and their messages."""

    user_id: str
    name: str
    messages: int


@dataclass(frozen=True, slots=True)
class Answers:
    """How soon others answered, of the messages that were answered by a reply.

    Attributes:
        messages: how many were answered.
        median, p90: seconds until the first answer; None if there was none.
        waits: how many were answered below each threshold of `WAITS` and not below the one before, and how many later.
    """

    messages: int = 0
    median: float | None = None
    p90: float | None = None
    waits: list[int] = field(default_factory=lambda: [0] * (len(WAITS) + 1))


@dataclass(frozen=True, slots=True)
class Activity:
    """The messages of some days of the reader's zone; deleted ones are not counted.

    Attributes:
        dates: the days, oldest first.
        days: how many messages each has.
        hours: how many messages each hour has, for each day of the week, Monday first.
        chats: the busiest chats, the busiest first.
        people: those who wrote most.
        answers: of all chats.
        answers_by_chat: of the busiest chats that have any, by chat_id.
    """

    dates: list[date]
    days: list[int]
    hours: list[list[int]]
    chats: list[ChatActivity]
    people: list[PersonActivity]
    answers: Answers
    answers_by_chat: dict[str, Answers]

    @property
    def messages(self) -> int:
        """How many messages there are."""
        return sum(self.days)


def last_days(number: int, now: datetime) -> tuple[Days, datetime]:
    """So many days of the reader's zone, the last of which is that of `now` (aware), and when the last one ends."""
    days = days_between(now - timedelta(days=number), now + timedelta(days=1))
    *starts, end = days.starts[-number - 1 :]
    return Days(days.dates[-number - 1 : -1], starts), end


def activity(connection: Connection, scope: Scope, days: Days) -> Activity:
    """The activity of a scope.

    Args:
        connection: inside a transaction.
        scope: what is counted: from the beginning of the first day, or later, to the end of the last.
        days: the days.
    """
    parts = _parts(scope, days)
    totals: dict[str, int] = {}
    for part in parts:
        totals |= {chat_id: number for chat_id, number in part.by_chat(connection) if number > 0}
    top = sorted(totals, key=lambda chat_id: (-totals[chat_id], chat_id))[:_TOP]
    places = {day: place for place, day in enumerate(days.dates)}
    by_day, hours = [0] * len(days.dates), [[0] * 24 for _ in range(7)]
    by_chat = {chat_id: [0] * len(days.dates) for chat_id in top}
    zone = times.zone()
    for part in parts:
        for moment, chat_id, number in part.by_slot(connection, top):
            local = moment.astimezone(zone)
            place = places[local.date()]
            by_day[place] += number
            hours[local.weekday()][local.hour] += number
            if chat_id is not None:
                by_chat[chat_id][place] += number
    titles = chat_titles(connection, top, scope)
    threads = conversation.thread_beginnings(connection, top, scope)
    answers = _answers(connection, scope)
    return Activity(
        days.dates, by_day, hours,
        [
            ChatActivity(chat_id, titles.get(chat_id, chat_id), threads.get(chat_id), totals[chat_id], by_chat[chat_id])
            for chat_id in top
        ],
        _people(connection, scope), answers.pop(None, Answers()),
        {chat_id: answers[chat_id] for chat_id in top if chat_id in answers},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a scope that is counted in one way: from `chat_hour_counts`, or message by message."""

    scope: Scope
    kept: bool
    without: tuple[str, ...] = ()
    """Chats that another part counts."""

    def by_chat(self, connection: Connection) -> list[tuple[Any, ...]]:
        """chat_id and messages of each chat."""
        return self._rows(connection, "chat_id", [])

    def by_slot(self, connection: Connection, chat_ids: list[str]) -> list[tuple[Any, ...]]:
        """When a slot of time begins, a chat of these or None for all others, and the messages."""
        slot = (
            "hour" if self.kept else
            f"pg_catalog.to_timestamp(pg_catalog.floor(extract(epoch FROM m.sent_at)::float8 / {_QUARTER}.0::float8)"
            f" * {_QUARTER}.0::float8)"
        )  # fmt: skip
        return self._rows(
            connection, f"{slot} AS slot, CASE WHEN m.chat_id = ANY(%(top)s) THEN m.chat_id END", chat_ids
        )

    def _rows(self, connection: Connection, columns: str, top: list[str]) -> list[tuple[Any, ...]]:
        groups = "1, 2" if "slot" in columns else "1"
        if self.kept:
            number, table = "pg_catalog.sum(m.messages - m.deleted)::bigint", "chat_hour_counts"
            conditions = ["m.hour >= %(since)s", "m.hour < %(until)s", "m.chat_id <> ALL(%(without)s::text[])"]
            conditions += ["m.chat_id = ANY(%(chat_ids)s)"] if self.scope.chat_ids is not None else []
        else:
            number, table, conditions = "count(*)", "messages", [self.scope.condition]
        values = {**self.scope.parameters, "top": top, "without": list(self.without)}
        return connection.execute(
            f"SELECT {columns}, {number} FROM {table} m WHERE {' AND '.join(conditions)} GROUP BY {groups}".encode(),
            values, prepare=False,
        ).fetchall()  # fmt: skip


def _parts(scope: Scope, days: Days) -> list[_Part]:
    ends = [end.timestamp() % 3600 for end in (scope.since, scope.until) if end is not None]
    others = replace(scope, since=None, until=None, periods=())
    if not (days.begin_with_an_hour and ends == [0, 0] and others.chats_alone):
        return [_Part(scope, kept=False)]
    limited = tuple(sorted({period.chat_id for period in scope.periods}.intersection(scope.chat_ids or ())))
    if not limited:
        return [_Part(scope, kept=True)]
    return [_Part(scope, kept=True, without=limited), _Part(replace(scope, chat_ids=limited), kept=False)]


def _people(connection: Connection, scope: Scope) -> list[PersonActivity]:
    rows: list[tuple[Any, ...]] = connection.execute(
        f"SELECT m.user_id, count(*) FROM messages m WHERE {scope.condition} AND m.user_id IS NOT NULL"
        f" GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {_TOP}".encode(),
        scope.parameters,
        prepare=False,
    ).fetchall()
    known = names(connection, [user_id for user_id, _ in rows], scope)
    return [PersonActivity(user_id, known.get(user_id, user_id), number) for user_id, number in rows]


def _answers(connection: Connection, scope: Scope) -> dict[str | None, Answers]:
    """The answers of each chat, and of all chats under None."""
    answered = _ANSWERED.format(asked=scope.population.condition, answer=scope.condition)
    edges = [0, *WAITS]
    counts = ", ".join(f"count(*) FILTER (WHERE place = {n})" for n in range(1, len(edges) + 1))
    rows: list[tuple[Any, ...]] = connection.execute(
        # First each machine finds what it has: a reply stands in the chat of what it answers.
        f"WITH answered AS MATERIALIZED ({answered}), placed AS MATERIALIZED (SELECT chat_id, waited,"
        f" pg_catalog.width_bucket(waited, %(edges)s::float8[]) AS place FROM answered)"
        " SELECT grouping(chat_id), chat_id, count(*), pg_catalog.percentile_cont(ARRAY[0.5, 0.9]::float8[])"
        f" WITHIN GROUP (ORDER BY waited), {counts} FROM placed GROUP BY GROUPING SETS ((), (chat_id))"
        " HAVING count(*) > 0".encode(),
        {**scope.parameters, "edges": [float(edge) for edge in edges]},
        prepare=False,
    ).fetchall()
    return {
        None if all_chats else chat_id: Answers(number, median, p90, list(waits))
        for all_chats, chat_id, number, (median, p90), *waits in rows
    }
