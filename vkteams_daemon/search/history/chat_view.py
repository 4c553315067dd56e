"""A chat as people read it: messages in their order, each with what it answers, its edits, files and threads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from vkteams_daemon.botapi import message_parts, text_format
from vkteams_daemon.botapi.text_format import Run
from vkteams_daemon.errors import NotFound
from vkteams_daemon.search.history import archived_messages
from vkteams_daemon.search.messages import ArchivedMessage, MessageKey, MessageVersion
from vkteams_daemon.search.names import chat_titles, names, visible_chats
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store.connections import Connection

Direction = Literal["around", "before", "after"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file, a voice message or a sticker of a message."""

    kind: str
    """file, image, video, audio, voice or sticker."""
    name: str | None
    caption: str | None


@dataclass(frozen=True, slots=True)
class Answered:
    """The message that another one answers, as far as the reader may see it."""

    msg_id: str
    author: str | None
    text: str
    archived: bool
    """Whether the archive has it; otherwise the answer repeats its words."""


@dataclass(frozen=True, slots=True)
class ThreadBelow:
    """A thread that hangs on a message."""

    chat_id: str
    messages: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """A message of a chat, also a deleted one."""

    message: ArchivedMessage
    runs: tuple[Run, ...]
    """The author's own words; mentions have names in the place of user ids."""
    edited_at: datetime | None
    deleted_at: datetime | None
    pinned_at: datetime | None
    answered: Answered | None
    attachments: tuple[Attachment, ...]
    earlier: tuple[MessageVersion, ...]
    """The earlier texts, the first one first."""
    threads: tuple[ThreadBelow, ...]


@dataclass(frozen=True, slots=True)
class ChatView:
    """A part of a chat."""

    chat_id: str
    title: str | None
    kind: str | None
    """group, channel or private."""
    parent: MessageKey | None
    """For a thread, the message that it hangs on, if the reader may see its chat."""
    messages: list[ShownMessage]
    """Oldest first."""
    older: bool
    """Whether the chat has earlier messages."""
    newer: bool
    """Whether it has later ones."""


