"""The rules of erasure: whose words and which messages are not kept, and which chats are kept from every erasure.

An erasure must hold for what comes later as well: a second bot may deliver an erased message, an edit of it, or a reply
that repeats it. So the rules stay in tables, and each transaction that stores or erases reads them after the fence
(`schema.fence`), which a change of the rules waits for: after the change, nothing is stored or erased by the old rules.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from msgspec.structs import replace
from psycopg.rows import class_row

from vkteams_daemon.botapi import content_erasure
from vkteams_daemon.botapi.content_erasure import Erased, EventContent
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.botapi.facts import MESSAGE_EVENTS, Facts, Unreadable, User, derive
from vkteams_daemon.errors import NotFound
from vkteams_daemon.store import schema
from vkteams_daemon.store.connections import Connection, translate_errors

HELD_CHATS = (
    "SELECT chat_id FROM holds WHERE lifted_at IS NULL UNION ALL SELECT c.chat_id FROM chats c"
    " JOIN holds h ON h.chat_id = c.parent_chat_id WHERE h.lifted_at IS NULL"
)
"""The query for the chats that a hold keeps: the held chats and their threads."""

NOT_HELD = f"(m.chat_id = ANY(ARRAY({HELD_CHATS}))) IS NOT TRUE"
"""A condition: no hold keeps the row `m`."""

_PEOPLE = "SELECT user_id, CASE WHEN ignored THEN NULL ELSE erased_at END FROM erased_people"
_ADD_MESSAGES = (
    "INSERT INTO erased_messages (chat_id, msg_id) SELECT * FROM unnest(%s::text[], %s::text[]) ON CONFLICT DO NOTHING"
)
_MESSAGES = "SELECT chat_id, msg_id FROM erased_messages WHERE msg_id = ANY(%s)"


@dataclass(frozen=True, slots=True)
class Hold:
    """A row of the table `holds`."""

    hold_id: int
    chat_id: str
    held_at: datetime
    held_by: str
    lifted_at: datetime | None
    lifted_by: str | None


@dataclass(frozen=True, slots=True)
class ErasedPerson:
    """A row of the table `erased_people`."""

    user_id: str
    erased_at: datetime
    erased_by: str
    ignored: bool


@dataclass(slots=True)
class ErasureRules:
    """The rules as one transaction sees them.

    Attributes:
        people: by user id, up to which moment what they have said is erased; None: for ever.
        any_erased: whether anything must not be kept.
        held: the chats that a hold keeps, with their threads.
        held_by: who holds a chat, by chat id; without threads.
    """

    version: int = 0
    people: dict[str, datetime | None] = field(default_factory=dict)
    any_erased: bool = False
    held: frozenset[str] = frozenset()
    held_by: dict[str, str] = field(default_factory=dict)

    def applied_to(self, connection: Connection, events: Sequence[Event]) -> list[Event]:
        """These events without what must not be kept. Their keys stay, and so do the events of held chats."""
        if not self.any_erased or not events:
            return list(events)
        payloads = [_payload(event) for event in events]
        theirs = {
            (event.chat_id, event.subject)
            for event, payload in zip(events, payloads, strict=True)
            if event.type in MESSAGE_EVENTS and event.chat_id and event.subject and not is_held(event, self.held)
            and content_erasure.is_theirs(Erased(self.people), payload, event.occurred_at)
        }  # fmt: skip
        if theirs:
            # An event that repeats such a message later may not name its author, so the key of the message is kept.
            connection.execute(_ADD_MESSAGES, [list(column) for column in zip(*sorted(theirs), strict=True)])
        erased = Erased(self.people, self._messages(connection, payloads))
        return [self._apply(erased, *pair) for pair in zip(events, payloads, strict=True)]

    def _messages(self, connection: Connection, payloads: Sequence[Any]) -> frozenset[tuple[str, str]]:
        """Those of the messages in these payloads that are erased."""
        ids = set().union(*map(content_erasure.message_ids, payloads))
        return frozenset(connection.execute(_MESSAGES, (list(ids),)).fetchall()) if ids else frozenset()

    def _apply(self, erased: Erased, event: Event, payload: Any) -> Event:
        if is_held(event, self.held):
            return event
        quarantined = event.error is not None
        source = (event.raw or b"").decode("utf-8", "replace") or (event.json if quarantined else "")
        content, changed = content_erasure.erase_event(
            erased,
            EventContent(event.chat_id, event.subject, payload, source, quarantined, event.occurred_at),
        )
        if not changed:
            return event
        if content is None:
            facts = Facts() if quarantined else _keys_only(event, erased)
            return replace(event, json="", payload=None, raw=None, facts=facts)
        text = json.dumps(content, ensure_ascii=False)
        try:
            facts = derive(event.type, content, event.received_at)
        except Unreadable:
            facts = _keys_only(event, erased)
        envelope = json.dumps({"eventId": event.event_id, "type": event.type}, ensure_ascii=False)
        return replace(event, json=f'{envelope[:-1]}, "payload": {text}}}', payload=text, raw=None, facts=facts)


def _payload(event: Event) -> Any:
    if event.payload is None:
        return None
    try:
        return json.loads(event.payload)
    except (ValueError, RecursionError):
        return None


def _keys_only(event: Event, erased: Erased) -> Facts:
    """That an event has a chat and an author, without their names."""
    facts = event.facts
    chats = tuple(replace(chat, title=None) if erased.names(chat.chat_id) else chat for chat in facts.chats)
    users = (User(event.user_id),) if event.user_id else ()
    return Facts(event.chat_id, event.user_id, event.occurred_at, chats, users)


def is_held(event: Event, held: Collection[str]) -> bool:
    """Whether a hold keeps this event; a thread is held with its chat, also if this event is the first about it."""
    return bool(held) and (event.chat_id in held or any(chat.parent_chat_id in held for chat in event.facts.chats))


def enter(connection: Connection, known: ErasureRules | None = None) -> ErasureRules:
    """Read the rules that this transaction works by. They cannot change until it ends.

    Args:
        connection: in a transaction that has passed `schema.fence`.
        known: the rules of an earlier transaction.
    """
    row = connection.execute("SELECT version FROM erasure_rules").fetchone()
    assert row is not None
    return refresh(connection, row[0], known)


def refresh(connection: Connection, version: int, known: ErasureRules | None = None) -> ErasureRules:
    """As `enter`, for a transaction that has read the version already."""
    # A held chat may have a new thread since.
    if known is not None and known.version == version and not known.held:
        return known
    people = {row[0]: row[1] for row in connection.execute(_PEOPLE).fetchall()}
    row = connection.execute("SELECT EXISTS (SELECT FROM erased_messages)").fetchone()
    held = frozenset(row[0] for row in connection.execute(HELD_CHATS.encode()).fetchall())
    holds = connection.execute("SELECT chat_id, held_by FROM holds WHERE lifted_at IS NULL").fetchall()
    return ErasureRules(version, people, bool(people or (row and row[0])), held, dict(holds))


@contextlib.contextmanager
def change(connection: Connection) -> Iterator[None]:
    """A transaction that changes the rules. It waits until every transaction that works by the old ones has ended."""
    with translate_errors(), connection.transaction():
        connection.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")  # conflicts with every fence
        schema.fence(connection)
        yield
        connection.execute("UPDATE erasure_rules SET version = version + 1")


def hold(connection: Connection, chat_id: str, by: str) -> bool:
    """Keep a chat and its threads from every erasure; returns whether it was not held before.

    Args:
        connection: in autocommit mode.
        chat_id: a chat; the archive need not know it yet.
        by: who holds it.
    """
    with change(connection):
        count = connection.execute(
            "INSERT INTO holds (chat_id, held_by) VALUES (%s, %s) ON CONFLICT (chat_id) WHERE lifted_at IS NULL"
            " DO NOTHING",
            (chat_id, by),
        ).rowcount
    return count == 1


def lift(connection: Connection, chat_id: str, by: str) -> None:
    """End the hold of a chat.

    Raises:
        NotFound: the chat is not held.
    """
    with change(connection):
        count = connection.execute(
            "UPDATE holds SET lifted_at = clock_timestamp(), lifted_by = %s WHERE chat_id = %s AND lifted_at IS NULL",
            (by, chat_id),
        ).rowcount
    if not count:
        raise NotFound(f"the chat {chat_id} is not held", hint="`vkteamsctl database hold` lists the holds.")


def list_holds(connection: Connection, *, lifted: bool = False) -> list[Hold]:
    """The holds, the newest first; those that were lifted only if asked for."""
    with translate_errors(), connection.cursor(row_factory=class_row(Hold)) as cursor:
        cursor.execute(
            "SELECT hold_id, chat_id, held_at, held_by, lifted_at, lifted_by FROM holds"
            " WHERE lifted_at IS NULL OR %s ORDER BY hold_id DESC",
            (lifted,),
        )
        return cursor.fetchall()


def spelled_people(connection: Connection, user_ids: Sequence[str]) -> list[str]:
    """The ids of people as the archive spells them; unknown ones as they are.

    An id that is an e-mail address is the same person in any case, so it stands for all spellings that the archive has.
    """
    rows = connection.execute(
        "SELECT typed.id, ARRAY(SELECT k.user_id FROM (SELECT user_id FROM users UNION SELECT user_id"
        "  FROM roster_members UNION SELECT user_id FROM erased_people) AS k WHERE k.user_id = typed.id"
        "  OR (pg_catalog.strpos(typed.id, '@'::text) > 0"
        "   AND pg_catalog.lower(k.user_id) = pg_catalog.lower(typed.id)) ORDER BY 1)"
        " FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS typed (id, place) ORDER BY typed.place",
        (list(user_ids),),
    ).fetchall()
    return list(dict.fromkeys(spelling for typed, known in rows for spelling in known or [typed]))


def list_people(connection: Connection) -> list[ErasedPerson]:
    """The people whose words were erased, the newest first."""
    with translate_errors(), connection.cursor(row_factory=class_row(ErasedPerson)) as cursor:
        cursor.execute(
            "SELECT user_id, erased_at, erased_by, ignored FROM erased_people ORDER BY erased_at DESC, user_id"
        )
        return cursor.fetchall()


def stop_ignoring(connection: Connection, user_id: str) -> None:
    """Keep again what a person says from now on. What was said before stays erased.

    Raises:
        NotFound: the person is not ignored.
    """
    with change(connection):
        count = connection.execute(
            "UPDATE erased_people SET ignored = false, erased_at = clock_timestamp() WHERE user_id = %s AND ignored",
            (user_id,),
        ).rowcount
    if not count:
        raise NotFound(f"{user_id} is not ignored")
