"""The coverage of an answer: since when the archive listens, what has no vector yet, and what may be missing."""

from __future__ import annotations

from datetime import UTC, datetime

from vkteams_daemon import times
from vkteams_daemon.search import notes
from vkteams_daemon.search.results import Coverage
from vkteams_daemon.search.scope import MANY_CHATS, Scope, chat_by_chat
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.embedding_models import active_models
from vkteams_daemon.store.words import searched_texts
from vkteams_daemon.store.words.lexicon import CUT

_MANY = 10_000  # messages with old terms beyond which they are not counted: an upgrade leaves a whole archive of them
_ALWAYS = datetime.min.replace(tzinfo=UTC)
# A gap of chats that the reader sees for a time concerns the reader if it overlaps that time.
_IN_PERIODS = (
    " AND (chat_ids IS NULL OR EXISTS (SELECT FROM pg_catalog.unnest(g.chat_ids) AS c (chat_id)"
    " WHERE c.chat_id = ANY(%(chats)s::text[]) AND (c.chat_id <> ALL(%(period_chats)s::text[]) OR EXISTS"
    " (SELECT FROM ROWS FROM (pg_catalog.unnest(%(period_chats)s::text[]),"
    " pg_catalog.unnest(%(period_starts)s::timestamptz[]), pg_catalog.unnest(%(period_ends)s::timestamptz[]))"
    " AS p (chat_id, start, stop) WHERE p.chat_id = c.chat_id"
    " AND (g.to_time IS NULL OR greatest(g.from_time, g.to_time) >= p.start)"
    " AND (g.from_time IS NULL OR least(g.from_time, g.to_time) < p.stop)))))"
)

# An idle primary sends nothing, so the time of the last transaction says something only where more has been received,
# or nobody sends. A moment's work is no delay.
_STANDBY = (
    "SELECT pg_catalog.pg_last_xact_replay_timestamp(),"
    " pg_catalog.pg_last_xact_replay_timestamp() > clock_timestamp() - '2 s'::interval"
    " OR (coalesce(pg_catalog.pg_last_wal_replay_lsn() = pg_catalog.pg_last_wal_receive_lsn(), false)"
    "  AND EXISTS (SELECT FROM pg_catalog.pg_stat_wal_receiver))"
)


def coverage(connection: Connection, scope: Scope) -> Coverage:
    """The coverage of the archive, or of the chats of the scope; for a confined reader of what they may see.

    A gap whose chats are unknown is reported to every reader, because it concerns every chat. Of a gap a reader learns
    only the times, and not those before the scope's `since`.
    """
    chats = None if scope.chat_ids is None else sorted(scope.chat_ids)
    begin = (scope.since if scope.confined else None) or _ALWAYS
    periods = f" AND {scope.within_periods()}" if scope.periods else ""
    # An expression, so that the planner does not weigh each chat (see `Scope.condition_of_few`).
    column = "chat_id || ''::text" if chats and len(chats) > MANY_CHATS else "chat_id"
    in_chats = "" if chats is None else f" AND {column} = ANY(%(chats)s)"
    in_chats_or_none = "" if chats is None else f" AND (chat_id IS NULL OR {column} = ANY(%(chats)s))"
    models = active_models(connection)
    # With several models, a message may wait for more than one.
    waiting = "*" if len(models) < 2 else "DISTINCT (chat_id, msg_id)"
    # A confined reader learns nothing of the time before `since`: neither what was said, nor what waits or failed.
    first = (
        "SELECT pg_catalog.min(sent_at) FROM messages WHERE sent_at >= %(since)s"
        if chats is None
        # Chat by chat, so that each minimum is the first entry of an index.
        else "SELECT pg_catalog.min((SELECT pg_catalog.min(m.sent_at) FROM messages m WHERE m.chat_id = c.chat_id"
        f" AND m.sent_at >= %(since)s{periods})) FROM {chat_by_chat(connection, 'chats')}"
    )
    # Without the chats, which the row of the queue has as well: with them the planner would read all their messages.
    visible = (
        f" AND (chat_id, msg_id) IN (SELECT m.chat_id, m.msg_id FROM messages m WHERE m.sent_at >= %(since)s{periods})"
    )
    timed = scope.confined and (scope.since is not None or bool(scope.periods))
    row = connection.execute(
        f"SELECT ({first}),"
        f" (SELECT count({waiting}) FROM embedding_queue q WHERE model_id = ANY(%(models)s) AND kind = 'message'"
        f"{in_chats}{visible if timed else ''}),"
        " (SELECT count(*) FROM events WHERE error IS NOT NULL"
        "   AND occurred_at >= %(since)s"
        f"{' AND ' + scope.within_periods('chat_id', 'occurred_at') if scope.periods else ''}"
        f"{in_chats if scope.confined else in_chats_or_none})".encode(),
        {
            "chats": chats,
            "models": [model.model_id for model in models],
            "since": begin,
            **scope.period_parameters,
        },
        prepare=False,
    ).fetchone()
    assert row is not None
    first_at, queued, quarantined = row
    gaps = (
        *_behind(connection),
        *_unread(quarantined),
        *_missing(connection, scope),
        *_not_searched(connection, scope),
    )
    return Coverage(first_at, queued if models else None, tuple(model.name for model in models), gaps)


