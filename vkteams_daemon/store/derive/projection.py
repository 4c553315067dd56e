"""Writes what a set of events says about messages, chats, users and members: set-based statements, whatever the size.

Used by the writer for what has just arrived and by replay for what is stored; both hold a transaction. Two bots may see
one chat, so the chats' advisory locks are taken first: folding reads a row and writes it back.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from psycopg.errors import UniqueViolation

from vkteams_daemon.botapi.facts import Facts, MessageFact
from vkteams_daemon.store.bulk import COPY_THRESHOLD, ColumnSet
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive.fold import (
    BEGINNING,
    COLUMNS,
    Message,
    Version,
    first_seen,
    fold_all,
    is_said,
    versions_from,
)
from vkteams_daemon.store.derive.people import People

Key = tuple[str, str]  # chat_id, msg_id

KEYS = ColumnSet((("chat_id", "text"), ("msg_id", "text")))
_SINCE = ColumnSet((*KEYS.columns, ("since", "timestamptz")))
QUEUE = ColumnSet((*KEYS.columns, ("model_id", "int4"), ("kind", "text")))
MESSAGES = ColumnSet((
    ("chat_id", "text"), ("msg_id", "text"), ("user_id", "text"), ("sent_at", "timestamptz"),
    ("edited_at", "timestamptz"), ("deleted_at", "timestamptz"), ("pinned_at", "timestamptz"), ("version", "int4"),
    ("text", "text"), ("format", "jsonb"), ("parts", "jsonb"), ("reply_to_msg_id", "text"), ("forward", "jsonb"),
    ("thread", "jsonb"), ("received_at", "timestamptz"),
))  # fmt: skip
VERSIONS = ColumnSet((
    ("chat_id", "text"), ("msg_id", "text"), ("version", "int4"), ("edited_at", "timestamptz"), ("text", "text"),
    ("format", "jsonb"), ("parts", "jsonb"), ("replaced_at", "timestamptz"),
))  # fmt: skip
_JSON = {"format", "parts", "forward", "thread"}

_as_text = functools.partial(json.dumps, ensure_ascii=False)

_LOAD = f"SELECT {', '.join('m.' + c for c in COLUMNS)} FROM {{incoming}} JOIN messages m USING (chat_id, msg_id)"
# A bot may edit one message for years: only the versions from a moment on, and the last before, whose end may change.
_LOAD_VERSIONS = (
    "SELECT v.chat_id, v.msg_id, v.version, v.edited_at, v.text, v.format, v.parts FROM {incoming}"
    " CROSS JOIN LATERAL (SELECT coalesce((SELECT w.version FROM message_versions w WHERE w.chat_id = incoming.chat_id"
    f"   AND w.msg_id = incoming.msg_id AND coalesce(w.edited_at, '{BEGINNING.isoformat()}') < incoming.since"
    "   ORDER BY w.version DESC LIMIT 1), 1) AS first) AS f"
    " JOIN message_versions v ON v.chat_id = incoming.chat_id AND v.msg_id = incoming.msg_id AND v.version >= f.first"
    " ORDER BY v.chat_id, v.msg_id, v.version"
)
_SAVE_MESSAGES = (
    f"INSERT INTO messages ({', '.join(COLUMNS)})"
    f" SELECT {', '.join(f'{c}::jsonb' if c in _JSON else c for c in COLUMNS)} FROM {{incoming}}"
    f" ON CONFLICT (chat_id, msg_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in COLUMNS[2:])}"
)
_SAVE_VERSIONS = (
    "INSERT INTO message_versions (chat_id, msg_id, version, edited_at, text, format, parts, replaced_at)"
    " SELECT chat_id, msg_id, version, edited_at, text, format::jsonb, parts::jsonb, replaced_at FROM {incoming}"
    " ON CONFLICT (chat_id, msg_id, version) DO UPDATE SET edited_at = excluded.edited_at, text = excluded.text,"
    " format = excluded.format, parts = excluded.parts, replaced_at = excluded.replaced_at"
)
# Only replay takes versions back: what arrives only adds to them.
_DROP_VERSIONS = (
    "DELETE FROM message_versions v USING {incoming} JOIN messages m USING (chat_id, msg_id)"
    " WHERE v.chat_id = m.chat_id AND v.msg_id = m.msg_id AND v.version >= m.version"
)
_ENQUEUE = (
    "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind)"
    " SELECT i.chat_id, i.msg_id, e.model_id, 'message' FROM (SELECT * FROM {incoming}) AS i"
    " CROSS JOIN embedding_models e WHERE e.state <> 'retired' ORDER BY i.chat_id, i.msg_id ON CONFLICT DO NOTHING"
)
_DROP_VECTORS = (
    "DELETE FROM embeddings e USING {incoming} WHERE e.chat_id = incoming.chat_id AND e.msg_id = incoming.msg_id"
)
# A row that a worker holds is passed by, for it may hold it for seconds; it will see that the message has changed.
_DROP_QUEUED = (
    "DELETE FROM embedding_queue q USING (SELECT t.chat_id, t.msg_id, t.model_id, t.kind FROM {incoming}"
    " JOIN embedding_queue t ON t.chat_id = incoming.chat_id AND t.msg_id = incoming.msg_id"
    " FOR UPDATE OF t SKIP LOCKED) AS k WHERE q.chat_id = k.chat_id AND q.msg_id = k.msg_id"
    " AND q.model_id = k.model_id AND q.kind = k.kind"
)
_ERASE = (
    "UPDATE events e SET payload = NULL, raw = NULL FROM {incoming}"
    " WHERE e.chat_id = incoming.chat_id AND e.subject = incoming.msg_id"
    " AND (e.payload IS NOT NULL OR e.raw IS NOT NULL)"
)
_DROP_MESSAGES = (
    "DELETE FROM messages m USING {incoming} WHERE m.chat_id = incoming.chat_id AND m.msg_id = incoming.msg_id"
)
# 1,024 keys at most: a batch of many chats must not fill the server's lock table.
_LOCK_CHATS = (
    "SELECT pg_advisory_xact_lock(7691, bucket) FROM"
    " (SELECT DISTINCT hashtext(chat_id) & 1023 AS bucket FROM unnest(%s::text[]) AS chat_id ORDER BY bucket) AS b"
)
_TRY_LOCK_CHATS = (
    "SELECT chat_id FROM unnest(%s::text[]) AS chat_id WHERE pg_try_advisory_xact_lock(7691, hashtext(chat_id) & 1023)"
)
# Folding reads a row and writes it back under a lock taken before, so every statement must see what was committed
# until then. Only a few rows by their keys are ever joined, and no guess may scan the archive: least of all a plan that
# was made, and kept, while it was empty.
_SETTINGS = (
    "SET default_transaction_isolation = 'read committed'; SET enable_hashjoin = off; SET enable_mergejoin = off;"
    " SET plan_cache_mode = force_custom_plan; SET jit = off"
)
_NOTIFY = "SELECT pg_notify('vkteams_queue', '')"


class Projection:
    """What the events of a batch say, gathered one by one, then saved.

    Args:
        erase: whether a deletion erases the text (`[storage] on_delete`).
        expect_new: whether many messages that the batch says for the first time are added without a look at what is
            there; where one is, the database refuses the batch.
    """

    def __init__(self, *, erase: bool, expect_new: bool = False) -> None:
        self._erase = erase
        self._expect_new = expect_new
        self._facts: dict[Key, list[MessageFact]] = {}
        self._people = People()

    def add(self, facts: Facts, at: datetime) -> None:
        """What the next event says, and when it arrived."""
        self._people.add(facts, at)
        if (fact := facts.message) is not None:
            self._facts.setdefault((fact.chat_id, fact.msg_id), []).append(fact)

    def save(self, connection: Connection, *, copy: bool) -> int:
        """Write it all, inside a transaction; returns how many messages have a new text to embed.

        Args:
            connection: in pipeline mode unless `copy`.
            copy: whether many new messages go by COPY.
        """
        if self._facts:
            lock_chats(connection, {chat_id for chat_id, _ in self._facts})
        self._people.save(connection)
        said = [key for key, facts in self._facts.items() if is_said(facts[0])] if self._expect_new else []
        # COPY, and nothing else, refuses what is there all the same.
        asked = self._facts.keys() - said if len(said) >= COPY_THRESHOLD else self._facts.keys()
        known = load_messages(connection, asked, self._since) if asked else {}
        new = [facts for key, facts in self._facts.items() if key not in known]
        return save_messages(
            connection,
            [fold_all(message, self._facts[key], erase=self._erase) for key, message in known.items()],
            (fold_all(first_seen(facts[0]), facts, erase=self._erase) for facts in new),
            erase=self._erase,
            copy=copy and len(new) >= COPY_THRESHOLD,
        )

    def _since(self, key: Key) -> datetime:
        return min(versions_from(fact, erase=self._erase) for fact in self._facts[key])


def load_messages(
    connection: Connection, keys: Collection[Key], since: Callable[[Key], datetime]
) -> dict[Key, Message]:
    """What the database has of these messages.

    Args:
        connection: in a transaction, the messages' chats locked.
        keys: the messages.
        since: the moment from which on a message's versions are needed, and the last one before.
    """
    known = {}
    for row in KEYS.execute(connection, _LOAD, keys):
        message = Message(**dict(zip(COLUMNS, row, strict=True)))
        known[message.key] = message
    edited = [(*key, since(key)) for key, message in known.items() if message.version > 1]
    versions: dict[Key, list[Version]] = {}
    older: dict[Key, int] = {}
    if edited:
        for chat_id, msg_id, number, *content in _SINCE.execute(connection, _LOAD_VERSIONS, edited):
            versions.setdefault((chat_id, msg_id), []).append(Version(*content))
            older.setdefault((chat_id, msg_id), number - 1)
    for key, message in known.items():
        message.remember(versions.get(key, ()), older.get(key, 0))
    return known


def lock_chats(connection: Connection, chat_ids: Iterable[str]) -> None:
    """Keep others from folding messages of these chats until the transaction ends."""
    connection.execute(_LOCK_CHATS.encode(), [list(chat_ids)])


def try_lock_chats(connection: Connection, chat_ids: Collection[str]) -> set[str]:
    """The same for those of these chats that nobody else has locked; returns them."""
    return {row[0] for row in connection.execute(_TRY_LOCK_CHATS.encode(), [list(chat_ids)]).fetchall()}


def delete_messages(connection: Connection, keys: Sequence[Key]) -> None:
    """Delete these messages with their versions, vectors and queue rows, and empty their events; under `lock_chats`."""
    KEYS.execute(connection, _DROP_QUEUED, keys)
    KEYS.execute(connection, _ERASE, keys)
    KEYS.execute(connection, _DROP_MESSAGES, keys)


def save_messages(
    connection: Connection, known: Sequence[Message], new: Iterable[Message], *, erase: bool, copy: bool
) -> int:
    """Write messages as they should stand; returns how many have a new text to embed.

    Args:
        connection: in a transaction, the messages' chats locked.
        known: those that the database has; what differs is written.
        new: those that it does not have.
        erase: whether the events of those that were deleted are emptied.
        copy: whether the new ones go by COPY, and are made while the server takes in those that were sent before.
    """
    versions = [row for m in known if m.earlier for row in m.changed_version_rows]
    deleted = [m.key for m in known if m.deleted_at is not None]
    to_embed = [m.key for m in known if m.to_embed]
    new_texts: list[Key] = []

    def rows() -> Iterator[tuple[Any, ...]]:
        for message in new:
            yield message.row
            if message.earlier:
                versions.extend(message.version_rows)
            if message.to_embed:
                new_texts.append(message.key)
            elif message.deleted_at is not None:
                deleted.append(message.key)

    changed = [m.row for m in known if m.row != m.stored_row]
    # Whoever else may add messages to these chats waits for their locks.
    if copy:
        MESSAGES.copy(connection, "messages", rows(), json=_as_text)
    else:
        changed += rows()
    if changed:
        MESSAGES.execute(connection, _SAVE_MESSAGES, changed, json=_as_text)
    if versions:
        VERSIONS.execute(connection, _SAVE_VERSIONS, versions, json=_as_text)
    fewer = [m.key for m in known if len(m.stored_versions) > len(m.earlier)]
    if fewer:
        KEYS.execute(connection, _DROP_VERSIONS, fewer)
    silenced = [m.key for m in known if m.silent and not m.was_silent]
    if silenced:
        KEYS.execute(connection, _DROP_VECTORS, silenced)
    # An edited text that had been put off, or parked, is a new text.
    stale = silenced + [m.key for m in known if m.to_embed and not m.was_silent]
    if stale:
        KEYS.execute(connection, _DROP_QUEUED, stale)
    if erase and deleted:
        KEYS.execute(connection, _ERASE, deleted)
    queued = len(to_embed) + len(new_texts)
    if copy and new_texts:
        _copy_queue(connection, new_texts)
    else:
        to_embed += new_texts
    if to_embed:
        KEYS.execute(connection, _ENQUEUE, to_embed)
    if queued:
        connection.execute(_NOTIFY.encode())
    return queued


def _copy_queue(connection: Connection, keys: Sequence[Key]) -> None:
    """Queue messages that are new, for every model."""
    # Whoever registers a model waits for this lock before looking for messages that lack its vectors.
    connection.execute("LOCK TABLE embedding_queue IN ROW EXCLUSIVE MODE")
    models = connection.execute("SELECT model_id FROM embedding_models WHERE state <> 'retired'").fetchall()
    try:
        with connection.transaction():
            rows = ((*key, *model, "message") for model in models for key in keys)
            QUEUE.copy(connection, "embedding_queue", rows)
    except UniqueViolation:  # a message was removed while a worker held its row, and has come again
        KEYS.execute(connection, _ENQUEUE, keys)


def prepare_connection(connection: Connection) -> None:
    """Ready a session for `Projection`, `save` and `forget`."""
    connection.execute(_SETTINGS)
