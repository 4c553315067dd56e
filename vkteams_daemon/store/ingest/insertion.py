"""Writes new events with their projection, and isolates the events that the database refuses."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.errors import StoreError
from vkteams_daemon.store import erasure_rules
from vkteams_daemon.store.bulk import COPY_THRESHOLD
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive import chat_locks, projection, quotes
from vkteams_daemon.store.derive.event_counts import EventCounts
from vkteams_daemon.store.erasure_rules import ErasureRules
from vkteams_daemon.store.ingest import event_rows, refused_rows, trial
from vkteams_daemon.store.ingest.event_rows import GenerationEvent
from vkteams_daemon.store.words.lexicon import Lexicon

log = logging.getLogger(__name__)


def _nothing() -> None:
    """Send no further statement."""


class Inserted(NamedTuple):
    """How many events were quarantined, and how many texts are new."""

    quarantined: int = 0
    queued: int = 0


class EventInserter:
    """Inserts the events of one bot.

    Attributes:
        erase: whether a deletion erases the text.
        expect_new: see `projection.Projection`. It is true until another bot proves to hear the same chats.
    """

    def __init__(self, bot_id: str) -> None:
        self.erase = False
        self.expect_new = True
        self._bot_id = bot_id
        self._lexicon = Lexicon()
        self._rules = ErasureRules()

    def follow(self, connection: Connection, version: int) -> None:
        """Work by the rules of erasure of this version, and log what is new in them.

        Args:
            connection: in the transaction that has read the version.
            version: of the rules.
        """
        before, rules = self._rules, erasure_rules.refresh(connection, version, self._rules)
        self._rules = rules
        for chat_id in rules.held_by.keys() - before.held_by.keys():
            log.info("%s holds the chat %s: nothing of it is erased", rules.held_by[chat_id], chat_id)
        for chat_id in before.held_by.keys() - rules.held_by.keys():
            log.info("the hold of the chat %s is lifted", chat_id)
        if before.version:
            for user_id in rules.people.keys() - before.people.keys():
                log.info("what %s has said is erased, by hand", user_id)

    def insert(
        self,
        connection: Connection,
        rows: Sequence[GenerationEvent],
        reordered: Sequence[Event] = (),
        *,
        and_then: Callable[[], object] = _nothing,
    ) -> Inserted:
        """Insert events and what follows from them.

        Args:
            connection: in a transaction.
            rows: the events.
            reordered: if one of them comes later than its id says, all events of its batch in their order. The newest
                event decides on names and members.
            and_then: sends further statements of the transaction. With a small batch they take no round trip of their
                own, so their results are there only when `insert` has returned.
        """
        return self._insert(connection, rows, reordered, and_then, expect_new=self.expect_new)

    def insert_or_quarantine(
        self,
        connection: Connection,
        rows: Sequence[GenerationEvent],
        reordered: Sequence[Event] = (),
        *,
        and_then: Callable[[], object] = _nothing,
    ) -> Inserted:
        """Insert events some of which cannot be written; the culprits are quarantined. Arguments as of `insert`.

        `reordered` is left out, because it may hold the culprits.
        """

        def insert(part: Sequence[GenerationEvent]) -> Inserted:
            return self._insert(connection, part, (), _nothing, expect_new=False)

        def quarantine(row: GenerationEvent, reason: str) -> Inserted:
            return insert([(row[0], event_rows.as_quarantined(row[1], reason))])

        tried: set[str | None] = set()

        def insert_trial(row: GenerationEvent) -> None:
            if row[1].type not in tried:
                for event in trial.events_like(row[1].type):
                    insert([(row[0], event)])
                tried.add(row[1].type)

        # Lock all chats at once. If each part locked its own, two bots could wait for each other.
        chats = {event.chat_id for _, event in rows if event.chat_id}
        chat_locks.lock_chats(connection, {*chats, trial.CHAT})
        parts = refused_rows.insert_or_quarantine(connection, rows, insert, quarantine, insert_trial)
        and_then()
        return Inserted(sum(part.quarantined for part in parts), sum(part.queued for part in parts))

    def _insert(
        self,
        connection: Connection,
        rows: Sequence[GenerationEvent],
        reordered: Sequence[Event],
        and_then: Callable[[], object],
        *,
        expect_new: bool,
    ) -> Inserted:
        # Not earlier: an event is compared with the stored ones as it came.
        kept = self._rules.applied_to(connection, [event for _, event in rows])
        rows = [(generation, event) for (generation, _), event in zip(rows, kept, strict=True)]
        reordered = self._rules.applied_to(connection, reordered)
        copy = len(rows) >= COPY_THRESHOLD
        projected = projection.Projection(
            erase=self.erase, lexicon=self._lexicon, expect_new=expect_new, held=self._rules.held
        )
        quarantined = 0
        counts = EventCounts()

        def project_and_yield() -> Iterator[GenerationEvent]:
            # The server takes in the events that were sent, while this adds their facts to the projection.
            nonlocal quarantined
            for row in rows:
                projected.add(row[1])
                quarantined += row[1].error is not None
                counts.add(row[1].chat_id, row[1].received_at)
                yield row
            for event in reordered:
                projected.add_people(event)

        # A small batch goes in a pipeline, to save round trips. COPY is not possible in a pipeline.
        with contextlib.nullcontext() if copy else connection.pipeline():
            inserted = event_rows.insert(connection, self._bot_id, project_and_yield(), copy)
            counts.save(connection, self._bot_id)
            queued = projected.save(connection, copy=copy)
            and_then()
        if inserted.rowcount != len(rows):  # in a pipeline it is known only now
            raise StoreError(
                f"the database has taken {inserted.rowcount} of {len(rows)} events without an error, so none is stored",
                hint="Somebody has put a trigger or a rule on the table events: remove it.",
            )
        if self.erase:
            answered = quotes.affected(event.facts.message for _, event in rows if event.facts.message)
            quotes.erase_quotes(connection, answered, self._rules.held, self._lexicon)
        return Inserted(quarantined, queued)
