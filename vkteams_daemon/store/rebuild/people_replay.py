"""Derives chats, users and members again from the stored events, in the order of their arrival.

The rows are built in staging tables beside the daemon, and merged into the real ones at the end. An erased event may
have said anything, and what it said is only in the real rows. So the staged rows are certain only of what was said
after the last erased event. What was said before fills only what the real rows do not know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from vkteams_daemon.botapi.facts import Facts, Unreadable, derive
from vkteams_daemon.store import erasure_rules, schema
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive.people import People

_EVENTS_BY_ARRIVAL = (
    "SELECT received_at, bot_id, generation, event_id, type, payload, error IS NOT NULL FROM events"
    " WHERE received_at >= %(at)s AND (received_at, bot_id, generation, event_id) > (%(at)s, %(bot)s, %(gen)s, %(id)s)"
    " ORDER BY received_at, bot_id, generation, event_id LIMIT %(limit)s"
)
_STAGED = "pg_temp.replayed_"  # from all events that are left
_CERTAIN = "pg_temp.certain_"  # from the events after the last erased one
_TABLES = ("chats", "users", "chat_members")
_EMPTY_CERTAIN = "; ".join(f"TRUNCATE {_CERTAIN}{table}" for table in _TABLES)
_CREATE_STAGING = "; ".join(
    f"CREATE TEMPORARY TABLE IF NOT EXISTS {prefix}{table} (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES);"
    f" TRUNCATE {prefix}{table}"
    for table in _TABLES
    for prefix in (_STAGED, _CERTAIN)
)


def _settle(table: str, key: str, *columns: str) -> str:
    """The statement that settles a staged table if events were erased.

    A column gets what is certain, else what the real row says, else what the remaining events say.
    If that changes nothing, the row has not changed since `seen_at` either.
    """
    values = [f"coalesce(c.{column}, r.{column}, s.{column})" for column in columns]
    changed = f"({', '.join(values)}) IS DISTINCT FROM ({', '.join(f'r.{column}' for column in columns)})"
    assignments = ", ".join(f"{column} = {value}" for column, value in zip(columns, values, strict=True))
    return (
        f"UPDATE {_STAGED}{table} AS s SET {assignments},"
        f" seen_at = CASE WHEN {changed} THEN greatest(r.seen_at, s.seen_at) ELSE r.seen_at END"
        # OFFSET: Citus reads the table first, and does not try to join its copies with the temporary ones.
        f" FROM (SELECT * FROM {table} OFFSET 0) AS r LEFT JOIN {_CERTAIN}{table} AS c ON c.{key} = r.{key}"
        f" WHERE r.{key} = s.{key}"
    )


_SETTLE = (
    _settle("chats", "chat_id", "type", "title", "parent_chat_id", "parent_msg_id"),
    _settle("users", "user_id", "first_name", "last_name", "nick", "is_bot"),
    # A member who left may have joined in an erased event.
    f"UPDATE {_STAGED}chat_members AS s SET joined_at = coalesce(s.joined_at, m.joined_at),"
    " added_by = CASE WHEN s.joined_at IS NULL THEN m.added_by ELSE s.added_by END"
    " FROM chat_members AS m WHERE m.chat_id = s.chat_id AND m.user_id = s.user_id",
)


def _set_columns(*columns: str) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column in columns)


def _merge(*, erased: bool) -> tuple[str, ...]:
    """The statements that bring the staged rows into the real tables.

    If events were erased, a newer row stays: it comes from one of them. Otherwise the staged rows are all that is
    known. The real row has another time where an event came late.
    """
    # The rows are compared column by column, because another role could make an operator for the tables' row types.
    return (
        f"INSERT INTO chats AS c SELECT * FROM {_STAGED}chats ON CONFLICT (chat_id) DO UPDATE SET"
        f" {_set_columns('type', 'title', 'parent_chat_id', 'parent_msg_id', 'seen_at')},"
        " first_seen_at = least(c.first_seen_at, excluded.first_seen_at)"
        f" WHERE {'excluded.seen_at >= c.seen_at AND' if erased else ''} ROW(c.*) IS DISTINCT FROM ROW(excluded.*)",
        f"INSERT INTO users AS u SELECT * FROM {_STAGED}users ON CONFLICT (user_id) DO UPDATE SET"
        f" {_set_columns('first_name', 'last_name', 'nick', 'is_bot', 'seen_at')}"
        f" WHERE {'excluded.seen_at >= u.seen_at AND' if erased else ''} ROW(u.*) IS DISTINCT FROM ROW(excluded.*)",
        f"INSERT INTO chat_members AS m SELECT * FROM {_STAGED}chat_members ON CONFLICT (chat_id, user_id)"
        f" DO UPDATE SET {_set_columns('joined_at', 'left_at', 'added_by', 'removed_by')}"
        " WHERE greatest(excluded.left_at, excluded.joined_at) >= greatest(m.left_at, m.joined_at)"
        " AND ROW(m.*) IS DISTINCT FROM ROW(excluded.*)",
    )


def rebuild(connection: Connection, progress: Callable[[int], None], page: int) -> None:
    """Build the rows in staging tables, then merge them into the real ones.

    If somebody is erased meanwhile, the staging tables may have the names from before, so they are built again.

    Args:
        connection: in autocommit mode, prepared by `message_rows.prepare_connection`.
        progress: called after each page with the events read so far.
        page: events that are read at once.
    """
    while not _rebuild(connection, progress, page):
        pass


def _rebuild(connection: Connection, progress: Callable[[int], None], page: int) -> bool:
    """One attempt; False if the rules of erasure have changed meanwhile."""
    rules = erasure_rules.enter(connection)
    connection.execute(_CREATE_STAGING.encode())
    last: dict[str, Any] = {"at": "-infinity", "bot": "", "gen": 0, "id": 0, "limit": page}
    events = 0
    erased = False

    def stage_page() -> bool:
        nonlocal events, erased
        rows = connection.execute(_EVENTS_BY_ARRIVAL.encode(), last).fetchall()
        for at, bot, generation, event_id, *_ in rows[-1:]:
            last.update(at=at, bot=bot, gen=generation, id=event_id)
        events += len(rows)
        with connection.transaction():
            schema.fence(connection)
            _facts_of(rows).save(connection, prefix=_STAGED)
            after = _after_last_erased(rows)
            if len(after) < len(rows):
                erased = True
                connection.execute(_EMPTY_CERTAIN.encode())
            if erased:
                _facts_of(after).save(connection, prefix=_CERTAIN)
        return bool(rows)

    while stage_page():
        progress(events)
    with connection.transaction():
        schema.fence(connection)
        # Writers wait for a moment. Their events up to now are staged here; their next events change the merged tables.
        if erasure_rules.enter(connection).version != rules.version:
            return False
        connection.execute(f"LOCK TABLE {', '.join(_TABLES)} IN SHARE ROW EXCLUSIVE MODE".encode())
        while stage_page():
            pass
        for statement in (*(_SETTLE if erased else ()), *_merge(erased=erased)):
            connection.execute(statement.encode())
    return True


def derive_stored(event_type: str | None, payload: Any, received_at: datetime) -> Facts | None:
    """The facts of a stored event; None if this version cannot read it."""
    try:
        return derive(event_type, payload, received_at)
    except Unreadable:
        return None


def _facts_of(rows: Sequence[tuple[Any, ...]]) -> People:
    people = People()
    for received_at, _, _, _, event_type, payload, is_quarantined in rows:
        facts = None if is_quarantined or payload is None else derive_stored(event_type, payload, received_at)
        if facts is not None:
            people.add(facts, received_at)
    return people


def _after_last_erased(rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
    for at in range(len(rows) - 1, -1, -1):
        *_, payload, is_quarantined = rows[at]
        if payload is None and not is_quarantined:
            return rows[at + 1 :]
    return rows
