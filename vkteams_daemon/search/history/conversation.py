"""Which messages belong together: by reply links, by the message that a thread hangs on, and by nearness in time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.search.messages import ArchivedMessage
from vkteams_daemon.search.names import names
from vkteams_daemon.search.scope import Scope

_LINKS = 40  # steps along replies, in each direction
_WIDEST = 200  # messages of one thread of replies
_BELOW = 40  # messages of the threads that hang on it


def chat_of(connection: psycopg.Connection[Any], msg_id: str, scope: Scope) -> str:
    """The chat that has this message.

    Raises:
        NotFound: none of the scope has it.
        UsageError: several have it.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            # Chat by chat, so that each is a look at the primary key.
            "SELECT m.chat_id FROM chats c JOIN messages m ON m.chat_id = c.chat_id AND m.msg_id = %(message)s"
            f" WHERE {scope.condition} ORDER BY m.chat_id LIMIT 10".encode(),
            {**scope.parameters, "message": msg_id},
            prepare=False,
        )
        found = [chat_id for (chat_id,) in cursor]
    if not found:
        raise NotFound(f"the archive has no message {msg_id}")
    if len(found) > 1:
        raise UsageError(f"several chats have a message {msg_id}", hint=f"Name one of {', '.join(found)}.")
    return str(found[0])


def latest(
    connection: psycopg.Connection[Any], scope: Scope, limit: int, before: tuple[datetime, str, str] | None = None
) -> list[ArchivedMessage]:
    """The newest messages of a scope, in the order they were said in; those before (sent_at, chat_id, msg_id)."""
    earlier = "AND (m.sent_at, m.chat_id, m.msg_id) < (%(sent_at)s, %(chat)s, %(message)s)" if before else ""
    at, chat_id, msg_id = before or (None, None, None)
    return _read(
        connection,
        f"SELECT m.chat_id, m.msg_id FROM messages m WHERE {scope.condition} {earlier}"
        " ORDER BY m.sent_at DESC, m.chat_id DESC, m.msg_id DESC LIMIT %(limit)s",
        {**scope.parameters, "limit": limit, "sent_at": at, "chat": chat_id, "message": msg_id},
    )


def thread(connection: psycopg.Connection[Any], chat_id: str, msg_id: str, scope: Scope) -> list[ArchivedMessage]:
    """The message with what it answers, what answers it, and so on; oldest first.

    A thread is a chat of its own: the message that it hangs on comes too, and the newest of the threads that hang on
    these. Links lead through messages that may not be shown, such as deleted ones, and through those that the archive
    never had. Empty where the message does not exist, was deleted, or lies outside the scope.
    """
    # Every part names the chat, so that one shard can answer where messages are distributed by it.
    linked = _read(
        connection,
        "WITH RECURSIVE up AS ("
        "  SELECT m.msg_id, m.reply_to_msg_id, m.sent_at, 0 AS steps FROM messages m"
        f"  WHERE m.chat_id = %(chat)s AND m.msg_id = %(message)s AND {scope.condition}"
        "  UNION ALL SELECT m.msg_id, m.reply_to_msg_id, m.sent_at, up.steps + 1 FROM up"
        "  JOIN messages m ON m.chat_id = %(chat)s AND m.msg_id = up.reply_to_msg_id"
        f"  WHERE up.steps < {_LINKS}"
        "), top AS (SELECT coalesce(reply_to_msg_id, msg_id) AS msg_id FROM up ORDER BY steps DESC LIMIT 1"
        "), down AS ("
        "  SELECT msg_id, 0 AS steps FROM top"
        "  UNION ALL SELECT m.msg_id, down.steps + 1 FROM down"
        "  JOIN messages m ON m.chat_id = %(chat)s AND m.reply_to_msg_id = down.msg_id"
        f"  WHERE down.steps <= {_LINKS}"
        "), linked AS (SELECT msg_id FROM up UNION SELECT msg_id FROM down"
        "), middle AS (SELECT sent_at FROM up WHERE steps = 0)"
        " SELECT m.chat_id, m.msg_id FROM linked l"
        f" JOIN messages m ON m.chat_id = %(chat)s AND m.msg_id = l.msg_id WHERE {scope.condition}"
        " ORDER BY m.msg_id <> %(message)s, abs(extract(epoch FROM m.sent_at - (SELECT sent_at FROM middle)))"
        f" LIMIT {_WIDEST}",
        {**scope.parameters, "chat": chat_id, "message": msg_id},
    )
    if not linked:
        return []
    beside = _parent(connection, chat_id, scope) + _below(connection, linked, scope)
    return sorted([*beside, *linked], key=lambda said: (said.sent_at, said.msg_id))


