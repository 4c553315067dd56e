"""Derives chats, users, members, messages and versions again from the stored events.

`quarantined` reads the quarantined events again, for a version that can read more of them. `everything` rebuilds the
whole projection. Both run beside a daemon, and can be interrupted and started again at any point: each page is a
transaction that holds the locks of its chats, and rows that are right are not written. An erased message stays as it
is, because its events have no content any more. If another bot has delivered it again after the erasure, `erase` erases
that as well. An unchanged text keeps its vectors, and a changed text is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from vkteams_daemon.botapi import events as api
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.botapi.facts import MESSAGE_EVENTS, MessageFact
from vkteams_daemon.errors import ApiError
from vkteams_daemon.store import erasure_rules, schema, vector_counts
from vkteams_daemon.store.bulk import COPY_THRESHOLD
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import (
    chat_locks,
    event_counts,
    kept_counts,
    message_rows,
    projection,
    quotes,
    search_terms,
)
from vkteams_daemon.store.derive.message_fold import BEGINNING, Message, fold_all, new_message
from vkteams_daemon.store.erasure_rules import ErasureRules
from vkteams_daemon.store.ingest import event_rows, refused_rows, trial
from vkteams_daemon.store.ingest.event_rows import Key
from vkteams_daemon.store.rebuild import people_replay
from vkteams_daemon.store.words.lexicon import Lexicon

Progress = Callable[[int, int], None]  # called with the events read so far, and their total

_PAGE = 500
_MESSAGE_TYPES = ", ".join(f"'{event_type}'" for event_type in sorted(MESSAGE_EVENTS))
_QUARANTINED_PAGE = (
    "SELECT bot_id, generation, event_id, received_at, raw, chat_id FROM events WHERE error IS NOT NULL"
    " AND raw IS NOT NULL AND (bot_id, generation, event_id) > (%s, %s, %s)"
    " ORDER BY bot_id, generation, event_id LIMIT %s"
)
_MESSAGE_KEYS_PAGE = (
    f"SELECT chat_id, subject FROM events WHERE (chat_id, subject) > (%s, %s) AND type IN ({_MESSAGE_TYPES})"
    " GROUP BY chat_id, subject ORDER BY chat_id, subject LIMIT %s"
)
_EVENTS_OF_MESSAGES = (
    "SELECT e.chat_id, e.subject, e.type, e.payload, e.received_at, e.error IS NOT NULL, e.raw IS NOT NULL"
    " FROM {incoming} JOIN events e ON e.chat_id = incoming.chat_id AND e.subject = incoming.msg_id"
    f" WHERE e.type IN ({_MESSAGE_TYPES}) ORDER BY e.received_at, e.bot_id, e.generation, e.event_id"
)


@dataclass(slots=True)
class ReplayResult:
    """What a replay has done.

    Attributes:
        events: events that were read.
        readable: quarantined events that could be read now; they have left the quarantine.
        unreadable: events that this version cannot read either.
        erased: messages that stay as they are because their events are erased.
        messages: messages whose row or versions have changed.
        queued: messages with a new text to embed.
    """

    events: int = 0
    readable: int = 0
    unreadable: int = 0
    erased: int = 0
    messages: int = 0
    queued: int = 0


def quarantined(connection: Connection, *, erase: bool, progress: Progress = lambda done, total: None) -> ReplayResult:
    """Read the quarantined events again. Readable ones are derived, and their error is cleared.

    Args:
        connection: used for this alone, in autocommit mode.
        erase: whether a deletion erases the text, as `[storage] on_delete` says.
        progress: called after each page.
    """
    result = ReplayResult()
    with translate_errors():
        message_rows.prepare_connection(connection)
        total = _count(connection, "error IS NOT NULL AND raw IS NOT NULL")
        last: Key = ("", 0, 0)
        while page := connection.execute(_QUARANTINED_PAGE.encode(), (*last, _PAGE)).fetchall():
            last = page[-1][:3]
            events = [((bot, generation, id_), _read(raw, at)) for bot, generation, id_, at, raw, _ in page]
            readable = [(key, event) for key, event in events if event and event.error is None]
            result.events += len(page)
            with connection.transaction():
                schema.fence(connection)
                rules = erasure_rules.enter(connection)
                # The bots before the chats, as a writer does.
                event_counts.lock_bots(connection, [bot for bot, *_ in page])
                # Lock the chats before the rows of the events, in the same order as erasure does.
                chats = {event.chat_id for _, event in readable if event.chat_id}
                chat_locks.lock_chats(connection, {*chats, trial.CHAT})
                counts = refused_rows.insert_or_quarantine(
                    connection,
                    readable,
                    partial(_restore, connection, erase, rules),
                    _skip,
                    partial(_restore_trial, connection, erase, rules),
                )
                chats_of_bots = [(bot, event.chat_id) for (bot, *_), event in readable]
                chats_of_bots += [(bot, chat_id) for bot, _, _, _, _, chat_id in page]
                for bot in {bot for bot, _ in chats_of_bots}:
                    event_counts.recount(connection, bot, {chat for of, chat in chats_of_bots if chat and of == bot})
            result.readable += sum(count for count, _ in counts)
            result.queued += sum(queued for _, queued in counts)
            result.unreadable = result.events - result.readable
            progress(result.events, total)
    return result


def everything(connection: Connection, *, erase: bool, progress: Progress = lambda done, total: None) -> ReplayResult:
    """Rebuild the whole projection from every stored event that is not quarantined.

    Args:
        connection: used for this alone, in autocommit mode.
        erase: whether a deletion erases the text, as `[storage] on_delete` says.
        progress: called after each page; the total counts every event twice, because each is read twice.
    """
    result, lexicon = ReplayResult(), Lexicon()
    with translate_errors():
        message_rows.prepare_connection(connection)
        total = 2 * _count(connection, "true")
        last_key = ("", "")
        while keys := connection.execute(_MESSAGE_KEYS_PAGE.encode(), (*last_key, _PAGE)).fetchall():
            last_key = keys[-1]
            with connection.transaction():
                schema.fence(connection)
                held = erasure_rules.enter(connection).held
                chat_locks.lock_chats(connection, {*(chat_id for chat_id, _ in keys), trial.CHAT})
                refused_rows.insert_or_quarantine(
                    connection,
                    keys,
                    partial(_rebuild, connection, erase, held, result, lexicon),
                    lambda key, reason: None,
                    lambda key: _rebuild_trial(connection, erase),
                )
            progress(min(result.events, total // 2), total)
        _recount(connection)
        people_replay.rebuild(connection, lambda count: progress(min(total // 2 + count, total), total), _PAGE)
        progress(total, total)
    return result


def _recount(connection: Connection) -> None:
    """Count the events, messages and vectors of every chat again, in case somebody has changed the counts by hand."""
    for chat_id in kept_counts.chats_to_count(connection):
        with connection.transaction():
            schema.fence(connection)
            chat_locks.lock_chats(connection, [chat_id])
            kept_counts.recount(connection, chat_id)
        vector_counts.recount(connection, chat_id)
    for bot_id, chat_id in event_counts.chats_to_count(connection):
        with connection.transaction():
            schema.fence(connection)
            event_counts.lock_bots(connection, [bot_id])
            event_counts.recount(connection, bot_id, [chat_id])


def _read(raw: bytes, received_at: datetime) -> Event | None:
    """The event that this version reads from these bytes; None if they are not exactly one event."""
    try:
        events = api.read(b'{"events":[' + raw + b"]}", received_at)
    except ApiError:
        return None
    return events[0] if len(events) == 1 else None


def _restore(
    connection: Connection, erase: bool, rules: ErasureRules, part: Sequence[tuple[Key, Event]]
) -> tuple[int, int]:
    """Fill the rows of readable events and derive from them; returns the counts of events and of new texts."""
    if not part:
        return 0, 0
    kept = rules.applied_to(connection, [event for _, event in part])
    part = [(key, event) for (key, _), event in zip(part, kept, strict=True)]
    event_rows.restore(connection, part)
    projected = projection.Projection(erase=erase, held=rules.held)
    for _, event in part:
        projected.add(event)
    queued = projected.save(connection, copy=True)
    if erase:
        answered = quotes.affected(event.facts.message for _, event in part if event.facts.message)
        quotes.erase_quotes(connection, answered, rules.held, Lexicon())
    return len(part), queued


def _skip(item: tuple[Key, Event], reason: str) -> tuple[int, int]:
    """Leave a refused event in quarantine; its counts are 0."""
    return 0, 0


def _restore_trial(connection: Connection, erase: bool, rules: ErasureRules, item: tuple[Key, Event]) -> None:
    """Quarantine harmless events like this one, and restore them."""
    bot_id, generation, _ = item[0]
    for event in trial.events_like(item[1].type):
        quarantined_event = event_rows.as_quarantined(event, "trial")
        event_rows.insert(connection, bot_id, [(generation, quarantined_event)], copy=False)
        _restore(connection, erase, rules, [((bot_id, generation, event.event_id), event)])


def _rebuild_trial(connection: Connection, erase: bool) -> None:
    """Rebuild a harmless message from events that edit and delete it."""
    for event in (*trial.events_like("editedMessage"), trial.events_like("deletedMessage")[-1]):
        event_rows.insert(connection, trial.CHAT, [(1, event)], copy=False)
        _rebuild(connection, erase, (), ReplayResult(), Lexicon(), [(trial.CHAT, trial.MESSAGE)])


def _rebuild(
    connection: Connection,
    erase: bool,
    held: Collection[str],
    result: ReplayResult,
    lexicon: Lexicon,
    keys: Sequence[tuple[str, str]],
) -> None:
    """Fold these messages from their events again, and write those that differ from the stored rows.

    In the held chats nothing is erased.
    """
    stored = message_rows.load_messages(connection, keys, lambda key: BEGINNING)
    facts: dict[tuple[str, str], list[MessageFact]] = {key: [] for key in keys}
    erased = set()
    events = unreadable = 0
    rows = message_rows.KEYS.execute(connection, _EVENTS_OF_MESSAGES, keys)
    for chat_id, msg_id, event_type, payload, received_at, is_quarantined, has_raw in rows:
        events += 1
        if payload is None and not has_raw:
            erased.add((chat_id, msg_id))
        elif not is_quarantined:
            event_facts = people_replay.derive_stored(event_type, payload, received_at)
            if event_facts is None:
                unreadable += 1
            elif event_facts.message:
                facts[chat_id, msg_id].append(event_facts.message)
    messages: list[Message] = []
    for key in keys:
        erases = erase and key[0] not in held
        if key not in erased and facts[key]:
            messages.append(fold_all(new_message(facts[key][0]), facts[key], erase=erases))
        elif key in erased and erases and (message := stored.get(key)) and message.deleted_at is not None:
            # Another bot delivered the message again while `[storage] on_delete` was "keep". Erase that as well.
            message.erase_content()
            messages.append(message)
    for message in messages:
        if (row := stored.get(message.key)) is not None:
            message.stored_row, message.stored_versions = row.stored_row, row.stored_versions
    changed = [m for m in messages if m.row != m.stored_row or m.version_rows != list(m.stored_versions)]
    new = [m for m in messages if m.stored_row is None]
    # Pass on unchanged messages as well: the row of a deleted message may be right while one of its events still has
    # content to erase.
    existing = [m for m in messages if m.stored_row is not None]
    terms = search_terms.SearchTerms(lexicon)
    for message in new:
        terms.add(message)
    queued = message_rows.save_messages(
        connection, existing, new, terms, erase=erase, held=held, copy=len(new) >= COPY_THRESHOLD
    )
    if erase:
        answered = quotes.affected(fact for about in facts.values() for fact in about)
        quotes.erase_quotes(connection, {*keys, *answered}, held, lexicon)
    result.events += events
    result.unreadable += unreadable
    result.erased += len(erased.difference(m.key for m in changed))
    result.messages += len(changed)
    result.queued += queued


def _count(connection: Connection, condition: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM events WHERE {condition}".encode()).fetchone()
    return int(row[0]) if row else 0
