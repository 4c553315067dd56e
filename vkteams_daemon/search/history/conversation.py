"""Which messages belong together: by replies, by the message that a thread hangs on, and by nearness in time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.search.messages import ArchivedMessage, MessageKey
from vkteams_daemon.search.names import names
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

_MAX_STEPS = 40  # along replies, in each direction
_MAX_LINKED = 200  # messages that replies link
_MAX_IN_THREADS = 40  # messages of the threads that hang on them


def chat_of(connection: Connection, msg_id: str, scope: Scope) -> str:
    """The chat that has this message.

    Raises:
        NotFound: no chat of the scope has it.
        UsageError: several chats have it.
    """
    rows = connection.execute(
        # Chat by chat, so that each is one access to the primary key.
        "SELECT m.chat_id FROM chats c JOIN messages m ON m.chat_id = c.chat_id AND m.msg_id = %(message)s"
        f" WHERE {scope.condition} ORDER BY m.chat_id LIMIT 10".encode(),
        {**scope.parameters, "message": msg_id},
        prepare=False,
    )
    chat_ids = [str(chat_id) for (chat_id,) in rows]
    if not chat_ids:
        raise NotFound(f"the archive has no message {msg_id}")
    if len(chat_ids) > 1:
        raise UsageError(f"several chats have a message {msg_id}", hint=f"Name one of {', '.join(chat_ids)}.")
    return chat_ids[0]


def latest(
    connection: Connection, scope: Scope, limit: int, before: tuple[datetime, str, str] | None = None
) -> list[ArchivedMessage]:
    """The newest messages of the scope, oldest first.

    Args:
        connection: any connection to the archive.
        scope: which messages.
        limit: most messages.
        before: sent_at, chat_id and msg_id of a message; only messages before it.
    """
    earlier = "AND (m.sent_at, m.chat_id, m.msg_id) < (%(sent_at)s, %(chat)s, %(message)s)" if before else ""
    sent_at, chat_id, msg_id = before or (None, None, None)
    return _read(
        connection,
        scope,
        f"SELECT m.chat_id, m.msg_id FROM messages m WHERE {scope.condition} {earlier}"
        " ORDER BY m.sent_at DESC, m.chat_id DESC, m.msg_id DESC LIMIT %(limit)s",
        {**scope.parameters, "limit": limit, "sent_at": sent_at, "chat": chat_id, "message": msg_id},
    )


def thread(connection: Connection, chat_id: str, msg_id: str, scope: Scope) -> list[ArchivedMessage]:
    """The message with the messages it answers, the messages that answer it, and so on; oldest first.

    A thread is a chat of its own: the message that it hangs on comes too, and so do the newest messages of the threads
    that hang on the linked ones. Links lead through deleted messages, and through messages that the archive never
    had, but not through messages outside the scope.

    Raises:
        NotFound: the archive has no such message, or it was deleted, or it lies outside the scope.
    """
    # Every part names the chat, so that one shard can answer if messages are distributed by chat.
    linked = _read(
        connection,
        scope,
        "WITH RECURSIVE up AS ("
        "  SELECT m.msg_id, m.reply_to_msg_id, m.sent_at, 0 AS steps FROM messages m"
        f"  WHERE m.chat_id = %(chat)s AND m.msg_id = %(message)s AND {scope.condition}"
        "  UNION ALL SELECT m.msg_id, m.reply_to_msg_id, m.sent_at, up.steps + 1 FROM up"
        "  JOIN messages m ON m.chat_id = %(chat)s AND m.msg_id = up.reply_to_msg_id"
        f"  WHERE up.steps < {_MAX_STEPS} AND {scope.condition_with_deleted}"
        "), top AS (SELECT coalesce(reply_to_msg_id, msg_id) AS msg_id FROM up ORDER BY steps DESC LIMIT 1"
        "), down AS ("
        "  SELECT msg_id, 0 AS steps FROM top"
        "  UNION ALL SELECT m.msg_id, down.steps + 1 FROM down"
        "  JOIN messages m ON m.chat_id = %(chat)s AND m.reply_to_msg_id = down.msg_id"
        f"  WHERE down.steps <= {_MAX_STEPS} AND {scope.condition_with_deleted}"
        "), linked AS (SELECT msg_id FROM up UNION SELECT msg_id FROM down"
        "), middle AS (SELECT sent_at FROM up WHERE steps = 0)"
        " SELECT m.chat_id, m.msg_id FROM linked l"
        f" JOIN messages m ON m.chat_id = %(chat)s AND m.msg_id = l.msg_id WHERE {scope.condition}"
        " ORDER BY m.msg_id <> %(message)s, pg_catalog.abs(extract(epoch FROM m.sent_at - (SELECT sent_at FROM"
        " middle)))"
        f" LIMIT {_MAX_LINKED}",
        {**scope.parameters, "chat": chat_id, "message": msg_id},
    )
    if not linked:
        raise NotFound(f"the archive has no message {msg_id} in chat {chat_id}")
    beside = _parent(connection, chat_id, scope) + _threads(connection, linked, scope)
    return sorted([*beside, *linked], key=lambda message: (message.sent_at, message.msg_id))


def neighbours(
    connection: Connection,
    middle: ArchivedMessage,
    scope: Scope,
    *,
    each_way: int,
    gap: timedelta | None = None,
) -> list[ArchivedMessage]:
    """The messages of the chat just before and just after this one, nearest first.

    Args:
        connection: any connection to the archive.
        middle: the message itself; it is left out.
        scope: which messages may be seen.
        each_way: most messages before, and most after.
        gap: a silence longer than this ends the conversation; None for no such end.
    """
    messages: list[ArchivedMessage] = []
    for order, comparison in (("DESC", "<"), ("ASC", ">")):
        side = _read(
            connection,
            scope,
            f"SELECT m.chat_id, m.msg_id FROM messages m WHERE m.chat_id = %(chat)s AND {scope.condition}"
            f" AND (m.sent_at, m.msg_id) {comparison} (%(at)s, %(message)s)"
            f" ORDER BY m.sent_at {order}, m.msg_id {order} LIMIT %(each_way)s",
            {
                **scope.parameters,
                "chat": middle.chat_id,
                "at": middle.sent_at,
                "message": middle.msg_id,
                "each_way": each_way,
            },
        )
        side.sort(key=lambda message: (message.sent_at, message.msg_id), reverse=order == "DESC")
        messages += _until_silence(middle, side, gap)
    return sorted(messages, key=lambda message: abs(message.sent_at - middle.sent_at))


def read(connection: Connection, keys: Collection[MessageKey], scope: Scope) -> list[ArchivedMessage]:
    """These messages, oldest first; deleted ones and those outside the scope are left out."""
    return _read(
        connection,
        scope,
        "SELECT m.chat_id, m.msg_id FROM unnest(%(chats)s::text[], %(messages)s::text[]) AS k (chat_id, msg_id)"
        f" JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id WHERE {scope.condition}",
        {**scope.parameters, "chats": [key[0] for key in keys], "messages": [key[1] for key in keys]},
    )


def _parent(connection: Connection, chat_id: str, scope: Scope) -> list[ArchivedMessage]:
    """The message that the chat hangs on, if the chat is a thread."""
    keys = connection.execute(
        "SELECT parent_chat_id, parent_msg_id FROM chats WHERE chat_id = %s AND parent_msg_id IS NOT NULL",
        (chat_id,),
    ).fetchall()
    return read(connection, [(parent, msg_id) for parent, msg_id in keys], scope) if keys else []


def _threads(connection: Connection, linked: Sequence[ArchivedMessage], scope: Scope) -> list[ArchivedMessage]:
    """The newest messages of the threads that hang on these messages of one chat."""
    rows = connection.execute(
        "SELECT chat_id FROM chats WHERE parent_chat_id = %s AND parent_msg_id = ANY(%s)",
        (linked[0].chat_id, [message.msg_id for message in linked]),
    )
    threads = [chat_id for (chat_id,) in rows]
    if not threads:
        return []
    return _read(
        connection,
        scope,
        # By each thread's own index: threads are short, and may lie far back.
        "SELECT m.chat_id, m.msg_id FROM pg_catalog.unnest(%(threads)s::text[]) AS t (chat_id) CROSS JOIN LATERAL"
        " (SELECT m.chat_id, m.msg_id, m.sent_at FROM messages m"
        f"  WHERE m.chat_id = t.chat_id AND {scope.condition} ORDER BY m.sent_at DESC LIMIT {_MAX_IN_THREADS}) AS m"
        f" ORDER BY m.sent_at DESC, m.msg_id DESC LIMIT {_MAX_IN_THREADS}",
        {**scope.parameters, "threads": threads},
    )


def _until_silence(
    middle: ArchivedMessage, side: Sequence[ArchivedMessage], gap: timedelta | None
) -> list[ArchivedMessage]:
    last = middle.sent_at
    for count, message in enumerate(side):
        if gap is not None and abs(message.sent_at - last) > gap:
            return list(side[:count])
        last = message.sent_at
    return list(side)


def _read(connection: Connection, scope: Scope, keys: str, parameters: dict[str, Any]) -> list[ArchivedMessage]:
    """The messages that a query of keys (chat_id, msg_id) yields, oldest first."""
    rows = connection.execute(
        f"WITH wanted AS MATERIALIZED ({keys})"
        " SELECT m.chat_id, m.msg_id, m.user_id, m.sent_at, coalesce(m.text, ''), m.reply_to_msg_id,"
        " m.edited_at IS NOT NULL, CASE WHEN pg_catalog.jsonb_typeof(m.parts) = 'array' THEN"
        "  ARRAY(SELECT p ->> 'type'::text FROM pg_catalog.jsonb_array_elements(m.parts) AS p"
        "   WHERE p ->> 'type'::text IS NOT NULL) END"
        " FROM wanted w JOIN messages m ON m.chat_id = w.chat_id AND m.msg_id = w.msg_id"
        " ORDER BY m.sent_at, m.chat_id, m.msg_id".encode(),
        parameters,
        prepare=False,
    ).fetchall()
    authors = names(connection, {row[2] for row in rows if row[2]}, scope)
    return [
        ArchivedMessage(
            chat_id=row[0], msg_id=row[1], user_id=row[2], author=authors.get(row[2], row[2]), sent_at=row[3],
            text=row[4], reply_to_msg_id=row[5], edited=row[6], parts=tuple(dict.fromkeys(row[7] or ())),
        )
        for row in rows
    ]  # fmt: skip
