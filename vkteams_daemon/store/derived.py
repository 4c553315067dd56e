"""Writes what a set of events says about messages, chats, users and members: set-based statements, whatever the size.

Used by the writer for what has just arrived and by replay for what is stored; both hold a transaction. Two bots may see
one chat, so the chats' advisory locks are taken first: folding reads a row and writes it back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from vkteams_daemon.botapi.facts import Chat, Facts, User
from vkteams_daemon.store import people
from vkteams_daemon.store.database import Connection
from vkteams_daemon.store.fold import COLUMNS, Message, Version, fold_all
from vkteams_daemon.store.rows import COPY_FROM, Rows

KEYS = Rows((("chat_id", "text"), ("msg_id", "text")))
MESSAGES = Rows((
    ("chat_id", "text"), ("msg_id", "text"), ("user_id", "text"), ("sent_at", "timestamptz"),
    ("edited_at", "timestamptz"), ("deleted_at", "timestamptz"), ("pinned_at", "timestamptz"), ("version", "int4"),
    ("text", "text"), ("format", "jsonb"), ("parts", "jsonb"), ("reply_to_msg_id", "text"), ("forward", "jsonb"),
    ("thread", "jsonb"), ("received_at", "timestamptz"),
))  # fmt: skip
VERSIONS = Rows((
    ("chat_id", "text"), ("msg_id", "text"), ("version", "int4"), ("edited_at", "timestamptz"), ("text", "text"),
    ("format", "jsonb"), ("parts", "jsonb"), ("replaced_at", "timestamptz"),
))  # fmt: skip
CHATS = Rows((
    ("chat_id", "text"), ("type", "text"), ("title", "text"), ("parent_chat_id", "text"), ("parent_msg_id", "text"),
    ("seen_at", "timestamptz"),
))  # fmt: skip
USERS = Rows((
    ("user_id", "text"), ("first_name", "text"), ("last_name", "text"), ("nick", "text"), ("is_bot", "bool"),
    ("seen_at", "timestamptz"),
))  # fmt: skip
MEMBERS = Rows((
    ("chat_id", "text"), ("user_id", "text"), ("joined_at", "timestamptz"), ("left_at", "timestamptz"),
    ("added_by", "text"), ("removed_by", "text"),
))  # fmt: skip

_JSON = {"format", "parts", "forward", "thread"}

_LOAD = f"SELECT {', '.join('m.' + c for c in COLUMNS)} FROM {{incoming}} JOIN messages m USING (chat_id, msg_id)"
_LOAD_VERSIONS = (
    "SELECT v.chat_id, v.msg_id, v.edited_at, v.text, v.format, v.parts"
    " FROM {incoming} JOIN message_versions v USING (chat_id, msg_id) ORDER BY v.chat_id, v.msg_id, v.version"
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
_SAVE_CHATS = (
    "INSERT INTO {prefix}chats AS c (chat_id, type, title, parent_chat_id, parent_msg_id, first_seen_at, seen_at)"
    " SELECT chat_id, type, title, parent_chat_id, parent_msg_id, seen_at, seen_at FROM {incoming}"
    " ON CONFLICT (chat_id) DO UPDATE SET type = coalesce(excluded.type, c.type),"
    " title = coalesce(excluded.title, c.title), parent_chat_id = coalesce(excluded.parent_chat_id, c.parent_chat_id),"
    " parent_msg_id = coalesce(excluded.parent_msg_id, c.parent_msg_id), seen_at = excluded.seen_at"
    " WHERE excluded.seen_at >= c.seen_at AND (coalesce(excluded.type, c.type), coalesce(excluded.title, c.title),"
    " coalesce(excluded.parent_chat_id, c.parent_chat_id), coalesce(excluded.parent_msg_id, c.parent_msg_id))"
    " IS DISTINCT FROM (c.type, c.title, c.parent_chat_id, c.parent_msg_id)"
)
_SAVE_USERS = (
    "INSERT INTO {prefix}users AS u (user_id, first_name, last_name, nick, is_bot, seen_at)"
    " SELECT user_id, first_name, last_name, nick, is_bot, seen_at FROM {incoming}"
    " ON CONFLICT (user_id) DO UPDATE SET first_name = coalesce(excluded.first_name, u.first_name),"
    " last_name = coalesce(excluded.last_name, u.last_name), nick = coalesce(excluded.nick, u.nick),"
    " is_bot = coalesce(excluded.is_bot, u.is_bot), seen_at = excluded.seen_at"
    " WHERE excluded.seen_at >= u.seen_at AND (coalesce(excluded.first_name, u.first_name),"
    " coalesce(excluded.last_name, u.last_name), coalesce(excluded.nick, u.nick), coalesce(excluded.is_bot, u.is_bot))"
    " IS DISTINCT FROM (u.first_name, u.last_name, u.nick, u.is_bot)"
)
_SAVE_MEMBERS = (
    "INSERT INTO {prefix}chat_members AS m (chat_id, user_id, joined_at, left_at, added_by, removed_by)"
    " SELECT chat_id, user_id, joined_at, left_at, added_by, removed_by FROM {incoming}"
    " ON CONFLICT (chat_id, user_id) DO UPDATE SET joined_at = coalesce(excluded.joined_at, m.joined_at),"
    " left_at = excluded.left_at, removed_by = excluded.removed_by,"
    " added_by = CASE WHEN excluded.joined_at IS NULL THEN m.added_by ELSE excluded.added_by END"
    " WHERE coalesce(excluded.left_at, excluded.joined_at) >= greatest(m.left_at, m.joined_at)"
)
_ENQUEUE = (
    "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind)"
    " SELECT i.chat_id, i.msg_id, e.model_id, 'message' FROM (SELECT * FROM {incoming}) AS i"
    " CROSS JOIN embedding_models e WHERE e.state <> 'retired' ON CONFLICT DO NOTHING"
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
# Folding reads a row and writes it back under a lock taken before, so every statement must see what was committed
# until then. Only a few rows by their keys are ever joined, and no guess may scan the archive: least of all a plan that
# was made, and kept, while it was empty.
_SETTINGS = (
    "SET default_transaction_isolation = 'read committed'; SET enable_hashjoin = off; SET enable_mergejoin = off;"
    " SET plan_cache_mode = force_custom_plan; SET jit = off"
)
_NOTIFY = "SELECT pg_notify('vkteams_queue', '')"


def write(connection: Connection, facts: Sequence[tuple[Facts, datetime]], *, erase: bool, copy: bool) -> int:
    """Write what these events say, in their order.

    Args:
        connection: inside a transaction; in pipeline mode unless `copy`.
        facts: (facts, arrival) of each event.
        erase: whether a deletion erases the text (`[storage] on_delete`).
        copy: whether many new messages go by COPY.

    Returns:
        How many messages have a new text to embed.
    """
    said = [f.message for f, _ in facts if f.message]
    known = lock_and_load(connection, [(m.chat_id, m.msg_id) for m in said]) if said else {}
    write_people(connection, facts)
    return save(connection, fold_all(known, said, erase=erase), erase=erase, copy=copy)


def write_people(connection: Connection, facts: Sequence[tuple[Facts, datetime]], prefix: str = "") -> None:
    """Write what these events say about chats, users and members, in their order.

    Args:
        connection: inside a transaction.
        facts: (facts, arrival) of each event.
        prefix: of the names of the tables to write to.
    """
    # One round for each change of a row within this batch, so that batches of any size come to the same result.
    for rows in people.rounds((chat.chat_id, _chat_row(chat), at) for f, at in facts for chat in f.chats):
        CHATS.run(connection, _SAVE_CHATS, rows, prefix=prefix)
    for rows in people.rounds((user.user_id, _user_row(user), at) for f, at in facts for user in f.users):
        USERS.run(connection, _SAVE_USERS, rows, prefix=prefix)
    members = people.memberships(member for f, _ in facts for member in f.members)
    if members:
        MEMBERS.run(connection, _SAVE_MEMBERS, members, prefix=prefix)


def lock_and_load(connection: Connection, keys: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Message]:
    """What the database has of these messages, their chats locked until the transaction ends."""
    distinct = list(dict.fromkeys(keys))
    lock(connection, {chat_id for chat_id, _ in distinct})
    known = {}
    for row in KEYS.run(connection, _LOAD, distinct):
        message = Message(**dict(zip(COLUMNS, row, strict=True)))
        known[message.key] = message
    versions: dict[tuple[str, str], list[Version]] = {key: [] for key, message in known.items() if message.version > 1}
    if versions:
        for chat_id, msg_id, *content in KEYS.run(connection, _LOAD_VERSIONS, list(versions)):
            versions[chat_id, msg_id].append(Version(*content))
    for key, message in known.items():
        message.remember(versions.get(key, ()))
    return known


def lock(connection: Connection, chat_ids: Iterable[str]) -> None:
    """Keep others from folding messages of these chats until the transaction ends."""
    connection.execute(_LOCK_CHATS.encode(), [list(chat_ids)])


def forget(connection: Connection, keys: Sequence[tuple[str, str]]) -> None:
    """Delete these messages with their versions, vectors and queue rows, and empty their events; under `lock`."""
    KEYS.run(connection, _DROP_QUEUED, keys)
    KEYS.run(connection, _ERASE, keys)
    KEYS.run(connection, _DROP_MESSAGES, keys)


def save(connection: Connection, messages: Sequence[Message], *, erase: bool, copy: bool) -> int:
    """Write the messages that differ from what the database has; returns how many have a new text to embed."""
    changed = [(m, row) for m, row in ((m, m.row) for m in messages) if row != m.stored_row]
    new = _with_json(MESSAGES, (row for m, row in changed if m.stored_row is None))
    if copy and len(new) >= COPY_FROM:
        # Whoever else may add messages to these chats waits for their locks.
        MESSAGES.copy(connection, "messages", new)
        changed = [(m, row) for m, row in changed if m.stored_row is not None]
    if changed:
        MESSAGES.run(connection, _SAVE_MESSAGES, _with_json(MESSAGES, (row for _, row in changed)))
    versions = [row for m in messages for row in m.version_rows if row not in m.stored_versions]
    if versions:
        VERSIONS.run(connection, _SAVE_VERSIONS, _with_json(VERSIONS, versions))
    fewer = [m.key for m in messages if len(m.stored_versions) > len(m.earlier)]
    if fewer:
        KEYS.run(connection, _DROP_VERSIONS, fewer)
    silenced = [m.key for m in messages if m.silent and not m.was_silent]
    if silenced:
        KEYS.run(connection, _DROP_VECTORS, silenced)
    queue = [m.key for m in messages if m.to_embed]
    # An edited text that had been put off, or parked, is a new text.
    stale = silenced + [m.key for m in messages if m.to_embed and not m.was_silent]
    if stale:
        KEYS.run(connection, _DROP_QUEUED, stale)
    erased = [m.key for m in messages if erase and m.deleted_at is not None]
    if erased:
        KEYS.run(connection, _ERASE, erased)
    if queue:
        KEYS.run(connection, _ENQUEUE, queue)
        connection.execute(_NOTIFY.encode())
    return len(queue)


def _chat_row(chat: Chat) -> tuple[Any, ...]:
    return chat.chat_id, chat.type, chat.title, chat.parent_chat_id, chat.parent_msg_id


def _user_row(user: User) -> tuple[Any, ...]:
    return user.user_id, user.first_name, user.last_name, user.nick, user.is_bot


def _with_json(columns: Rows, rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows with their JSON as text."""
    places = columns.json
    written = []
    for row in rows:
        if any(row[place] is not None for place in places):
            texts = {place: json.dumps(row[place], ensure_ascii=False) for place in places if row[place] is not None}
            row = tuple(texts.get(place, value) for place, value in enumerate(row))
        written.append(row)
    return written


def prepare(connection: Connection) -> None:
    """Ready a session for `write`, `save` and `forget`."""
    connection.execute(_SETTINGS)
