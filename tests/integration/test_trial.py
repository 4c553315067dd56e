"""A fault of this program or of the database quarantines nothing: a harmless event is tried the same way first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from tests.harness.batches import (
    CHAT,
    DERIVED,
    Json,
    batch,
    deleted,
    edited,
    event,
    members,
    new,
    pinned,
    rows,
    unpinned,
)
from tests.harness.waiting import until
from vkteams_daemon.botapi.facts import MessageFact
from vkteams_daemon.errors import StoreError
from vkteams_daemon.store.derive import message_fold
from vkteams_daemon.store.derive.message_fold import Message
from vkteams_daemon.store.ingest import trial
from vkteams_daemon.store.ingest.insertion import EventInserter
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import replay

_MESSAGE = {"msgId": "m1", "chat": {"chatId": CHAT, "type": "group"}, "timestamp": 1_764_000_000}
_KINDS: dict[str, Callable[[int], Json]] = {
    "newMessage": lambda n: new(n, f"n{n}"),
    "editedMessage": lambda n: edited(n, "m1", f"edit {n}", after=n),
    "deletedMessage": lambda n: deleted(n, "m1"),
    "pinnedMessage": lambda n: pinned(n, "m1", "hello"),
    "unpinnedMessage": lambda n: unpinned(n, "m1"),
    "newChatMembers": lambda n: members(n, "newChatMembers", "a"),
    "leftChatMembers": lambda n: members(n, "leftChatMembers", "a"),
    "changedChatInfo": lambda n: event(n, "changedChatInfo", chat={"chatId": CHAT, "type": "group", "title": "T"}),
    "callbackQuery": lambda n: event(n, "callbackQuery", queryId=f"q{n}", message=_MESSAGE, callbackData="x"),
    "somethingNew": lambda n: event(n, "somethingNew", chat={"chatId": CHAT}),
}
_READS_A_ROW = ("editedMessage", "deletedMessage", "pinnedMessage", "unpinnedMessage")


class Archive:
    """A writer that holds its lock, with a stored message, and its connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connections: list[psycopg.Connection[Any]] = []
        self.writer = Writer(self._connect, "1000000001")
        self.acquire()
        self.writer.store(batch(new(1, "m1"), edited(2, "m1", "edited", after=1)))

    def _connect(self) -> psycopg.Connection[Any]:
        self.connections.append(psycopg.connect(self.url, autocommit=True))
        return self.connections[-1]

    def acquire(self) -> None:
        until(self.writer.acquire, 30, "the bot's lock")

    def set(self, setting: str) -> None:
        """Change a setting of the writer's present connection, whatever it has set itself."""
        self.connections[-1].execute(f"SET {setting}".encode())

    def content(self) -> list[object]:
        return [rows(self.url, table) for table in (*DERIVED, "events", "bots", "embedding_queue")]


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    made = Archive(database_url)
    yield made
    made.writer.close()


@pytest.fixture
def connection(archive: Archive) -> Iterator[psycopg.Connection[Any]]:
    """A connection of its own to the archive."""
    with psycopg.connect(archive.url, autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("kind", [*_KINDS, None])
def test_trial_events_can_be_read_and_end_with_the_type(kind: str | None) -> None:
    events = trial.events_like(kind)
    assert [e.error for e in events] == [None] * len(events)
    assert len({e.event_id for e in events}) == len(events)
    assert not any(e.numbered for e in events)
    if kind in _KINDS and kind != "somethingNew":
        assert events[-1].type == kind


@pytest.mark.parametrize("others", [0, 300])
@pytest.mark.parametrize("kind", _READS_A_ROW)
def test_database_whose_times_cannot_be_read_quarantines_nothing(archive: Archive, kind: str, others: int) -> None:
    before = archive.content()
    heard = batch(*(new(n) for n in range(10, 10 + others)), _KINDS[kind](1000))
    archive.set("datestyle = 'German'")
    with pytest.raises(StoreError, match="harmless events cannot be stored either, so nothing is quarantined: "):
        archive.writer.store(heard)
    assert archive.content() == before
    archive.acquire()
    result = archive.writer.store(heard)
    assert (result.saved, result.quarantined) == (others + 1, 0)


@pytest.mark.parametrize("kind", _KINDS)
def test_fault_of_this_program_that_meets_every_event_of_a_type_quarantines_nothing(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    before = archive.content()
    heard = batch(_KINDS[kind](1000))
    insert = EventInserter._insert

    def faulty(self: EventInserter, connection: Any, part: Any, *rest: Any, **options: Any) -> Any:
        if any(e.type == kind or e.type == "vkteamsTrial" for _, e in part):
            raise TypeError("no such thing")
        return insert(self, connection, part, *rest, **options)

    with monkeypatch.context() as patched:
        patched.setattr(EventInserter, "_insert", faulty)
        with pytest.raises(StoreError, match="quarantined: internal error: TypeError: no such thing"):
            archive.writer.store(heard)
    after = archive.content()
    assert after[:-2] == before[:-2]
    archive.acquire()
    assert archive.writer.store(heard).quarantined == 0


@pytest.mark.parametrize("kind", _KINDS)
def test_event_that_alone_cannot_be_written_is_quarantined_and_the_trial_leaves_nothing(
    archive: Archive, connection: psycopg.Connection[Any], kind: str
) -> None:
    before = archive.content()
    connection.execute("ALTER TABLE events ADD CONSTRAINT no_poison CHECK (event_id <> 1000 OR error IS NOT NULL)")
    assert archive.writer.store(batch(_KINDS[kind](1000))).quarantined == 1
    assert archive.content()[: len(DERIVED)] == before[: len(DERIVED)]
    assert len(rows(archive.url, "events")) == 3
    assert archive.writer.cursor
    assert archive.writer.cursor.last_event_id == 1000


def test_replay_in_a_database_whose_times_cannot_be_read_fails_and_skips_nothing(
    archive: Archive, connection: psycopg.Connection[Any]
) -> None:
    before = archive.content()
    connection.execute("SET datestyle = 'German'")
    with pytest.raises(StoreError, match="harmless events cannot be stored either"):
        replay.everything(connection, erase=False)
    assert archive.content() == before


def test_replay_of_the_quarantine_with_a_fault_of_this_program_fails(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.execute("UPDATE events SET error = 'once', raw = convert_to(jsonb_build_object('eventId', event_id,"
                       " 'type', type, 'payload', payload)::text, 'UTF8'), payload = NULL")  # fmt: skip
    connection.execute("TRUNCATE messages CASCADE")

    def faulty(message: Message, fact: MessageFact, *, erase: bool) -> None:
        raise TypeError("no such thing")

    with monkeypatch.context() as patched:
        patched.setattr(message_fold, "fold", faulty)
        with pytest.raises(StoreError, match="internal error: TypeError: no such thing"):
            replay.quarantined(connection, erase=False)
    assert replay.quarantined(connection, erase=False).readable == 2
