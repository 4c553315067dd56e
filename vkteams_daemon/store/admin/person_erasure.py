"""Erases what people have said, what repeats it, their names and memberships; and single messages.

Three passes: their messages are deleted; every event loses what they say and what repeats it; the messages of others
lose what repeats it. Each page is a transaction, so it runs beside a daemon. It never waits for a lock: it leaves out
what others have locked and comes back to it. It can be interrupted at any point: the rules (`store/erasure_rules.py`)
are stored first and hold for what comes meanwhile, and the next call finds what is left. Every call works by all rules.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from vkteams_daemon.botapi.content_erasure import Erased
from vkteams_daemon.botapi.facts import MESSAGE_EVENTS
from vkteams_daemon.errors import NotFound
from vkteams_daemon.store import erasure_rules, schema
from vkteams_daemon.store.admin import word_counts
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import chat_locks, message_rows, quotes, search_terms
from vkteams_daemon.store.derive.message_fold import BEGINNING
from vkteams_daemon.store.derive.message_rows import KEYS, Key
from vkteams_daemon.store.words.lexicon import Lexicon

Progress = Callable[[int, int], None]  # called with the rows looked at so far, and their total

_PAGE = 500  # rows of one transaction
_SCAN = 5000  # rows that one query looks at
_RETRY_FOR = 15.0  # seconds; by then the session of a silent process has been ended
_RETRY_INTERVAL = 0.2  # seconds
_TABLES = "events, messages, message_versions, words, users, chats, chat_members, rosters, roster_members"
_to_json = functools.partial(json.dumps, ensure_ascii=False)
_MESSAGE_TYPES = ", ".join(f"'{kind}'" for kind in sorted(MESSAGE_EVENTS))
_NOT_HELD = erasure_rules.NOT_HELD

_KNOWN_PERSON = " UNION ALL ".join(
    f"(SELECT 1 FROM {table} WHERE user_id = %(user)s LIMIT 1)"
    for table in ("users", "messages", "roster_members", "erased_people")
)
_KNOWN_MESSAGE = " UNION ALL ".join(
    f"(SELECT 1 FROM {table} WHERE chat_id = %(chat)s AND {column} = %(message)s LIMIT 1)"
    for table, column in (("events", "subject"), ("messages", "msg_id"), ("erased_messages", "msg_id"))
)
_ADD_PERSON = (
    "INSERT INTO erased_people AS p (user_id, erased_at, erased_by, ignored)"
    " SELECT u.id, clock_timestamp(), %s, %s FROM pg_catalog.unnest(%s::text[]) AS u (id)"
    " ON CONFLICT (user_id) DO UPDATE SET erased_at = excluded.erased_at, erased_by = excluded.erased_by,"
    " ignored = p.ignored OR excluded.ignored"
)
_ADD_MESSAGES = "INSERT INTO erased_messages (chat_id, msg_id) SELECT * FROM {incoming} ON CONFLICT DO NOTHING"
# An edit of a message has the time of the edit, but its message has the same key.
_KEYS_OF_PERSON = (
    f"SELECT m.chat_id, m.msg_id FROM messages m WHERE m.user_id = %(user)s AND m.sent_at <= %(until)s AND {_NOT_HELD}"
    " UNION SELECT m.chat_id, m.subject FROM events m WHERE m.user_id = %(user)s AND m.occurred_at <= %(until)s"
    f" AND m.type IN ({_MESSAGE_TYPES}) AND m.chat_id IS NOT NULL AND m.subject IS NOT NULL AND {_NOT_HELD}"
)
_HELD = (
    "SELECT count(*) FROM messages m WHERE (m.user_id = ANY(%(users)s::text[]) OR (m.chat_id, m.msg_id) IN"
    " (SELECT * FROM unnest(%(chats)s::text[], %(ids)s::text[])))"
    f" AND m.chat_id = ANY(ARRAY({erasure_rules.HELD_CHATS}))"
)
_EXISTING = (
    "SELECT m.chat_id, m.msg_id FROM {incoming} JOIN messages m ON m.chat_id = incoming.chat_id"
    " AND m.msg_id = incoming.msg_id"
)
_COUNTS = (
    "WITH k AS MATERIALIZED (SELECT * FROM {incoming}) SELECT"
    " (SELECT count(*) FROM k JOIN messages USING (chat_id, msg_id)),"
    " (SELECT count(*) FROM k JOIN message_versions USING (chat_id, msg_id)),"
    " (SELECT count(*) FROM k JOIN embeddings USING (chat_id, msg_id)),"
    " (SELECT count(*) FROM k JOIN embedding_queue USING (chat_id, msg_id)),"
    " (SELECT count(*) FROM k JOIN events e ON e.chat_id = k.chat_id AND e.subject = k.msg_id"
    "  WHERE e.payload IS NOT NULL OR e.raw IS NOT NULL)"
)
# Replies and forwards are all looked at: one that does not name its author repeats a message that may be erased.
_EVENT_PAGE = (
    "SELECT m.bot_id, m.generation, m.event_id, (m.payload IS NOT NULL OR m.raw IS NOT NULL)"
    " AND (m.raw IS NOT NULL OR m.type IS NULL OR m.payload ? 'parts'::text OR m.type = 'callbackQuery'"
    " OR m.user_id = ANY(%(users)s::text[])"
    " OR EXISTS (SELECT FROM pg_catalog.unnest(%(users)s::text[]) AS u (id)"
    "  WHERE pg_catalog.strpos(m.payload::text, pg_catalog.btrim(pg_catalog.to_json(u.id)::text, '\"')) > 0)"
    " OR ((m.subject, m.chat_id) IN (SELECT k.msg_id, k.chat_id FROM erased_messages k)) IS TRUE)"
    " FROM events m WHERE (m.bot_id, m.generation, m.event_id) > (%(bot)s, %(generation)s, %(id)s)"
    " ORDER BY m.bot_id, m.generation, m.event_id LIMIT %(limit)s"
)
_LOCK_EVENTS = (
    f"SELECT {quotes.EVENT_CONTENT} FROM unnest(%s::int[], %s::bigint[]) AS k (generation, event_id)"
    " JOIN events m ON m.bot_id = %s AND m.generation = k.generation AND m.event_id = k.event_id"
    " FOR UPDATE OF m SKIP LOCKED"
)
_REPEATS = '({t}.parts @> \'[{{"type": "reply"}}]\'::jsonb OR {t}.parts @> \'[{{"type": "forward"}}]\'::jsonb' + (
    " OR EXISTS (SELECT FROM pg_catalog.unnest(%(users)s::text[]) AS u (id)"
    "  WHERE pg_catalog.strpos({t}.parts::text, pg_catalog.btrim(pg_catalog.to_json(u.id)::text, '\"')) > 0))"
)
_MESSAGE_PAGE = (
    f"SELECT m.chat_id, m.msg_id, {_REPEATS.format(t='m')} IS TRUE OR EXISTS (SELECT FROM message_versions v"
    f" WHERE v.chat_id = m.chat_id AND v.msg_id = m.msg_id AND {_REPEATS.format(t='v')})"
    " FROM messages m WHERE (m.chat_id, m.msg_id) > (%(chat)s, %(msg)s) ORDER BY m.chat_id, m.msg_id LIMIT %(limit)s"
)
# A name stays if a hold keeps a chat in which the person spoke, or the person's own chat.
_NAMES = (
    "UPDATE users u SET first_name = NULL, last_name = NULL, nick = NULL WHERE u.user_id = ANY(%(users)s)"
    " AND (u.first_name, u.last_name, u.nick) IS DISTINCT FROM (NULL, NULL, NULL)"
    " AND u.user_id <> ALL(%(named)s)",
    "UPDATE chats m SET title = NULL WHERE m.chat_id = ANY(%(users)s) AND m.title IS NOT NULL"
    " AND m.chat_id <> ALL(%(held)s)",
    "DELETE FROM rosters m WHERE m.chat_id = ANY(%(users)s) AND m.chat_id <> ALL(%(held)s)",
)
_NAMED_IN_HELD = "SELECT DISTINCT user_id FROM messages WHERE user_id = ANY(%(users)s) AND chat_id = ANY(%(held)s)"
_MEMBERSHIPS = (
    "DELETE FROM chat_members m WHERE m.user_id = ANY(%(users)s) AND m.chat_id <> ALL(%(held)s)",
    "DELETE FROM roster_members m WHERE m.user_id = ANY(%(users)s) AND m.chat_id <> ALL(%(held)s)",
)


@dataclass(slots=True)
class PersonErasureResult:
    """What an erasure has taken, or would take.

    Attributes:
        messages: deleted messages, with their `versions`, `vectors` and `queued` rows.
        events: events whose payload was erased, or lost a part.
        repeated: messages of others that have lost a reply, a forward or a name.
        names: rows with names.
        memberships: rows about memberships.
        held: messages that a hold has kept.
        locked: messages and events that other sessions have kept locked; the next call takes them.
    """

    messages: int = 0
    versions: int = 0
    vectors: int = 0
    queued: int = 0
    events: int = 0
    repeated: int = 0
    names: int = 0
    memberships: int = 0
    held: int = 0
    locked: int = 0


def erase(
    connection: Connection,
    user_ids: Sequence[str] = (),
    messages: Sequence[Key] = (),
    *,
    by: str,
    ignore: bool = False,
    dry_run: bool = False,
    progress: Progress = lambda done, total: None,
    retry_for: float = _RETRY_FOR,
) -> PersonErasureResult:
    """Erase what these people have said up to now, and these messages. What a hold keeps stays.

    Args:
        connection: used for this alone, in autocommit mode.
        user_ids: the people.
        messages: the messages: chat_id, msg_id.
        by: who erases.
        ignore: whether nothing is kept that these people say from now on.
        dry_run: only count.
        progress: called after each page.
        retry_for: seconds in which it comes back to what others have locked.

    Raises:
        NotFound: the archive knows nothing of a person or a message. With `ignore` a person may be unknown.
    """
    with translate_errors():
        message_rows.prepare_connection(connection)
        _check_known(connection, () if ignore else user_ids, messages)
        if not dry_run:
            with erasure_rules.change(connection):
                connection.execute(_ADD_PERSON.encode(), (by, ignore, list(user_ids)))
                KEYS.execute(connection, _ADD_MESSAGES, messages)
        erased = _erased(connection, user_ids, messages, ignore=ignore, dry_run=dry_run)
        if not dry_run:
            with connection.transaction():
                schema.fence(connection)
                KEYS.execute(connection, _ADD_MESSAGES, erased.messages)
        erasure = _Erasure(connection, erased, dry_run=dry_run, progress=progress, retry_for=retry_for)
        erasure.run()
        _erase_names(connection, list(user_ids), erasure.result, dry_run=dry_run)
        erasure.result.held = _count_held(connection, list(erased.people), messages)
        if not dry_run:
            word_counts.count_words(connection, now=True)
            # The planner's statistics hold samples of the columns, and SQL can read them.
            connection.execute(f"ANALYZE {_TABLES}".encode())
            with erasure_rules.change(connection):
                pass  # a replay that read a name before it was erased begins again
    return erasure.result


class _Erasure:
    """The passes of one call.

    Args:
        connection: as in `erase`.
        erased: by the rules, with all keys.
        dry_run, progress, retry_for: as in `erase`.
    """

    def __init__(
        self, connection: Connection, erased: Erased, *, dry_run: bool, progress: Progress, retry_for: float
    ) -> None:
        self.result = PersonErasureResult()
        self._connection = connection
        self._erased = erased
        self._dry_run = dry_run
        self._progress = progress
        self._retry_for = retry_for
        self._users = list(erased.people)
        self._lexicon = Lexicon()
        self._done = 0
        self._total = 0

    def run(self) -> None:
        """All passes. The messages themselves go first, so that most is gone early."""
        row = self._connection.execute(
            "SELECT (SELECT count(*) FROM events) + (SELECT count(*) FROM messages)"
        ).fetchone()
        self._total = row[0] if row else 0
        keys = sorted(self._erased.messages)
        self._take(_slices(keys), self._delete)
        self._take(self._event_pages(), self._erase_events)
        self._take(self._message_pages(), self._erase_repeated)
        if not self._dry_run:
            # A replay may have made a message again before its events were empty.
            self._take(_slices(keys), self._delete)

    def _take(self, pages: Iterable[Sequence[Any]], take: Callable[[Sequence[Any]], Collection[Any]]) -> None:
        """Take every page. `take` returns the rows that others have locked, which are tried again."""
        locked: list[Any] = []
        for page in pages:
            locked += take(page)
        deadline = time.monotonic() + self._retry_for
        while locked and time.monotonic() < deadline:
            time.sleep(_RETRY_INTERVAL)
            locked = [row for page in _slices(locked) for row in take(page)]
        self.result.locked += len(locked)

    def _looked_at(self, rows: int) -> None:
        self._done += rows
        self._progress(min(self._done, self._total), self._total)

    def _event_pages(self) -> Iterator[list[tuple[Any, ...]]]:
        """The keys of the events that may have to be changed."""
        last = {"bot": "", "generation": 0, "id": 0, "users": self._users, "limit": _SCAN}
        while rows := self._connection.execute(_EVENT_PAGE.encode(), last, prepare=False).fetchall():
            last["bot"], last["generation"], last["id"] = rows[-1][:3]
            yield from _slices([row[:3] for row in rows if row[3]])
            self._looked_at(len(rows))

    def _message_pages(self) -> Iterator[list[Key]]:
        """The keys of the messages that may repeat or name somebody."""
        last = {"chat": "", "msg": "", "users": self._users, "limit": _SCAN}
        while rows := self._connection.execute(_MESSAGE_PAGE.encode(), last, prepare=False).fetchall():
            last["chat"], last["msg"] = rows[-1][:2]
            yield from _slices([row[:2] for row in rows if row[2]])
            self._looked_at(len(rows))

    def _delete(self, keys: Sequence[Key]) -> Collection[Key]:
        """Delete these messages; returns those that others have locked."""
        with self._connection.transaction():
            schema.fence(self._connection)
            held = erasure_rules.enter(self._connection).held
            keys = [key for key in keys if key[0] not in held]
            chats = chat_locks.try_lock_chats(self._connection, {chat_id for chat_id, _ in keys} - held)
            before = self._counts(keys)
            unlocked = [key for key in keys if key[0] in chats]
            if not self._dry_run and unlocked:
                message_rows.delete_messages(self._connection, unlocked)
            left = [] if self._dry_run else KEYS.execute(self._connection, _EXISTING, keys).fetchall()
            after = self._counts(left)
        names = ("messages", "versions", "vectors", "queued", "events")
        for name, had, has in zip(names, before, after, strict=True):
            setattr(self.result, name, getattr(self.result, name) + had - has)
        return left

    def _counts(self, keys: Sequence[Key]) -> tuple[int, ...]:
        if not keys:
            return (0, 0, 0, 0, 0)
        return tuple(KEYS.execute(self._connection, _COUNTS, keys).fetchone())

    def _erase_events(self, keys: Sequence[tuple[Any, ...]]) -> Collection[tuple[Any, ...]]:
        """Erase what must not be kept of these events; returns those that others have locked."""
        with self._connection.transaction():
            schema.fence(self._connection)
            held = erasure_rules.enter(self._connection).held
            rows = []
            # Bot by bot: rows of several machines cannot be locked in one statement.
            for bot in sorted({key[0] for key in keys}):
                ids = [list(column) for column in zip(*(key[1:] for key in keys if key[0] == bot), strict=True)]
                rows += self._connection.execute(_LOCK_EVENTS.encode(), (*ids, bot)).fetchall()
            left = []
            for row in rows:
                chat_id, subject, payload, raw = row[3:7]
                # In a dry run, it was counted with its message.
                counted = self._dry_run and (chat_id, subject) in self._erased.messages
                if chat_id not in held and not counted and (payload is not None or raw is not None):
                    left.append(row)
            self.result.events += quotes.erase_in_events(self._connection, self._erased, left, dry_run=self._dry_run)
        seen = {row[:3] for row in rows}
        return [key for key in keys if key not in seen]

    def _erase_repeated(self, keys: Sequence[Key]) -> Collection[Key]:
        """Erase what messages of others repeat of erased ones; returns those that others have locked."""
        with self._connection.transaction():
            schema.fence(self._connection)
            held = erasure_rules.enter(self._connection).held
            keys = [key for key in keys if key[0] not in held]
            chats = chat_locks.try_lock_chats(self._connection, {chat_id for chat_id, _ in keys})
            unlocked = [key for key in keys if key[0] in chats]
            stored = message_rows.load_messages(self._connection, unlocked, lambda key: BEGINNING) if unlocked else {}
            changed = [message for message in stored.values() if quotes.erase_in_message(self._erased, message)]
            if changed and not self._dry_run:
                terms = search_terms.SearchTerms(self._lexicon)
                message_rows.save_messages(self._connection, changed, (), terms, erase=False, copy=False)
                # The worker makes a new vector later. Until then the old one would still find the erased words.
                if stale := [m.key for m in changed if m.to_embed]:
                    message_rows.delete_vectors(self._connection, stale)
        self.result.repeated += len(changed)
        return [key for key in keys if key[0] not in chats]


def _check_known(connection: Connection, user_ids: Sequence[str], messages: Sequence[Key]) -> None:
    for user_id in user_ids:
        if connection.execute(_KNOWN_PERSON.encode(), {"user": user_id}).fetchone() is None:
            raise NotFound(
                f"the archive knows nobody with the id {user_id}",
                hint="`vkteamsctl context users` lists people and their ids.",
            )
    for chat_id, msg_id in messages:
        if connection.execute(_KNOWN_MESSAGE.encode(), {"chat": chat_id, "message": msg_id}).fetchone() is None:
            raise NotFound(f"the archive has no message {msg_id} of chat {chat_id}")


def _erased(
    connection: Connection, user_ids: Sequence[str], messages: Sequence[Key], *, ignore: bool, dry_run: bool
) -> Erased:
    """What must not be kept, by all rules, and in a dry run by the rules that would be added."""
    people: dict[str, datetime | None] = {
        each.user_id: None if each.ignored else each.erased_at for each in erasure_rules.list_people(connection)
    }
    if dry_run:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
        now = row[0] if row and not ignore else None
        people |= {user_id: now for user_id in user_ids if people.get(user_id, now) is not None}
    keys = {*messages, *connection.execute("SELECT chat_id, msg_id FROM erased_messages").fetchall()}
    for user_id, until in people.items():
        keys.update(
            connection.execute(_KEYS_OF_PERSON.encode(), {"user": user_id, "until": until or "infinity"}).fetchall()
        )
    return Erased(people, frozenset(keys))


def _count_held(connection: Connection, user_ids: list[str], messages: Sequence[Key]) -> int:
    columns = {"chats": [chat_id for chat_id, _ in messages], "ids": [msg_id for _, msg_id in messages]}
    row = connection.execute(_HELD.encode(), {"users": user_ids, **columns}).fetchone()
    return int(row[0]) if row else 0


def _erase_names(connection: Connection, user_ids: list[str], result: PersonErasureResult, *, dry_run: bool) -> None:
    with connection.transaction():
        schema.fence(connection)
        values = {"users": user_ids, "held": list(erasure_rules.enter(connection).held)}
        named = [user_id for (user_id,) in connection.execute(_NAMED_IN_HELD.encode(), values)]
        for statement in _NAMES:
            result.names += connection.execute(statement.encode(), {**values, "named": named}).rowcount
        for statement in _MEMBERSHIPS:
            result.memberships += connection.execute(statement.encode(), values).rowcount
        if dry_run:
            raise psycopg.Rollback


def _slices(rows: Sequence[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(rows), _PAGE):
        yield list(rows[start : start + _PAGE])