def chat_view(
    connection: Connection,
    chat_id: str,
    scope: Scope,
    *,
    direction: Direction,
    message: str | None = None,
    moment: datetime | None = None,
    limit: int,
) -> ChatView:
    """A part of a chat.

    Args:
        connection: inside a transaction that sees one state of the archive.
        chat_id: the chat.
        scope: which messages may be seen, in any chat.
        direction: the part lies around, before or after the place.
        message: the place; with `around` it is in the part.
        moment: the place if there is no message (aware); with neither, the place is the end of the chat.
        limit: most messages.

    Raises:
        NotFound: the reader sees no such chat or message.
    """
    place = _place(connection, chat_id, scope, message, moment)
    if place is None:
        before, after, middle = limit, 0, []
    else:
        middle = [message] if message and direction == "around" else []
        before = {"around": limit // 2, "before": limit, "after": 0}[direction]
        after = {"around": limit // 2, "before": 0, "after": limit}[direction]
    earlier = _side(connection, chat_id, scope, place, "DESC", before + 1)
    later = _side(connection, chat_id, scope, place, "ASC", after + 1) if place else []
    keys = [*earlier[:before], *((chat_id, msg_id) for msg_id in middle), *later[:after]]
    if not keys and not earlier and not later:
        raise NotFound(f"you see no message of a chat {chat_id}")
    title = chat_titles(connection, [chat_id], scope).get(chat_id)
    kind, parent = _chat(connection, chat_id, scope)
    return ChatView(
        chat_id, title, kind, parent, _shown(connection, chat_id, keys, scope),
        len(earlier) > before, len(later) > after,
    )  # fmt: skip


def _place(
    connection: Connection, chat_id: str, scope: Scope, message: str | None, moment: datetime | None
) -> tuple[datetime, str] | None:
    if message is None:
        return (moment, "") if moment else None
    row = connection.execute(
        "SELECT m.sent_at FROM messages m WHERE m.chat_id = %(chat)s AND m.msg_id = %(message)s"
        f" AND {scope.condition_with_deleted}".encode(),
        {**scope.parameters, "chat": chat_id, "message": message},
        prepare=False,
    ).fetchone()
    if row is None:
        raise NotFound(f"you see no message {message} in a chat {chat_id}")
    return row[0], message


def _side(
    connection: Connection, chat_id: str, scope: Scope, place: tuple[datetime, str] | None, order: str, limit: int
) -> list[MessageKey]:
    """The messages before (DESC) or after (ASC) a place, the nearest first; a moment itself lies after it."""
    beyond = ""
    if place:
        beyond = f" AND (m.sent_at, m.msg_id) {'<' if order == 'DESC' else '>'} (%(at)s, %(message)s)"
    at, message = place or (None, None)
    rows = connection.execute(
        f"SELECT m.chat_id, m.msg_id FROM messages m WHERE m.chat_id = %(chat)s AND {scope.condition_with_deleted}"
        f"{beyond} ORDER BY m.sent_at {order}, m.msg_id {order} LIMIT %(limit)s".encode(),
        {**scope.parameters, "chat": chat_id, "at": at, "message": message, "limit": limit},
        prepare=False,
    )
    return [(chat, msg_id) for chat, msg_id in rows]


def _chat(connection: Connection, chat_id: str, scope: Scope) -> tuple[str | None, MessageKey | None]:
    row = connection.execute(
        "SELECT type, parent_chat_id, parent_msg_id FROM chats WHERE chat_id = %s", (chat_id,)
    ).fetchone()
    kind, parent, msg_id = row or (None, None, None)
    if not parent or not msg_id or not visible_chats(connection, [parent], scope):
        return kind, None
    return kind, (parent, msg_id)


def _shown(connection: Connection, chat_id: str, keys: Sequence[MessageKey], scope: Scope) -> list[ShownMessage]:
    if not keys:
        return []
    ids = [msg_id for _, msg_id in keys]
    parameters = {**scope.parameters, "chat": chat_id, "messages": ids}
    # The scope has chosen the keys already.
    messages = archived_messages.read_by(
        connection, scope,
        "SELECT %(chat)s::text AS chat_id, k.msg_id FROM pg_catalog.unnest(%(messages)s::text[]) AS k (msg_id)",
        parameters, answered=True,
    )  # fmt: skip
    details = {
        row[0]: row[1:]
        for row in connection.execute(
            "SELECT msg_id, coalesce(text, ''), format, parts, edited_at, deleted_at, pinned_at FROM messages"
            " WHERE chat_id = %s AND msg_id = ANY(%s)",
            (chat_id, ids),
        )
    }
    versions: dict[str, list[MessageVersion]] = {}
    for msg_id, *version in connection.execute(
        "SELECT v.msg_id, v.version, coalesce(v.text, ''), coalesce(v.edited_at, m.sent_at), v.replaced_at"
        " FROM message_versions v JOIN messages m ON m.chat_id = v.chat_id AND m.msg_id = v.msg_id"
        " WHERE v.chat_id = %s AND v.msg_id = ANY(%s) AND v.text IS NOT NULL ORDER BY v.version",
        (chat_id, ids),
    ):
        versions.setdefault(msg_id, []).append(MessageVersion(*version))
    threads = _threads(connection, parameters, scope)
    answered = _answered(connection, chat_id, messages, scope)
    mentioned = {
        user_id
        for raw in (*(row[0] for row in details.values()), *(v.text for each in versions.values() for v in each))
        for user_id in message_parts.mentioned_ids(raw)
    }
    known = names(connection, mentioned, scope)
    return [
        _one(message, details[message.msg_id], versions.get(message.msg_id, []), known, threads, answered)
        for message in messages
    ]


def _one(
    message: ArchivedMessage,
    details: tuple[Any, ...],
    earlier: Sequence[MessageVersion],
    known: Mapping[str, str],
    threads: Mapping[str, list[ThreadBelow]],
    answered: Mapping[str, Answered],
) -> ShownMessage:
    raw, text_style, parts, edited_at, deleted_at, pinned_at = details
    attachments = tuple(_attachments(parts))
    captions = {each.caption for each in attachments if each.caption}
    own = message_parts.own_text(raw, parts)
    # A caption stands with its file.
    own = "" if own in captions else own
    for caption in captions:
        own = own.removesuffix(f"\n{caption}")
    names_seen = {**{user: name for user, name in message_parts.beside_text(parts, None).mentioned if name}, **known}
    runs = tuple(
        Run(f"@{names_seen.get(run.user_id, run.user_id)}", run.styles, run.url, run.user_id) if run.user_id else run
        for run in text_format.runs(own, text_style)
    )
    return ShownMessage(
        message, runs, edited_at, deleted_at, pinned_at,
        _answer(message, answered), attachments,
        tuple(
            MessageVersion(each.version, message_parts.with_names(each.text, names_seen), each.written_at,
                           each.replaced_at)
            for each in earlier
        ),
        tuple(threads.get(message.msg_id, ())),
    )  # fmt: skip


def _answer(message: ArchivedMessage, answered: Mapping[str, Answered]) -> Answered | None:
    if message.reply_to_msg_id is None:
        return None
    if (archived := answered.get(message.reply_to_msg_id)) is not None:
        return archived
    for quote in message.quotes:
        if quote.kind == "reply" and quote.depth == 0 and quote.msg_id == message.reply_to_msg_id:
            return Answered(message.reply_to_msg_id, quote.author, quote.text, archived=False)
    return None


def _answered(
    connection: Connection, chat_id: str, messages: Sequence[ArchivedMessage], scope: Scope
) -> dict[str, Answered]:
    wanted = {message.reply_to_msg_id for message in messages if message.reply_to_msg_id}
    if not wanted:
        return {}
    read = archived_messages.read(connection, [(chat_id, msg_id) for msg_id in wanted], scope)
    return {
        message.msg_id: Answered(
            message.msg_id, message.author, message.text or ", ".join(message.files), archived=True
        )
        for message in read
    }  # fmt: skip


def _threads(connection: Connection, parameters: dict[str, Any], scope: Scope) -> dict[str, list[ThreadBelow]]:
    rows = connection.execute(
        "SELECT c.parent_msg_id, c.chat_id, count(*), pg_catalog.max(m.sent_at) FROM chats c"
        " JOIN messages m ON m.chat_id = c.chat_id"
        f" WHERE c.parent_chat_id = %(chat)s AND c.parent_msg_id = ANY(%(messages)s) AND {scope.condition}"
        " GROUP BY c.parent_msg_id, c.chat_id ORDER BY 4".encode(),
        parameters,
        prepare=False,
    )
    threads: dict[str, list[ThreadBelow]] = {}
    for msg_id, *thread in rows:
        threads.setdefault(msg_id, []).append(ThreadBelow(*thread))
    return threads


def _attachments(parts: Any) -> list[Attachment]:
    if not isinstance(parts, list):
        return []
    found = []
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("payload"), dict):
            continue
        payload = part["payload"]
        if part.get("type") in ("file", "voice", "sticker"):
            own = payload.get("type")
            kind = own if part["type"] == "file" and own in ("image", "video", "audio") else part["type"]
            beside = message_parts.beside_text([part], None)
            captions = message_parts.captions([part])
            found.append(Attachment(kind, next(iter(beside.files), None), next(iter(captions), None)))
    return found