def neighbours(
    connection: psycopg.Connection[Any],
    middle: ArchivedMessage,
    scope: Scope,
    *,
    each_way: int,
    gap: timedelta | None = None,
) -> list[ArchivedMessage]:
    """What was said in the chat just before and just after, nearest first.

    Args:
        connection: any connection to the archive.
        middle: the message itself is left out.
        scope: what may be seen.
        each_way: most messages before, and most after.
        gap: a silence longer than this ends the conversation; None where there is no such end.
    """
    found: list[ArchivedMessage] = []
    for order, comparison in (("DESC", "<"), ("ASC", ">")):
        side = _read(
            connection,
            f"SELECT m.chat_id, m.msg_id FROM messages m WHERE m.chat_id = %(chat)s AND {scope.condition}"
            f" AND (m.sent_at, m.msg_id) {comparison} (%(at)s, %(message)s)"
            f" ORDER BY m.sent_at {order}, m.msg_id {order} LIMIT %(most)s",
            {
                **scope.parameters,
                "chat": middle.chat_id,
                "at": middle.sent_at,
                "message": middle.msg_id,
                "most": each_way,
            },
        )
        side.sort(key=lambda said: (said.sent_at, said.msg_id), reverse=order == "DESC")
        found += _until_silence(middle, side, gap)
    return sorted(found, key=lambda said: abs(said.sent_at - middle.sent_at))


def read(connection: psycopg.Connection[Any], keys: Collection[tuple[str, str]], scope: Scope) -> list[ArchivedMessage]:
    """These messages, oldest first; what was deleted or lies outside the scope is left out."""
    return _read(
        connection,
        "SELECT m.chat_id, m.msg_id FROM unnest(%(chats)s::text[], %(messages)s::text[]) AS k (chat_id, msg_id)"
        f" JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id WHERE {scope.condition}",
        {**scope.parameters, "chats": [key[0] for key in keys], "messages": [key[1] for key in keys]},
    )


def _parent(connection: psycopg.Connection[Any], chat_id: str, scope: Scope) -> list[ArchivedMessage]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT parent_chat_id, parent_msg_id FROM chats WHERE chat_id = %s AND parent_msg_id IS NOT NULL",
            (chat_id,),
        )
        keys = cursor.fetchall()
    return read(connection, keys, scope) if keys else []


def _below(
    connection: psycopg.Connection[Any], linked: Sequence[ArchivedMessage], scope: Scope
) -> list[ArchivedMessage]:
    """The newest messages of the threads that hang on these."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT chat_id FROM chats WHERE parent_chat_id = %s AND parent_msg_id = ANY(%s)",
            (linked[0].chat_id, [said.msg_id for said in linked]),
        )
        threads = [chat_id for (chat_id,) in cursor]
    if not threads:
        return []
    return _read(
        connection,
        # By the threads' own index: they are short, and may lie far back.
        "SELECT m.chat_id, m.msg_id FROM unnest(%(threads)s::text[]) AS t (chat_id) CROSS JOIN LATERAL"
        " (SELECT m.chat_id, m.msg_id, m.sent_at FROM messages m"
        f"  WHERE m.chat_id = t.chat_id AND {scope.condition} ORDER BY m.sent_at DESC LIMIT {_BELOW}) AS m"
        f" ORDER BY m.sent_at DESC, m.msg_id DESC LIMIT {_BELOW}",
        {**scope.parameters, "threads": threads},
    )


def _until_silence(
    middle: ArchivedMessage, side: Sequence[ArchivedMessage], gap: timedelta | None
) -> list[ArchivedMessage]:
    kept, last = [], middle.sent_at
    for said in side:
        if gap is not None and abs(said.sent_at - last) > gap:
            break
        kept.append(said)
        last = said.sent_at
    return kept


def _read(connection: psycopg.Connection[Any], keys: str, values: dict[str, Any]) -> list[ArchivedMessage]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            f"WITH wanted AS MATERIALIZED ({keys})"
            " SELECT m.chat_id, m.msg_id, m.user_id, m.sent_at, coalesce(m.text, ''), m.reply_to_msg_id,"
            " m.edited_at IS NOT NULL, CASE WHEN jsonb_typeof(m.parts) = 'array' THEN"
            "  ARRAY(SELECT p ->> 'type' FROM jsonb_array_elements(m.parts) AS p WHERE p ->> 'type' IS NOT NULL) END"
            " FROM wanted w JOIN messages m ON m.chat_id = w.chat_id AND m.msg_id = w.msg_id"
            " ORDER BY m.sent_at, m.chat_id, m.msg_id".encode(),
            values,
            prepare=False,
        )
        rows = cursor.fetchall()
    authors = names(connection, {row[2] for row in rows if row[2]})
    return [
        ArchivedMessage(
            chat_id=row[0], msg_id=row[1], user_id=row[2], author=authors.get(row[2], row[2]), sent_at=row[3],
            text=row[4], reply_to_msg_id=row[5], edited=row[6], parts=tuple(dict.fromkeys(row[7] or ())),
        )
        for row in rows
    ]  # fmt: skip
