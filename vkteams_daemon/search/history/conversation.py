"""Which messages belong together: by replies, by the message that a thread hangs on, and by nearness in time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from vkteams_daemon.errors import NotFound
from vkteams_daemon.search.history.archived_messages import beyond_filters, read, read_by
from vkteams_daemon.search.messages import ArchivedMessage
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

_MAX_STEPS = 40  # along replies, in each direction
_MAX_LINKED = 200  # messages that replies link
_MAX_BEGINNING = 60  # characters of the message that a thread hangs on, if it stands for the thread
_MAX_IN_THREADS = 40  # messages of the threads that hang on them


def thread(connection: Connection, chat_id: str, msg_id: str, scope: Scope) -> list[ArchivedMessage]:
    """The message with the messages it answers, the messages that answer it, and so on; oldest first.

    A thread is a chat of its own: the message that it hangs on comes too, and so do the newest messages of the threads
    that hang on the linked ones. Links lead through deleted messages, and through messages that the archive never
    had, but not through messages outside the scope.

    Raises:
        NotFound: the archive has no such message, or it was deleted, or it lies outside the scope.
    """
    # Every part names the chat, so that one shard can answer if messages are distributed by chat.
    linked = read_by(
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
    beside = _parent(connection, chat_id, scope) + _threads(connection, linked, scope) + _known_by_quote(linked)
    return sorted([*beside, *linked], key=lambda message: (message.sent_at, message.msg_id))


def neighbours(
    connection: Connection,
    middle: ArchivedMessage,
    scope: Scope,
    *,
    each_way: int,
    silence: timedelta | None = None,
) -> list[ArchivedMessage]:
    """The messages of the chat just before and just after this one, nearest first.

    Args:
        connection: any connection to the archive.
        middle: the message itself; it is left out.
        scope: which messages may be seen.
        each_way: most messages before, and most after.
        silence: a longer silence ends the conversation; None for no such end.
    """
    messages: list[ArchivedMessage] = []
    for order, comparison in (("DESC", "<"), ("ASC", ">")):
        side = read_by(
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
        messages += _until_silence(middle, side, silence)
    return sorted(messages, key=lambda message: abs(message.sent_at - middle.sent_at))


def thread_beginnings(connection: Connection, chat_ids: Collection[str], scope: Scope) -> dict[str, str]:
    """For each of these chats that is a thread: the beginning of the message that it hangs on; "" if unknown."""
    rows = connection.execute(
        "SELECT chat_id, parent_chat_id, parent_msg_id FROM chats"
        " WHERE chat_id = ANY(%s) AND parent_msg_id IS NOT NULL",
        (list(chat_ids),),
    ).fetchall()
    if not rows:
        return {}
    visible = beyond_filters(scope)
    parents = {
        parent.key: parent for parent in read(connection, [(chat, message) for _, chat, message in rows], visible)
    }
    return {
        thread: _beginning(parents[chat, message].text) if (chat, message) in parents else ""
        for thread, chat, message in rows
    }


def _parent(connection: Connection, chat_id: str, scope: Scope) -> list[ArchivedMessage]:
    """The message that the chat hangs on, if the chat is a thread."""
    keys = connection.execute(
        "SELECT parent_chat_id, parent_msg_id FROM chats WHERE chat_id = %s AND parent_msg_id IS NOT NULL",
        (chat_id,),
    ).fetchall()
    return read(connection, [(parent, msg_id) for parent, msg_id in keys], scope) if keys else []


def _beginning(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MAX_BEGINNING else f"{text[:_MAX_BEGINNING].rpartition(' ')[0]} …"


def _threads(connection: Connection, linked: Sequence[ArchivedMessage], scope: Scope) -> list[ArchivedMessage]:
    """The newest messages of the threads that hang on these messages of one chat."""
    rows = connection.execute(
        "SELECT chat_id FROM chats WHERE parent_chat_id = %s AND parent_msg_id = ANY(%s)",
        (linked[0].chat_id, [message.msg_id for message in linked]),
    )
    threads = [chat_id for (chat_id,) in rows]
    if not threads:
        return []
    return read_by(
        connection,
        scope,
        # Threads are short, and may lie far back: by the index of their chats. Not by that of the time, which the
        # limit alone would lead to.
        "WITH said AS MATERIALIZED (SELECT m.chat_id, m.msg_id, m.sent_at FROM messages m"
        f"  WHERE m.chat_id = ANY(%(threads)s::text[]) AND {scope.condition})"
        f" SELECT chat_id, msg_id FROM said ORDER BY sent_at DESC, msg_id DESC LIMIT {_MAX_IN_THREADS}",
        {**scope.parameters, "threads": threads},
    )


def _until_silence(
    middle: ArchivedMessage, side: Sequence[ArchivedMessage], silence: timedelta | None
) -> list[ArchivedMessage]:
    last = middle.sent_at
    for count, message in enumerate(side):
        if silence is not None and abs(message.sent_at - last) > silence:
            return list(side[:count])
        last = message.sent_at
    return list(side)


def _known_by_quote(messages: Sequence[ArchivedMessage]) -> list[ArchivedMessage]:
    """The messages that these repeat, and that the archive does not have."""
    quoted: dict[str, ArchivedMessage] = {}
    for message in messages:
        for quote in message.quotes:
            if quote.kind == "reply" and quote.depth == 0 and quote.msg_id:
                one = ArchivedMessage(
                    message.chat_id, quote.msg_id, quote.user_id, quote.author, quote.sent_at or message.sent_at,
                    quote.text, None, files=quote.files, known_by_quote=True,
                )  # fmt: skip
                quoted.setdefault(quote.msg_id, one)
    return list(quoted.values())
