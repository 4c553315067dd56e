"""Erases what replies repeat of messages that their authors have deleted (`[storage] on_delete = "erase"`).

The API puts the answered message into a reply, so its words are in the rows and the events of the reply as well. A
forward is left alone: it is a message of the person who forwards.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable
from typing import Any

from vkteams_daemon.botapi import content_erasure
from vkteams_daemon.botapi.content_erasure import Erased, EventContent, MessageContent
from vkteams_daemon.botapi.facts import MessageFact
from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive import message_rows, search_terms
from vkteams_daemon.store.derive.message_fold import BEGINNING, Message, Version
from vkteams_daemon.store.derive.message_rows import KEYS, Key
from vkteams_daemon.store.words.lexicon import Lexicon

EVENT_KEYS = ColumnSet((("bot_id", "text"), ("generation", "int4"), ("event_id", "int8")))
EVENT_CONTENT = (
    "m.bot_id, m.generation, m.event_id, m.chat_id, m.subject, m.payload::text, m.raw, m.error IS NOT NULL,"
    " m.occurred_at"
)
"""The columns of `events AS m` that `erase_in_events` reads."""

_ERASED_EVENTS = ColumnSet((*EVENT_KEYS.columns, ("payload", "jsonb")))
_UPDATE_EVENTS = (
    "UPDATE events m SET payload = i.payload::jsonb, raw = NULL,"
    " error = CASE WHEN m.error IS NOT NULL THEN 'its content was erased' END FROM (SELECT * FROM {incoming}) AS i"
    " WHERE m.bot_id = i.bot_id AND m.generation = i.generation AND m.event_id = i.event_id"
)
_ERASED = (
    "SELECT m.chat_id, m.msg_id FROM {incoming} JOIN messages m ON m.chat_id = incoming.chat_id"
    " AND m.msg_id = incoming.msg_id WHERE m.deleted_at IS NOT NULL AND m.text IS NULL AND m.parts IS NULL"
)
_REPLIES = (
    "SELECT m.chat_id, m.msg_id FROM {incoming} JOIN messages m ON m.chat_id = incoming.chat_id"
    " AND m.reply_to_msg_id = incoming.msg_id"
)
_EVENTS = (
    f"SELECT {EVENT_CONTENT} FROM {{incoming}} JOIN events m ON m.chat_id = incoming.chat_id"
    " AND m.subject = incoming.msg_id WHERE m.payload IS NOT NULL OR m.raw IS NOT NULL"
)
_to_json = functools.partial(json.dumps, ensure_ascii=False)


def affected(facts: Iterable[MessageFact]) -> set[Key]:
    """The messages whose quotes these facts may make wrong: what they delete, and what they answer."""
    keys: set[Key] = set()
    for fact in facts:
        if fact.deleted:
            keys.add((fact.chat_id, fact.msg_id))
        if fact.content and fact.content.reply_to_msg_id:
            keys.add((fact.chat_id, fact.content.reply_to_msg_id))
    return keys


def erase_quotes(connection: Connection, keys: Collection[Key], held: Collection[str], lexicon: Lexicon) -> None:
    """Erase the quotes of those of these messages that are erased, in all replies to them.

    Args:
        connection: in a transaction that has locked the chats of the messages, and not in pipeline mode.
        keys: the messages, erased or not.
        held: the chats in which nothing is erased.
        lexicon: the lexemes that are known already.
    """
    keys = sorted(key for key in keys if key[0] not in held)
    erased = KEYS.execute(connection, _ERASED, keys).fetchall() if keys else []
    replies = KEYS.execute(connection, _REPLIES, erased).fetchall() if erased else []
    if not replies:
        return
    what = Erased({}, frozenset(erased))
    stored = message_rows.load_messages(connection, replies, lambda key: BEGINNING)
    changed = [message for message in stored.values() if erase_in_message(what, message)]
    if changed:
        terms = search_terms.SearchTerms(lexicon)
        message_rows.save_messages(connection, changed, (), terms, erase=False, copy=False)
    erase_in_events(connection, what, KEYS.execute(connection, _EVENTS, replies).fetchall())


def erase_in_message(erased: Erased, message: Message) -> bool:
    """Erase in all versions of a message what repeats erased words; returns whether anything has changed."""
    if erased.covers_message(message.chat_id, message.msg_id):
        return False  # it is erased as a whole
    versions: list[Message | Version] = [message, *message.earlier]
    for version in versions:
        content = MessageContent(version.text, version.format, version.parts)
        if isinstance(version, Message):
            content.forward, content.thread = version.forward, version.thread
        content = content_erasure.erase_message(erased, content, message.chat_id, message.sent_at)
        version.text, version.format, version.parts = content.text, content.format, content.parts
        if isinstance(version, Message):
            version.forward, version.thread = content.forward, content.thread
    return message.row != message.stored_row or bool(message.changed_version_rows)


def erase_in_events(
    connection: Connection, erased: Erased, rows: Iterable[tuple[Any, ...]], *, dry_run: bool = False
) -> int:
    """Erase in stored events what is erased, and what repeats it; returns how many have changed.

    Args:
        connection: in a transaction.
        erased: what must not be kept.
        rows: the columns `EVENT_CONTENT` of the events, whose rows are locked or which nobody else changes.
        dry_run: only count.
    """
    changed_rows = []
    for bot, generation, event_id, chat_id, subject, payload, raw, quarantined, at in rows:
        parsed = _parsed(payload)
        source = bytes(raw or b"").decode("utf-8", "replace") or ("" if parsed else payload or "")
        event = EventContent(chat_id, subject, parsed, source, quarantined, at)
        content, changed = content_erasure.erase_event(erased, event)
        if changed:
            changed_rows.append((bot, generation, event_id, content))
    if changed_rows and not dry_run:
        _ERASED_EVENTS.execute(connection, _UPDATE_EVENTS, changed_rows, json=_to_json)
    return len(changed_rows)


def _parsed(payload: str | None) -> Any:
    """The payload; None if it is nested too deeply."""
    try:
        return None if payload is None else json.loads(payload)
    except RecursionError:
        return None