def _behind(connection: Connection) -> list[str]:
    """Since when a standby has not kept up, as a sentence: it was paused, is slow, or has lost its primary."""
    if connection.info.parameter_status("in_hot_standby") != "on":
        return []
    row = connection.execute(_STANDBY.encode()).fetchone()
    replayed_at, keeps_up = row or (None, False)
    if keeps_up:
        return []
    return [notes.STANDBY.format(moment=times.shown(replayed_at, seconds=True)) if replayed_at else notes.STANDBY_EMPTY]


def _unread(quarantined: int) -> list[str]:
    return _counted(notes.UNREAD_ONE, notes.UNREAD, quarantined)


def _counted(one: str, many: str, number: int | str) -> list[str]:
    return [one if number == 1 else many.format(number=number)] if number else []


def _not_searched(connection: Connection, scope: Scope) -> list[str]:
    """What search by words does not find although it is there, as sentences."""
    visible = scope.population if scope.confined else Scope(scope.chat_ids)
    seen = visible.condition_of_few
    row = connection.execute(
        "SELECT (SELECT count(*) FROM (SELECT 1 FROM messages m WHERE"
        f" m.search_version < {searched_texts.VERSION} AND {seen} LIMIT {_MANY + 1}) AS old),"
        f" (SELECT count(*) FROM messages m WHERE m.search @@ %(cut)s::tsquery AND {seen})".encode(),
        {**visible.parameters, "cut": f"'{CUT}'"},
        prepare=False,
    ).fetchone()
    old, cut = row or (0, 0)
    shown = old if old <= _MANY else f"more than {_MANY}"
    return [
        *_counted(notes.OLD_TERMS_ONE, notes.OLD_TERMS, shown), *_counted(notes.TOO_LONG_ONE, notes.TOO_LONG, cut)
    ]  # fmt: skip


def _missing(connection: Connection, scope: Scope) -> list[str]:
    """The gaps that are not dismissed and concern the chats and times of the scope, as sentences."""
    chats = None if scope.chat_ids is None else sorted(scope.chat_ids)
    rows = connection.execute(
        # A clock that was wrong may have made the times change places.
        "SELECT DISTINCT reason, greatest(CASE WHEN from_time IS NOT NULL THEN least(from_time, to_time) END,"
        " %(since)s::timestamptz), CASE WHEN to_time IS NOT NULL THEN greatest(from_time, to_time) END"
        " FROM gaps g WHERE dismissed_at IS NULL"
        " AND (%(chats)s::text[] IS NULL OR chat_ids IS NULL OR chat_ids OPERATOR(pg_catalog.&&) %(chats)s::text[])"
        " AND (%(since)s::timestamptz IS NULL OR to_time IS NULL OR greatest(from_time, to_time) >= %(since)s)"
        " AND (%(until)s::timestamptz IS NULL OR from_time IS NULL OR least(from_time, to_time) < %(until)s)"
        f"{_IN_PERIODS if scope.periods else ''}"
        " ORDER BY 2, 3, 1".encode(),
        {"chats": chats, "since": scope.since, "until": scope.until, **scope.period_parameters},
        prepare=False,
    ).fetchall()
    return [_gap(*row) for row in rows]


def _gap(reason: str, start: datetime | None, end: datetime | None) -> str:
    first, last = (times.shown(moment, seconds=True) if moment else None for moment in (start, end))
    if first and last:
        return notes.MISSING_BETWEEN.format(start=first, end=last, reason=reason)
    if first or last:
        return (notes.MISSING_AFTER if first else notes.MISSING_BEFORE).format(moment=first or last, reason=reason)
    return notes.MISSING.format(reason=reason)
