"""Loads, saves and deletes the rows of messages: with their versions, and what vectors, queue and events hold of them.

Each function is called in a transaction that has locked the chats of the messages (`chat_locks`), on a connection that
`prepare_connection` has prepared.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from psycopg.errors import UniqueViolation

from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive.kept_counts import CountChanges
from vkteams_daemon.store.derive.message_fold import BEGINNING, COLUMNS, Message, Version
from vkteams_daemon.store.derive.search_terms import SearchTerms
from vkteams_daemon.store.vector_counts import DELETED, VectorCountChanges
from vkteams_daemon.store.words import searched_texts

Key = tuple[str, str]  # chat_id, msg_id

KEYS = ColumnSet((("chat_id", "text"), ("msg_id", "text")))
QUEUE = ColumnSet((*KEYS.columns, ("model_id", "int4"), ("kind", "text")))
MESSAGES = ColumnSet((
    ("chat_id", "text"), ("msg_id", "text"), ("user_id", "text"), ("sent_at", "timestamptz"),
    ("edited_at", "timestamptz"), ("deleted_at", "timestamptz"), ("pinned_at", "timestamptz"), ("version", "int4"),
    ("text", "text"), ("format", "jsonb"), ("parts", "jsonb"), ("reply_to_msg_id", "text"), ("forward", "jsonb"),
    ("thread", "jsonb"), ("received_at", "timestamptz"), ("search", "tsvector"), ("search_version", "int2"),
))  # fmt: skip
VERSIONS = ColumnSet((
    ("chat_id", "text"), ("msg_id", "text"), ("version", "int4"), ("edited_at", "timestamptz"), ("text", "text"),
    ("format", "jsonb"), ("parts", "jsonb"), ("replaced_at", "timestamptz"),
))  # fmt: skip
_JSON_COLUMNS = {"format", "parts", "forward", "thread"}

_to_json = functools.partial(json.dumps, ensure_ascii=False)

_LOAD = f"SELECT {', '.join('m.' + c for c in COLUMNS)} FROM {{incoming}} JOIN messages m USING (chat_id, msg_id)"
# A bot may edit one message for years. Load only the versions from a moment on, and the one before, because its
# replaced_at may change.
_LOAD_VERSIONS = (
    "SELECT v.chat_id, v.msg_id, v.version, v.edited_at, v.text, v.format, v.parts FROM message_versions v"
    " WHERE v.chat_id = %(chat)s AND v.msg_id = %(message)s AND v.version >= coalesce((SELECT w.version"
    "  FROM message_versions w WHERE w.chat_id = %(chat)s AND w.msg_id = %(message)s"
    f"  AND coalesce(w.edited_at, '{BEGINNING.isoformat()}') < %(since)s::timestamptz"
    "  ORDER BY w.version DESC LIMIT 1), 1) ORDER BY v.version"
)
_STORED_COLUMNS = tuple(name for name, _ in MESSAGES.columns)
_INSERT_MESSAGES = (
    f"INSERT INTO messages ({', '.join(_STORED_COLUMNS)})"
    f" SELECT {', '.join(f'{c}::jsonb' if c in _JSON_COLUMNS else c for c in _STORED_COLUMNS)} FROM {{incoming}}"
)
_UPSERT_MESSAGES = (
    f"{_INSERT_MESSAGES} ON CONFLICT (chat_id, msg_id) DO UPDATE SET"
    f" {', '.join(f'{c} = excluded.{c}' for c in _STORED_COLUMNS[2:])}"
)
_UPSERT_VERSIONS = (
    "INSERT INTO message_versions (chat_id, msg_id, version, edited_at, text, format, parts, replaced_at)"
    " SELECT chat_id, msg_id, version, edited_at, text, format::jsonb, parts::jsonb, replaced_at FROM {incoming}"
    " ON CONFLICT (chat_id, msg_id, version) DO UPDATE SET edited_at = excluded.edited_at, text = excluded.text,"
    " format = excluded.format, parts = excluded.parts, replaced_at = excluded.replaced_at"
)
# Only replay can remove versions. Arriving events only add to them.
_DELETE_SURPLUS_VERSIONS = (
    "DELETE FROM message_versions v USING {incoming} JOIN messages m USING (chat_id, msg_id)"
    " WHERE v.chat_id = m.chat_id AND v.msg_id = m.msg_id AND v.version >= m.version"
)
_ENQUEUE = (
    "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind)"
    " SELECT i.chat_id, i.msg_id, e.model_id, 'message' FROM (SELECT * FROM {incoming}) AS i"
    " CROSS JOIN embedding_models e WHERE e.state <> 'retired' ORDER BY i.chat_id, i.msg_id ON CONFLICT DO NOTHING"
)
_DELETE_VECTORS = (
    "DELETE FROM embeddings e USING {incoming} WHERE e.chat_id = incoming.chat_id AND e.msg_id = incoming.msg_id"
    f" {DELETED}"
)
# Skip the rows that a worker has claimed: it may keep them for seconds, and it will see that the message has changed.
_DELETE_FROM_QUEUE = (
    "DELETE FROM embedding_queue q USING (SELECT t.chat_id, t.msg_id, t.model_id, t.kind FROM {incoming}"
    " JOIN embedding_queue t ON t.chat_id = incoming.chat_id AND t.msg_id = incoming.msg_id"
    " FOR UPDATE OF t SKIP LOCKED) AS unclaimed WHERE q.chat_id = unclaimed.chat_id AND q.msg_id = unclaimed.msg_id"
    " AND q.model_id = unclaimed.model_id AND q.kind = unclaimed.kind"
)
_ERASE_EVENTS = (
    "UPDATE events e SET payload = NULL, raw = NULL FROM {incoming}"
    " WHERE e.chat_id = incoming.chat_id AND e.subject = incoming.msg_id"
    " AND (e.payload IS NOT NULL OR e.raw IS NOT NULL)"
)
# An event that says nothing about the message itself, such as a reaction, may repeat what an erased message said.
_ERASED = (
    "SELECT m.chat_id, m.msg_id FROM {incoming} JOIN messages m ON m.chat_id = incoming.chat_id"
    " AND m.msg_id = incoming.msg_id WHERE m.deleted_at IS NOT NULL AND m.text IS NULL AND m.parts IS NULL"
)
_DELETE_MESSAGES = (
    "DELETE FROM messages m USING {incoming} WHERE m.chat_id = incoming.chat_id AND m.msg_id = incoming.msg_id"
    f" RETURNING {', '.join('m.' + c for c in COLUMNS)}"
)
# Rows of several machines cannot be locked in one statement. So each statement names one chat, or one bot.
_LOCK_MESSAGES = (
    "SELECT m.chat_id, m.msg_id FROM messages m WHERE m.chat_id = %s AND m.msg_id = ANY(%s) ORDER BY m.msg_id"
    " FOR UPDATE SKIP LOCKED"
)
# SKIP LOCKED leaves out the locked rows. What exists and was left out belongs to another transaction.
_VECTORS = (
    "SELECT e.chat_id, e.msg_id, e.model_id, e.kind, e.chunk FROM embeddings e WHERE e.chat_id = %s"
    " AND e.msg_id = ANY(%s)"
)
_EVENTS = (
    "SELECT e.chat_id, e.subject, e.generation, e.event_id"
    " FROM unnest(%s::text[], %s::text[]) AS k (chat_id, msg_id) JOIN events e ON e.bot_id = %s"
    " AND e.chat_id = k.chat_id AND e.subject = k.msg_id WHERE (e.payload IS NOT NULL OR e.raw IS NOT NULL)"
)
# Folding reads a row and writes it back under a lock, so every statement must see what was committed before it: hence
# READ COMMITTED. The statements join a few rows by their keys. A wrong estimate, or a plan that was cached while the
# table was empty, must not scan the archive: hence no hash or merge joins, and no cached plans.
_SETTINGS = (
    "SET default_transaction_isolation = 'read committed'; SET enable_hashjoin = off; SET enable_mergejoin = off;"
    " SET plan_cache_mode = force_custom_plan; SET jit = off"
)
_NOTIFY = "SELECT pg_catalog.pg_notify('vkteams_queue', '')"


def load_messages(
    connection: Connection, keys: Collection[Key], since: Callable[[Key], datetime]
) -> dict[Key, Message]:
    """Load those of these messages that are stored.

    Args:
        connection: in a transaction that has locked the chats of the messages.
        keys: the messages.
        since: gives for each key the moment from which versions are needed; the version before it is loaded as well.
    """
    messages = {}
    for row in KEYS.execute(connection, _LOAD, keys):
        message = Message(**dict(zip(COLUMNS, row, strict=True)))
        messages[message.key] = message
    edited = [key for key, message in messages.items() if message.version > 1]
    versions: dict[Key, list[Version]] = {}
    unloaded: dict[Key, int] = {}
    with connection.pipeline() if edited else contextlib.nullcontext():
        loaded = [
            connection.execute(_LOAD_VERSIONS.encode(), {"chat": key[0], "message": key[1], "since": since(key)})
            for key in edited
        ]
        for chat_id, msg_id, number, *content in (row for rows in loaded for row in rows):
            versions.setdefault((chat_id, msg_id), []).append(Version(*content))
            unloaded.setdefault((chat_id, msg_id), number - 1)
    for key, message in messages.items():
        message.mark_stored(versions.get(key, ()), unloaded.get(key, 0))
    return messages


def delete_messages(connection: Connection, keys: Sequence[Key]) -> int:
    """Delete these messages with their versions, vectors and queue rows, and erase the content of their events.

    It never waits for a row: a message is left out if another transaction has locked the message, one of its vectors or
    one of its events. The caller holds locks of chats, which the writer would wait for meanwhile.

    Args:
        connection: in a transaction that has locked the chats of the messages.
        keys: the messages.

    Returns:
        How many messages were deleted.
    """
    free = _lock_messages(connection, keys)
    if free:
        locked = _locked_by_others(connection, free)
        free = [key for key in free if key not in locked]
    if free:
        KEYS.execute(connection, _DELETE_FROM_QUEUE, free)
        KEYS.execute(connection, _ERASE_EVENTS, free)
        delete_vectors(connection, free)  # the foreign key would delete them uncounted
        counts = CountChanges()
        for row in KEYS.execute(connection, _DELETE_MESSAGES, free):
            counts.add(row, -1)
        counts.save(connection)
    return len(free)


def _lock_messages(connection: Connection, keys: Sequence[Key]) -> list[Key]:
    """Lock those of these messages that exist and that no other transaction has locked; returns them."""
    with connection.pipeline():
        locked = [connection.execute(_LOCK_MESSAGES.encode(), of_chat) for of_chat in by_chat(keys)]
        return [(chat_id, msg_id) for rows in locked for chat_id, msg_id in rows]


def _locked_by_others(connection: Connection, keys: Sequence[Key]) -> set[Key]:
    """Lock the vectors and the events of these messages; returns the messages of which others have locked some."""
    bots = connection.execute("SELECT bot_id FROM bots ORDER BY bot_id").fetchall()
    columns = [list(column) for column in zip(*keys, strict=True)]
    questions: list[tuple[str, tuple[Any, ...]]] = [(_VECTORS, of_chat) for of_chat in by_chat(keys)]
    questions += [(_EVENTS, (*columns, bot_id)) for (bot_id,) in bots]
    with connection.pipeline():
        answers = [
            (
                connection.execute(f"{query} FOR UPDATE OF e SKIP LOCKED".encode(), values),
                connection.execute(query.encode(), values),
            )
            for query, values in questions
        ]
        return {row[:2] for locked, there in answers for row in set(there.fetchall()) - set(locked.fetchall())}


def by_chat(keys: Iterable[Key]) -> list[tuple[str, list[str]]]:
    """The chats of these messages, each with its message ids."""
    chats: dict[str, list[str]] = {}
    for chat_id, msg_id in keys:
        chats.setdefault(chat_id, []).append(msg_id)
    return sorted(chats.items())


def save_messages(
    connection: Connection,
    stored: Sequence[Message],
    new: Iterable[Message],
    terms: SearchTerms,
    *,
    erase: bool,
    held: Collection[str] = frozenset(),
    copy: bool,
    unseen: bool = False,
) -> int:
    """Write messages after folding; returns how many have a new text to embed.

    Args:
        connection: in a transaction that has locked the chats of the messages.
        stored: messages that the database has; only differences are written.
        new: messages that the database does not have.
        terms: made with the contents of the new messages.
        erase: whether to erase the events of deleted messages.
        held: the chats in which nothing is erased.
        copy: whether the new messages go by COPY. The iterator then makes the next ones while the server takes in the
            first.
        unseen: whether nobody has looked for the new messages; if one is stored, the database refuses the statement.
    """
    versions = [row for m in stored if m.earlier for row in m.changed_version_rows]
    deleted = [m.key for m in stored if m.deleted_at is not None]
    to_embed = [m.key for m in stored if m.to_embed]
    new_texts: list[Key] = []
    counts = CountChanges()

    def rows() -> Iterator[tuple[Any, ...]]:
        for message in new:
            row = message.row
            counts.add(row)
            yield (*row, terms.vector(message), searched_texts.VERSION)
            if message.earlier:
                versions.extend(message.version_rows)
            if message.to_embed:
                new_texts.append(message.key)
            elif message.deleted_at is not None:
                deleted.append(message.key)

    to_update = [m for m in stored if m.row != m.stored_row]
    for message in to_update:
        terms.add(message)
        if message.stored_row is None:
            counts.add(message.row)
        else:
            counts.replace(message.stored_row, message.row)
    terms.learn(connection)
    changed = [(*m.row, terms.vector(m), searched_texts.VERSION) for m in to_update]
    # COPY refuses a stored key, but nobody else can add one now: other transactions wait for the locks of the chats.
    if copy:
        MESSAGES.copy(connection, "messages", rows(), json=_to_json)
    elif not unseen:
        changed += rows()
    elif new_rows := list(rows()):
        MESSAGES.execute(connection, _INSERT_MESSAGES, new_rows, json=_to_json)
    if changed:
        MESSAGES.execute(connection, _UPSERT_MESSAGES, changed, json=_to_json)
    counts.save(connection)
    if versions:
        VERSIONS.execute(connection, _UPSERT_VERSIONS, versions, json=_to_json)
    with_surplus = [m.key for m in stored if len(m.stored_versions) > len(m.earlier)]
    if with_surplus:
        KEYS.execute(connection, _DELETE_SURPLUS_VERSIONS, with_surplus)
    no_longer_searchable = [m.key for m in stored if m.was_searchable and not m.searchable]
    if no_longer_searchable:
        delete_vectors(connection, no_longer_searchable)
    # An edited text is a new text: it loses the attempts and delays of the old one, even if that was parked.
    to_dequeue = no_longer_searchable + [m.key for m in stored if m.to_embed and m.was_searchable]
    if to_dequeue:
        KEYS.execute(connection, _DELETE_FROM_QUEUE, to_dequeue)
    to_erase = [key for key in deleted if key[0] not in held] if erase else []
    if to_erase:
        KEYS.execute(connection, _ERASE_EVENTS, to_erase)
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


def delete_vectors(connection: Connection, keys: Sequence[Key]) -> None:
    """Delete the vectors of these messages."""
    counts = VectorCountChanges()
    counts.deleted(KEYS.execute(connection, _DELETE_VECTORS, keys))
    counts.save(connection)


def erase_mentions(connection: Connection, keys: Collection[Key]) -> None:
    """Erase the content of every event about those of these messages whose content has been erased."""
    if erased := KEYS.execute(connection, _ERASED, sorted(keys)).fetchall():
        KEYS.execute(connection, _ERASE_EVENTS, erased)


def _copy_queue(connection: Connection, keys: Sequence[Key]) -> None:
    """Queue new messages for every model in use, with COPY."""
    # The registration of a model waits for this lock before it looks for messages without vectors.
    connection.execute("LOCK TABLE embedding_queue IN ROW EXCLUSIVE MODE")
    models = connection.execute("SELECT model_id FROM embedding_models WHERE state <> 'retired'").fetchall()
    try:
        with connection.transaction():
            rows = ((*key, *model, "message") for model in models for key in keys)
            QUEUE.copy(connection, "embedding_queue", rows)
    except UniqueViolation:
        # A message was deleted while a worker had claimed its queue row. The row stayed, and the message came again.
        KEYS.execute(connection, _ENQUEUE, keys)


def prepare_connection(connection: Connection) -> None:
    """Set the session parameters that these functions need."""
    connection.execute(_SETTINGS)
