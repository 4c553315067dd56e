"""Writes what a set of events says about messages, chats, users and members: set-based statements, whatever the size.

Used by the writer for what has just arrived and by replay for what is stored; both hold a transaction. Two bots may see
one chat, so the chats' advisory locks are taken first: folding reads a row and writes it back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from vkteams_daemon.botapi.facts import Chat, Facts, Membership, MessageFact, User
from vkteams_daemon.store.database import Connection
from vkteams_daemon.store.fold import Message, Version, fold_all
from vkteams_daemon.store.rows import Rows

KEYS = Rows("keys", (("chat_id", "text"), ("msg_id", "text")))
MESSAGES = Rows("messages", (
    ("chat_id", "text"), ("msg_id", "text"), ("user_id", "text"), ("sent_at", "timestamptz"),
    ("edited_at", "timestamptz"), ("deleted_at", "timestamptz"), ("pinned_at", "timestamptz"), ("version", "int4"),
    ("text", "text"), ("format", "text"), ("parts", "text"), ("reply_to_msg_id", "text"), ("forward", "text"),
    ("thread", "text"), ("received_at", "timestamptz"),
))  # fmt: skip
VERSIONS = Rows("versions", (
    ("chat_id", "text"), ("msg_id", "text"), ("version", "int4"), ("edited_at", "timestamptz"), ("text", "text"),
    ("format", "text"), ("parts", "text"), ("replaced_at", "timestamptz"),
))  # fmt: skip
CHATS = Rows("chats", (
    ("chat_id", "text"), ("type", "text"), ("title", "text"), ("parent_chat_id", "text"), ("parent_msg_id", "text"),
    ("seen_at", "timestamptz"),
))  # fmt: skip
USERS = Rows("users", (
    ("user_id", "text"), ("first_name", "text"), ("last_name", "text"), ("nick", "text"), ("is_bot", "bool"),
    ("seen_at", "timestamptz"),
))  # fmt: skip
MEMBERS = Rows("members", (
    ("chat_id", "text"), ("user_id", "text"), ("joined_at", "timestamptz"), ("left_at", "timestamptz"),
    ("added_by", "text"), ("removed_by", "text"),
))  # fmt: skip
ROWS = (KEYS, MESSAGES, VERSIONS, CHATS, USERS, MEMBERS)

_JSON = {"format", "parts", "forward", "thread"}
_MESSAGE_COLUMNS = [name for name, _ in MESSAGES.columns]
_KEPT = [name for name in _MESSAGE_COLUMNS if name not in ("chat_id", "msg_id", "received_at")]

_LOAD = (
    f"SELECT {', '.join('m.' + c for c in _MESSAGE_COLUMNS)} FROM {{incoming}} JOIN messages m USING (chat_id, msg_id)"
)
_LOAD_VERSIONS = (
    "SELECT v.chat_id, v.msg_id, v.edited_at, v.text FROM {incoming} JOIN message_versions v USING (chat_id, msg_id)"
)
_SAVE_MESSAGES = (
    f"INSERT INTO messages ({', '.join(_MESSAGE_COLUMNS)})"
    f" SELECT {', '.join(f'{c}::jsonb' if c in _JSON else c for c in _MESSAGE_COLUMNS)} FROM {{incoming}}"
    f" ON CONFLICT (chat_id, msg_id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _KEPT)}"
)
_SAVE_VERSIONS = (
    "INSERT INTO message_versions (chat_id, msg_id, version, edited_at, text, format, parts, replaced_at)"
    " SELECT chat_id, msg_id, version, edited_at, text, format::jsonb, parts::jsonb, replaced_at FROM {incoming}"
)
_SAVE_CHATS = (
    "INSERT INTO chats AS c (chat_id, type, title, parent_chat_id, parent_msg_id, first_seen_at, seen_at)"
    " SELECT chat_id, type, title, parent_chat_id, parent_msg_id, seen_at, seen_at FROM {incoming}"
    " ON CONFLICT (chat_id) DO UPDATE SET type = coalesce(excluded.type, c.type),"
    " title = coalesce(excluded.title, c.title), parent_chat_id = coalesce(excluded.parent_chat_id, c.parent_chat_id),"
    " parent_msg_id = coalesce(excluded.parent_msg_id, c.parent_msg_id), seen_at = excluded.seen_at"
    " WHERE excluded.seen_at >= c.seen_at AND (coalesce(excluded.type, c.type), coalesce(excluded.title, c.title),"
    " coalesce(excluded.parent_chat_id, c.parent_chat_id), coalesce(excluded.parent_msg_id, c.parent_msg_id))"
    " IS DISTINCT FROM (c.type, c.title, c.parent_chat_id, c.parent_msg_id)"
)
_SAVE_USERS = (
    "INSERT INTO users AS u (user_id, first_name, last_name, nick, is_bot, seen_at)"
    " SELECT user_id, first_name, last_name, nick, is_bot, seen_at FROM {incoming}"
    " ON CONFLICT (user_id) DO UPDATE SET first_name = coalesce(excluded.first_name, u.first_name),"
    " last_name = coalesce(excluded.last_name, u.last_name), nick = coalesce(excluded.nick, u.nick),"
    " is_bot = coalesce(excluded.is_bot, u.is_bot), seen_at = excluded.seen_at"
    " WHERE excluded.seen_at >= u.seen_at AND (coalesce(excluded.first_name, u.first_name),"
    " coalesce(excluded.last_name, u.last_name), coalesce(excluded.nick, u.nick), coalesce(excluded.is_bot, u.is_bot))"
    " IS DISTINCT FROM (u.first_name, u.last_name, u.nick, u.is_bot)"
)
_SAVE_MEMBERS = (
    "INSERT INTO chat_members AS m (chat_id, user_id, joined_at, left_at, added_by, removed_by)"
    " SELECT chat_id, user_id, joined_at, left_at, added_by, removed_by FROM {incoming}"
    " ON CONFLICT (chat_id, user_id) DO UPDATE SET joined_at = coalesce(excluded.joined_at, m.joined_at),"
    " left_at = excluded.left_at, added_by = coalesce(excluded.added_by, m.added_by),"
    " removed_by = excluded.removed_by"
    " WHERE coalesce(excluded.left_at, excluded.joined_at) >= greatest(m.left_at, m.joined_at)"
)
_ENQUEUE = (
    "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind)"
    " SELECT i.chat_id, i.msg_id, e.model_id, 'message' FROM (SELECT * FROM {incoming}) AS i"
    " CROSS JOIN embedding_models e WHERE e.state <> 'retired' ON CONFLICT DO NOTHING"
)
# A row that a worker holds is passed by, for it may hold it for seconds; it will see that the message has changed.
_DROP_QUEUED = (
    "DELETE FROM embedding_queue q USING (SELECT t.chat_id, t.msg_id, t.model_id, t.kind FROM {{incoming}}"
    " JOIN embedding_queue t ON t.chat_id = incoming.chat_id AND t.msg_id = incoming.msg_id{condition}"
    " FOR UPDATE OF t SKIP LOCKED) AS k WHERE q.chat_id = k.chat_id AND q.msg_id = k.msg_id"
    " AND q.model_id = k.model_id AND q.kind = k.kind"
)
_DROP_VECTORS = (
    "DELETE FROM embeddings e USING {incoming} WHERE e.chat_id = incoming.chat_id AND e.msg_id = incoming.msg_id",
    _DROP_QUEUED.format(condition=""),
)
# An edited text that had been put off, or parked, is a new text.
_START_OVER = _DROP_QUEUED.format(condition=" AND t.attempts > 0")
_ERASE = (
    "UPDATE events e SET payload = NULL, raw = NULL FROM {incoming}"
    " WHERE e.chat_id = incoming.chat_id AND e.subject = incoming.msg_id",
    "UPDATE message_versions v SET text = NULL, format = NULL, parts = NULL FROM {incoming}"
    " WHERE v.chat_id = incoming.chat_id AND v.msg_id = incoming.msg_id",
)
# 1,024 keys at most: a batch of many chats must not fill the server's lock table.
_LOCK_CHATS = (
    "SELECT pg_advisory_xact_lock(7691, bucket) FROM"
    " (SELECT DISTINCT hashtext(chat_id) & 1023 AS bucket FROM unnest(%s::text[]) AS chat_id ORDER BY bucket) AS b"
)
_NOTIFY = "SELECT pg_notify('vkteams_queue', '')"


def write(connection: Connection, facts: Sequence[tuple[Facts, Any]], *, erase: bool, copy: bool) -> int:
    """Write what these events say, in their order.

    Args:
        connection: inside a transaction.
        facts: (facts, arrival) of each event.
        erase: whether a deletion erases the text (`[storage] on_delete`).
        copy: whether large sets go through the session's temporary tables.

    Returns:
        How many messages were queued for embedding.
    """
    message_facts = [f.message for f, _ in facts if f.message]
    chats, users, members = _latest(facts)
    messages: list[Message] = []
    if message_facts:
        connection.execute(_LOCK_CHATS.encode(), [list({m.chat_id for m in message_facts})])
        messages = fold_all(_load(connection, message_facts, copy), message_facts, erase=erase)
    # One round trip for all of it, unless something is copied: a pipeline does not take COPY.
    with contextlib.nullcontext() if copy else connection.pipeline():
        if chats:
            CHATS.run(connection, _SAVE_CHATS, chats, copy)
        if users:
            USERS.run(connection, _SAVE_USERS, users, copy)
        if members:
            MEMBERS.run(connection, _SAVE_MEMBERS, members, copy)
        return _save(connection, messages, erase, copy) if messages else 0


def _save(connection: Connection, messages: list[Message], erase: bool, copy: bool) -> int:
    MESSAGES.run(connection, _SAVE_MESSAGES, [_message_row(m) for m in messages], copy)
    versions = [_version_row(m, v) for m in messages for v in m.new_versions]
    if versions:
        VERSIONS.run(connection, _SAVE_VERSIONS, versions, copy)
    gone = [(m.chat_id, m.msg_id) for m in messages if m.newly_deleted or (m.stored_version and not m.text)]
    for statement in _DROP_VECTORS if gone else ():
        KEYS.run(connection, statement, gone, copy)
    erased = [(m.chat_id, m.msg_id) for m in messages if erase and m.deleted_at]
    for statement in _ERASE if erased else ():
        KEYS.run(connection, statement, erased, copy)
    queue = [(m.chat_id, m.msg_id) for m in messages if m.to_embed]
    edited = [(m.chat_id, m.msg_id) for m in messages if m.to_embed and m.stored_version]
    if edited:
        KEYS.run(connection, _START_OVER, edited, copy)
    if queue:
        KEYS.run(connection, _ENQUEUE, queue, copy)
        connection.execute(_NOTIFY.encode())
    return len(queue)


def _load(connection: Connection, facts: list[MessageFact], copy: bool) -> dict[tuple[str, str], Message]:
    keys = list({(fact.chat_id, fact.msg_id): None for fact in facts})
    known: dict[tuple[str, str], Message] = {}
    for row in KEYS.run(connection, _LOAD, keys, copy):
        message = Message(**dict(zip(_MESSAGE_COLUMNS, row, strict=True)))
        message.stored_version, message.stored_deleted = message.version, message.deleted_at is not None
        known[message.chat_id, message.msg_id] = message
    if known:
        for chat_id, msg_id, edited_at, text in KEYS.run(connection, _LOAD_VERSIONS, list(known), copy):
            known[chat_id, msg_id].remember(edited_at, text)
    return known


def _latest(facts: Sequence[tuple[Facts, Any]]) -> tuple[list[Any], list[Any], list[Any]]:
    """The rows of chats, users and members: one each, the latest known value of every column."""
    chats: dict[str, list[Any]] = {}
    users: dict[str, list[Any]] = {}
    members: dict[tuple[str, str], list[Any]] = {}
    for event, seen_at in facts:
        for chat in event.chats:
            _merge(chats, chat.chat_id, _chat_row(chat, seen_at))
        for user in event.users:
            _merge(users, user.user_id, _user_row(user, seen_at))
        for member in event.members:
            members[member.chat_id, member.user_id] = _member_row(members.get((member.chat_id, member.user_id)), member)
    # Sorted, so that two bots' transactions lock rows they share in one order.
    return _tuples(chats), _tuples(users), _tuples(members)


def _tuples(rows: dict[Any, list[Any]]) -> list[Any]:
    return [tuple(rows[key]) for key in sorted(rows)]


def _merge(rows: dict[str, list[Any]], key: str, new: list[Any]) -> None:
    old = rows.get(key)
    rows[key] = new if old is None else [n if n is not None else o for n, o in zip(new, old, strict=True)]


def _chat_row(chat: Chat, seen_at: Any) -> list[Any]:
    return [chat.chat_id, chat.type, chat.title, chat.parent_chat_id, chat.parent_msg_id, seen_at]


def _user_row(user: User, seen_at: Any) -> list[Any]:
    return [user.user_id, user.first_name, user.last_name, user.nick, user.is_bot, seen_at]


def _member_row(old: list[Any] | None, member: Membership) -> list[Any]:
    if member.joined:
        return [member.chat_id, member.user_id, member.at, None, member.by, None]
    joined_at, added_by = (old[2], old[4]) if old else (None, None)
    return [member.chat_id, member.user_id, joined_at, member.at, added_by, member.by]


def _message_row(m: Message) -> tuple[Any, ...]:
    return (
        m.chat_id, m.msg_id, m.user_id, m.sent_at, m.edited_at, m.deleted_at, m.pinned_at, m.version, m.text,
        _json(m.format), _json(m.parts), m.reply_to_msg_id, _json(m.forward), _json(m.thread), m.received_at,
    )  # fmt: skip


def _version_row(m: Message, v: Version) -> tuple[Any, ...]:
    return (m.chat_id, m.msg_id, v.version, v.edited_at, v.text, _json(v.format), _json(v.parts), v.replaced_at)


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def temporary_tables(others: Iterable[Rows] = ()) -> str:
    """The statements that make the session's temporary tables."""
    return "; ".join(rows.temporary_table for rows in (*ROWS, *others))
