"""Reads messages of the archive, each with its author's name, its files and the words of others in it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from vkteams_daemon.botapi import message_parts
from vkteams_daemon.botapi.message_parts import QuotedMessage
from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.search import short_reference
from vkteams_daemon.search.messages import ArchivedMessage, MessageHistory, MessageKey, MessageVersion, Quote
from vkteams_daemon.search.names import names
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection


def chat_of(connection: Connection, msg_id: str, scope: Scope, *, deleted: bool = False) -> str:
    """The chat that has this message; with `deleted` also if the message was deleted.

    Raises:
        NotFound: no chat of the scope has it.
        UsageError: several chats have it.
    """
    rows = connection.execute(
        # Chat by chat, so that each is one access to the primary key.
        "SELECT m.chat_id FROM chats c JOIN messages m ON m.chat_id = c.chat_id AND m.msg_id = %(message)s"
        f" WHERE {scope.condition_with_deleted if deleted else scope.condition} ORDER BY m.chat_id LIMIT 10".encode(),
        {**scope.parameters, "message": msg_id},
        prepare=False,
    )
    chat_ids = [str(chat_id) for (chat_id,) in rows]
    if not chat_ids:
        raise NotFound(f"the archive has no message {msg_id}")
    if len(chat_ids) > 1:
        raise UsageError(f"several chats have a message {msg_id}", hint=f"Name one of {', '.join(chat_ids)}.")
    return chat_ids[0]


def find_message(connection: Connection, text: str, scope: Scope) -> MessageKey:
    """The message that a msg_id, or a reference of a transcript, means.

    Raises:
        NotFound: the scope has no such message.
        UsageError: several messages have this id, or this reference.
    """
    try:
        return chat_of(connection, text, scope), text
    except NotFound:
        day = short_reference.day_of(text)
        if day is None:
            raise
    rows = connection.execute(
        f"SELECT m.chat_id, m.msg_id FROM messages m WHERE {scope.condition}"
        " AND m.sent_at >= %(day)s::timestamptz AND m.sent_at < %(next_day)s::timestamptz".encode(),
        {**scope.parameters, "day": day, "next_day": day + timedelta(days=1)},
        prepare=False,
    )
    found = [(chat_id, msg_id) for chat_id, msg_id in rows if short_reference.is_of(text, chat_id, msg_id)]
    if not found:
        raise NotFound(f"the archive has no message {text}")
    if len(found) > 1:
        raise UsageError(f"several messages have the reference {text}", hint="Name the message by its msg_id.")
    return found[0]


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
    parameters = {**scope.parameters, "limit": limit, "sent_at": sent_at, "chat": chat_id, "message": msg_id}
    return read_by(connection, scope, _newest(scope, earlier), parameters)


def newest_keys(connection: Connection, scope: Scope, limit: int) -> list[MessageKey]:
    """The newest messages of the scope, newest first."""
    parameters = {**scope.parameters, "limit": limit}
    return connection.execute(_newest(scope).encode(), parameters, prepare=False).fetchall()


def _newest(scope: Scope, earlier: str = "") -> str:
    return (
        f"SELECT m.chat_id, m.msg_id FROM messages m WHERE {scope.condition} {earlier}"
        " ORDER BY m.sent_at DESC, m.chat_id DESC, m.msg_id DESC LIMIT %(limit)s"
    )


def read(
    connection: Connection, keys: Collection[MessageKey], scope: Scope, *, answered: bool = False
) -> list[ArchivedMessage]:
    """These messages, oldest first; deleted ones and those outside the scope are left out.

    Args:
        connection: any connection to the archive.
        keys: the messages.
        scope: which of them may be seen.
        answered: whether the words that a message answers come with it even if that message is archived.
    """
    return read_by(
        connection,
        scope,
        "SELECT m.chat_id, m.msg_id FROM unnest(%(chats)s::text[], %(messages)s::text[]) AS k (chat_id, msg_id)"
        f" JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id WHERE {scope.condition_of_few}",
        {**scope.parameters, "chats": [key[0] for key in keys], "messages": [key[1] for key in keys]},
        answered=answered,
    )


def read_answered(connection: Connection, keys: Collection[MessageKey], scope: Scope) -> list[ArchivedMessage]:
    """These messages, oldest first, each with the words that it answers, as archived, or else as it repeats them."""
    messages = read(connection, keys, scope, answered=True)
    wanted = {(one.chat_id, one.reply_to_msg_id) for one in messages if one.reply_to_msg_id}
    archived = {one.key: one for one in read(connection, wanted, beyond_filters(scope))} if wanted else {}
    return [_with_answered(one, archived.get((one.chat_id, one.reply_to_msg_id or ""))) for one in messages]


def _with_answered(message: ArchivedMessage, answered: ArchivedMessage | None) -> ArchivedMessage:
    if answered is None:
        return message
    text = answered.text if answered.own_text is None else answered.own_text or answered.text
    quote = Quote(
        "reply", answered.author, text, answered.user_id, answered.msg_id, answered.sent_at, answered.files
    )  # fmt: skip
    others = [one for one in message.quotes if one.kind != "reply" or one.depth > 0]
    return replace(message, quotes=(quote, *others))


def beyond_filters(scope: Scope) -> Scope:
    """What the reader of a question may see: its filters choose hits, and not what these answer or hang on."""
    return replace(scope.population, arrived=None) if scope.confined else Scope()


def versions(connection: Connection, chat_id: str, msg_id: str, scope: Scope) -> MessageHistory:
    """Every text of a message, also of a deleted one.

    Raises:
        NotFound: the archive has no such message, or it lies outside the scope.
    """
    row = connection.execute(
        "SELECT m.user_id, m.sent_at, m.deleted_at, m.version, coalesce(m.text, ''), coalesce(m.edited_at, m.sent_at)"
        " FROM messages m WHERE m.chat_id = %(chat)s AND m.msg_id = %(message)s"
        f" AND {scope.condition_with_deleted}".encode(),
        {**scope.parameters, "chat": chat_id, "message": msg_id},
        prepare=False,
    ).fetchone()
    if row is None:
        raise NotFound(f"the archive has no message {msg_id} in chat {chat_id}")
    user_id, sent_at, deleted_at, number, text, written_at = row
    earlier = connection.execute(
        "SELECT version, coalesce(text, ''), coalesce(edited_at, %s), replaced_at FROM message_versions"
        " WHERE chat_id = %s AND msg_id = %s ORDER BY version",
        (sent_at, chat_id, msg_id),
    )
    texts = [*(MessageVersion(*each) for each in earlier), MessageVersion(number, text, written_at, None)]
    author = names(connection, [user_id], scope).get(user_id, user_id) if user_id else None
    return MessageHistory(chat_id, msg_id, user_id, author, sent_at, deleted_at, texts)


def read_by(
    connection: Connection, scope: Scope, keys: str, parameters: dict[str, Any], *, answered: bool = False
) -> list[ArchivedMessage]:
    """The messages that a query of keys (chat_id, msg_id) yields, oldest first.

    Args:
        connection: any connection to the archive.
        scope: which messages may be seen, in any chat.
        keys: the query; it decides by itself which messages come, deleted ones too.
        parameters: of the query.
        answered: whether the words that a message answers come with it even if that message is archived.
    """
    # The keys first: a query that names one chat is answered by one machine, if the archive has several.
    wanted = connection.execute(keys.encode(), parameters, prepare=False).fetchall()
    rows = connection.execute(
        "SELECT m.chat_id, m.msg_id, m.user_id, m.sent_at, coalesce(m.text, ''), m.reply_to_msg_id,"
        " m.edited_at IS NOT NULL, m.parts, m.format FROM unnest(%s::text[], %s::text[]) AS w (chat_id, msg_id)"
        " JOIN messages m ON m.chat_id = w.chat_id AND m.msg_id = w.msg_id"
        " ORDER BY m.sent_at, m.chat_id, m.msg_id",
        ([chat_id for chat_id, _ in wanted], [msg_id for _, msg_id in wanted]),
        prepare=False,
    ).fetchall()
    quotes = {row[:2]: found for row in rows if row[7] and (found := message_parts.quotes(row[7]))}
    archived = _archived(connection, scope, quotes)
    quotes = {
        key: [quote for quote in found if _is_shown(quote, archived.get((key[0], quote.msg_id or "")), answered)]
        for key, found in quotes.items()
    }
    people = {row[2] for row in rows if row[2]}
    people.update(user_id for row in rows for user_id in message_parts.mentioned_ids(row[4]))
    people.update(quote.user_id for found in quotes.values() for quote in found if quote.user_id)
    known = names(connection, people, scope)
    return [_message(row, quotes.get(row[:2], []), known) for row in rows]


def _message(row: tuple[Any, ...], quotes: list[QuotedMessage], known: dict[str, str]) -> ArchivedMessage:
    chat_id, msg_id, user_id, sent_at, text, reply_to_msg_id, edited, parts, text_format = row
    if not parts and not text_format:
        return ArchivedMessage(
            chat_id, msg_id, user_id, known.get(user_id, user_id), sent_at, message_parts.with_names(text, known),
            reply_to_msg_id, edited,
        )  # fmt: skip
    beside = message_parts.beside_text(parts, text_format)
    shown = {**{user: name for user, name in beside.mentioned if name}, **known}
    for quote in quotes:
        shown.update((user, name) for user, name in quote.beside.mentioned if name and user not in shown)
    own = message_parts.own_text(text, parts)
    kinds = (part.get("type") for part in parts or () if isinstance(part, dict)) if isinstance(parts, list) else ()
    return ArchivedMessage(
        chat_id, msg_id, user_id, known.get(user_id, user_id), sent_at, message_parts.with_names(text, shown),
        reply_to_msg_id, edited,
        parts=tuple(dict.fromkeys(kind for kind in kinds if isinstance(kind, str))),
        quotes=tuple(
            Quote(
                quote.kind, quote.name or known.get(quote.user_id or "", quote.user_id),
                message_parts.with_names(quote.text, shown), quote.user_id, quote.msg_id, quote.sent_at,
                quote.beside.files, quote.depth,
            )
            for quote in quotes
        ),
        own_text=message_parts.with_names(own, shown) if own != text else None,
        files=beside.files,
    )  # fmt: skip


def _is_shown(quote: QuotedMessage, deleted: bool | None, answered: bool) -> bool:
    """Whether a quote comes with its message; `deleted` is None if the archive does not have the quoted message."""
    if quote.kind == "forward" or deleted is None:
        return True
    return answered and not deleted


def _archived(
    connection: Connection, scope: Scope, quotes: Mapping[MessageKey, Sequence[QuotedMessage]]
) -> dict[MessageKey, bool]:
    """Those of the answered messages that the archive has within the scope, and whether they were deleted."""
    keys = {
        (chat_id, quote.msg_id)
        for (chat_id, _), found in quotes.items()
        for quote in found
        if quote.kind == "reply" and quote.msg_id
    }
    if not keys:
        return {}
    visible = beyond_filters(scope)
    rows = connection.execute(
        "SELECT m.chat_id, m.msg_id, m.deleted_at IS NOT NULL FROM unnest(%(chats)s::text[], %(messages)s::text[])"
        " AS k (chat_id, msg_id) JOIN messages m ON m.chat_id = k.chat_id AND m.msg_id = k.msg_id"
        f" WHERE {visible.condition_with_deleted}".encode(),
        {**visible.parameters, "chats": [chat_id for chat_id, _ in keys], "messages": [msg_id for _, msg_id in keys]},
        prepare=False,
    )
    return {(chat_id, msg_id): deleted for chat_id, msg_id, deleted in rows}
