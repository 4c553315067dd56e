"""Derives chats, users, members, messages and versions anew from the stored events.

`quarantined` reads again what this program could not read when it came; `everything` rebuilds all that is derived.
Both are safe beside a running daemon and may be ended and begun again at any point: each page is a transaction that
holds the locks of its chats, and what is already right is not written. A message that was erased stays as it is, for
its events say nothing any more; where another bot has brought it again since, `erase` takes that as well. A text that
did not change keeps its vectors, a changed one is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vkteams_daemon.botapi import events as api
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.botapi.facts import MESSAGE_EVENTS, Facts, Unreadable, derive
from vkteams_daemon.errors import ApiError
from vkteams_daemon.store.bulk import COPY_THRESHOLD
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import projection
from vkteams_daemon.store.derive.fold import BEGINNING, Message, first_seen, fold_all
from vkteams_daemon.store.derive.people import People
from vkteams_daemon.store.ingest import event_rows, refused_rows
from vkteams_daemon.store.ingest.event_rows import Key

Progress = Callable[[int, int], None]  # how many events of how many have been seen

_PAGE = 500
_KINDS = ", ".join(f"'{kind}'" for kind in sorted(MESSAGE_EVENTS))
_QUARANTINED = (
    "SELECT bot_id, generation, event_id, received_at, raw FROM events WHERE error IS NOT NULL AND raw IS NOT NULL"
    " AND (bot_id, generation, event_id) > (%s, %s, %s) ORDER BY bot_id, generation, event_id LIMIT %s"
)
_MESSAGES = (
    f"SELECT chat_id, subject FROM events WHERE (chat_id, subject) > (%s, %s) AND type IN ({_KINDS})"
    " GROUP BY chat_id, subject ORDER BY chat_id, subject LIMIT %s"
)
_OF_MESSAGES = (
    "SELECT e.chat_id, e.subject, e.type, e.payload, e.received_at, e.error IS NOT NULL, e.raw IS NOT NULL"
    " FROM {incoming} JOIN events e ON e.chat_id = incoming.chat_id AND e.subject = incoming.msg_id"
    f" WHERE e.type IN ({_KINDS}) ORDER BY e.received_at, e.bot_id, e.generation, e.event_id"
)
_IN_ORDER = (
    "SELECT received_at, bot_id, generation, event_id, type, payload, error IS NOT NULL FROM events"
    " WHERE received_at >= %(at)s AND (received_at, bot_id, generation, event_id) > (%(at)s, %(bot)s, %(gen)s, %(id)s)"
    " ORDER BY received_at, bot_id, generation, event_id LIMIT %(limit)s"
)
_STAGED = "replayed_"
_PEOPLE = ("chats", "users", "chat_members")
_STAGE = "; ".join(
    f"CREATE TEMPORARY TABLE IF NOT EXISTS {_STAGED}{table} (LIKE {table} INCLUDING DEFAULTS INCLUDING INDEXES);"
    f" TRUNCATE {_STAGED}{table}"
    for table in _PEOPLE
)


def _told(table: str, *columns: str) -> str:
    """SET clauses; where events were erased, what the others do not tell stays."""
    return ", ".join(f"{c} = coalesce(excluded.{c}, CASE WHEN %(erased)s THEN {table}.{c} END)" for c in columns)


# What the table has learnt later stays: from an event that is erased by now, or one committed behind our back.
_UNSTAGE = (
    f"INSERT INTO chats AS c SELECT * FROM {_STAGED}chats ON CONFLICT (chat_id) DO UPDATE SET"
    f" {_told('c', 'type', 'title', 'parent_chat_id', 'parent_msg_id')},"
    " first_seen_at = least(c.first_seen_at, excluded.first_seen_at), seen_at = excluded.seen_at"
    " WHERE excluded.seen_at >= c.seen_at AND c IS DISTINCT FROM excluded",
    f"INSERT INTO users AS u SELECT * FROM {_STAGED}users ON CONFLICT (user_id) DO UPDATE SET"
    f" {_told('u', 'first_name', 'last_name', 'nick', 'is_bot')}, seen_at = excluded.seen_at"
    " WHERE excluded.seen_at >= u.seen_at AND u IS DISTINCT FROM excluded",
    f"INSERT INTO chat_members AS m SELECT * FROM {_STAGED}chat_members ON CONFLICT (chat_id, user_id) DO UPDATE SET"
    " joined_at = excluded.joined_at, left_at = excluded.left_at, added_by = excluded.added_by,"
    " removed_by = excluded.removed_by"
    " WHERE greatest(excluded.left_at, excluded.joined_at) >= greatest(m.left_at, m.joined_at)"
    " AND m IS DISTINCT FROM excluded",
)


@dataclass(slots=True)
class ReplayResult:
    """What a replay has done.

    Attributes:
        events: that it has looked at.
        readable: quarantined events that could be read now; they have left the quarantine.
        unreadable: events that still cannot be derived from.
        erased: messages that stay as they are because what they said was erased.
        messages: whose row or versions have changed.
        queued: messages with a new text to embed.
    """

    events: int = 0
    readable: int = 0
    unreadable: int = 0
    erased: int = 0
    messages: int = 0
    queued: int = 0


def quarantined(connection: Connection, *, erase: bool, progress: Progress = lambda done, total: None) -> ReplayResult:
    """Read the quarantined events again; what has become readable is derived, and its error cleared.

    Args:
        connection: of the caller's own, in autocommit mode.
        erase: as `[storage] on_delete` says.
        progress: called after each page.
    """
    done = ReplayResult()
    with translate_errors():
        projection.prepare_connection(connection)
        total = _count(connection, "error IS NOT NULL AND raw IS NOT NULL")
        last: Key = ("", 0, 0)
        while page := connection.execute(_QUARANTINED.encode(), (*last, _PAGE)).fetchall():
            last = page[-1][:3]
            again = [((bot, generation, key), _read(raw, at)) for bot, generation, key, at, raw in page]
            readable = [(key, event) for key, event in again if event and event.error is None]
            done.events += len(page)
            with connection.transaction():
                # Before the events' rows, as whoever erases does.
                projection.lock_chats(
                    connection, {event.facts.message.chat_id for _, event in readable if event.facts.message}
                )
                restored = refused_rows.insert_or_quarantine(
                    connection, readable, lambda part: _restore(connection, part, erase), _keep
                )
            done.readable += sum(count for count, _ in restored)
            done.queued += sum(queued for _, queued in restored)
            done.unreadable = done.events - done.readable
            progress(done.events, total)
    return done


def everything(connection: Connection, *, erase: bool, progress: Progress = lambda done, total: None) -> ReplayResult:
    """Rebuild everything derived from every stored event that is not quarantined.

    Args:
        connection: of the caller's own, in autocommit mode.
        erase: as `[storage] on_delete` says.
        progress: called after each page; every event is seen twice.
    """
    done = ReplayResult()
    with translate_errors():
        projection.prepare_connection(connection)
        total = 2 * _count(connection, "true")
        after = ("", "")
        while keys := connection.execute(_MESSAGES.encode(), (*after, _PAGE)).fetchall():
            after = keys[-1]
            with connection.transaction():
                projection.lock_chats(connection, {chat_id for chat_id, _ in keys})
                refused_rows.insert_or_quarantine(
                    connection, keys, lambda part: _rebuild(connection, part, erase, done), lambda key, reason: None
                )
            progress(min(done.events, total // 2), total)
        _rebuild_people(connection, lambda seen: progress(min(total // 2 + seen, total), total))
        progress(total, total)
    return done


def _read(raw: bytes, received_at: datetime) -> Event | None:
    """The one event of these bytes, as this version of the program reads it; None where it is not one."""
    try:
        found = api.read(b'{"events":[' + raw + b"]}", received_at)
    except ApiError:
        return None
    return found[0] if len(found) == 1 else None


def _restore(connection: Connection, part: Sequence[tuple[Key, Event]], erase: bool) -> tuple[int, int]:
    """Put readable events in their rows and derive from them; how many there were, and how many texts are new."""
    if not part:
        return 0, 0
    event_rows.restore(connection, part)
    derivation = projection.Projection(erase=erase)
    for _, event in part:
        derivation.add(event.facts, event.received_at)
    return len(part), derivation.save(connection, copy=True)


def _keep(item: tuple[Key, Event], reason: str) -> tuple[int, int]:
    return 0, 0


def _rebuild(connection: Connection, keys: Sequence[tuple[str, str]], erase: bool, done: ReplayResult) -> None:
    """Fold these messages from nothing, and write those that come out otherwise than they stand there."""
    known = projection.load_messages(connection, keys, lambda key: BEGINNING)
    facts: dict[tuple[str, str], list[Facts]] = {key: [] for key in keys}
    erased = set()
    seen = unreadable = 0
    rows = projection.KEYS.execute(connection, _OF_MESSAGES, keys)
    for chat_id, msg_id, kind, payload, received_at, broken, has_raw in rows:
        seen += 1
        if payload is None and not has_raw:
            erased.add((chat_id, msg_id))
        elif not broken:
            found = _facts(kind, payload, received_at)
            unreadable += found is None
            if found is not None:
                facts[chat_id, msg_id].append(found)
    messages: list[Message] = []
    for key in keys:
        said = [f.message for f in facts[key] if f.message]
        if key not in erased and said:
            messages.append(fold_all(first_seen(said[0]), said, erase=erase))
        elif key in erased and erase and (left := known.get(key)) and left.deleted_at is not None:
            # Another bot brought it again while deleted messages were kept: what has come since goes too.
            left.blank()
            messages.append(left)
    for message in messages:
        if (old := known.get(message.key)) is not None:
            message.stored_row, message.stored_versions = old.stored_row, old.stored_versions
    changed = [m for m in messages if m.row != m.stored_row or m.version_rows != list(m.stored_versions)]
    new = [m for m in messages if m.stored_row is None]
    # Not only what has changed: a deleted message may be as it should be while an event still tells what it said.
    there = [m for m in messages if m.stored_row is not None]
    queued = projection.save_messages(connection, there, new, erase=erase, copy=len(new) >= COPY_THRESHOLD)
    done.events += seen
    done.unreadable += unreadable
    done.erased += len(erased.difference(m.key for m in changed))
    done.messages += len(changed)
    done.queued += queued


def _rebuild_people(connection: Connection, progress: Callable[[int], None]) -> None:
    """Chats, users and members, built beside the tables in the order of arrival, then put in their place."""
    connection.execute(_STAGE.encode())
    last: dict[str, Any] = {"at": "-infinity", "bot": "", "gen": 0, "id": 0, "limit": _PAGE}
    seen = 0
    erased = False

    def page() -> bool:
        nonlocal seen, erased
        rows = connection.execute(_IN_ORDER.encode(), last).fetchall()
        for at, bot, generation, event_id, *_ in rows[-1:]:
            last.update(at=at, bot=bot, gen=generation, id=event_id)
        seen += len(rows)
        erased = erased or any(payload is None and not broken for *_, payload, broken in rows)
        with connection.transaction():
            people = People()
            for found, arrival in _known(rows):
                people.add(found, arrival)
            people.save(connection, prefix=_STAGED)
        return bool(rows)

    while page():
        progress(seen)
    with connection.transaction():
        # Writers wait a moment; what they have stored meanwhile is taken in, what they store next comes on top.
        connection.execute(f"LOCK TABLE {', '.join(_PEOPLE)} IN SHARE ROW EXCLUSIVE MODE".encode())
        while page():
            pass
        for statement in _UNSTAGE:
            connection.execute(statement.encode(), {"erased": erased})


def _known(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Facts, datetime]]:
    for received_at, _, _, _, kind, payload, broken in rows:
        found = None if broken or payload is None else _facts(kind, payload, received_at)
        if found is not None:
            yield found, received_at


def _facts(kind: str | None, payload: Any, received_at: datetime) -> Facts | None:
    try:
        return derive(kind, payload, received_at)
    except Unreadable:
        return None


def _count(connection: Connection, condition: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM events WHERE {condition}".encode()).fetchone()
    return int(row[0]) if row else 0
