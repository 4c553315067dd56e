"""Tells which events of a batch are new, which of them are late, and whether they prove an id restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.ingest import event_rows, id_restart
from vkteams_daemon.store.ingest.event_cursor import Cursor
from vkteams_daemon.store.ingest.event_rows import GenerationEvent


@dataclass(frozen=True, slots=True)
class Classification:
    """What the writer has to do with a batch.

    Attributes:
        rows: the new events with their generations, in the order in which they are written.
        late: the new events at or below the cursor, in the order of the API's answer.
        restarted: whether the batch proves an id restart.
        pre_restart: the events that precede the restart and belong to the old generation.
    """

    rows: list[GenerationEvent]
    late: list[Event]
    restarted: bool
    pre_restart: list[Event]


class Classifier:
    """Compares batches with the stored events of one bot. It belongs to the thread that stores.

    It remembers what the last batches have shown, and is told what was committed.
    """

    def __init__(self, bot_id: str) -> None:
        self._bot_id = bot_id
        self._highest_stored_id = 0
        # Events with old ids, by id, from the batch with the last id restart.
        self._pre_restart: dict[int, Event] = {}
        # Whether the next generation has events although it is not open: parts of a batch with an id restart.
        self._restart_begun = False

    def take_over(self, connection: Connection, cursor: Cursor) -> None:
        """Read what the holder before this one has stored."""
        # If the cursor was set back by hand, there are stored events above it.
        stored_id = event_rows.highest_id(connection, self._bot_id, cursor.generation)
        next_id = event_rows.highest_id(connection, self._bot_id, cursor.generation + 1)
        self._highest_stored_id = max(cursor.last_event_id, stored_id, next_id)
        self._restart_begun = next_id != 0

    def classify(
        self, connection: Connection, batch: Sequence[Event], events: list[Event], before: Cursor
    ) -> Classification:
        """Classify a batch, in the transaction that stores it.

        Args:
            connection: inside the fence, so that no other writer changes anything.
            batch: the events in the order of the API's answer.
            events: those that the chat filter keeps.
            before: the cursor.
        """
        new, proof = self._find_new(connection, events, before)
        restarted = proof is not None
        late = [event for event in new if event.numbered and event.event_id <= before.last_event_id]
        pre_restart: list[Event] = []
        if proof is not None:
            # Events that precede the restart and continue from the cursor have old ids.
            preceding = batch[: id_restart.restart_index(batch, proof)]
            pre_restart = [event for event in preceding if event.event_id > before.last_event_id]
        generations = {id(event): before.generation for event in pre_restart}
        rows = [(generations.get(id(event), before.generation + restarted), event) for event in new]
        # Write them in the order of their ids, as replay does, and not in the order of the API's answer.
        rows.sort(key=lambda row: (row[0], row[1].event_id))
        return Classification(rows, late, restarted, pre_restart)

    def classify_late(
        self, connection: Connection, events: Sequence[Event], generation: int, last_generation: int
    ) -> list[GenerationEvent]:
        """Find the events that none of these generations has; all of them belong to the first.

        An event whose id is stored with another event gets a hash key.
        """
        candidates, api_ids = event_rows.deduplicate(events)
        present, taken = self._look_up(connection, candidates, api_ids, range(generation, last_generation + 1))
        new = [_with_free_key(event, taken) for event in candidates if id(event) not in present]
        return sorted(((generation, event) for event in new), key=lambda row: row[1].event_id)

    def committed(self, batch: Sequence[Event], classification: Classification, *, partial: bool) -> None:
        """Note that a batch, or a part of it, is stored."""
        if classification.restarted:
            if not partial:
                self._pre_restart = {event.event_id: event for event in classification.pre_restart}
                if not self._restart_begun:
                    self._highest_stored_id = 0
            self._restart_begun = partial
        self.stored(batch)

    def stored(self, events: Sequence[Event]) -> None:
        """Note that events are stored. After late events the cursor is below the highest stored id."""
        self._highest_stored_id = max([self._highest_stored_id, *(event.event_id for event in events)])

    def _find_new(
        self, connection: Connection, events: list[Event], before: Cursor
    ) -> tuple[list[Event], Event | None]:
        """Find the events that are not stored yet.

        Returns:
            The new events, and the first event that proves an id restart (None without a restart): its id is stored
            with another event, or it is stored in the next generation already.
        """
        where = connection, self._bot_id, before.generation
        candidates, api_ids = event_rows.deduplicate(events)
        # No event above the highest stored id can be stored: the fence keeps other writers out.
        lookup_ids = [event.event_id for event in candidates if event.event_id <= self._highest_stored_id]
        stored = event_rows.stored_identities(*where, lookup_ids)

        def is_stored(event: Event) -> bool:
            # A hash key means that another event of this batch has the same API id. On the previous delivery this event
            # may have come first and taken the real id.
            id_owner = stored.get(api_ids.get(event.event_id, 0))
            return event.event_id in stored or (id_owner is not None and id_owner.matches(event))

        def precedes_restart(event: Event) -> bool:
            # The API may deliver an event from before the last restart once more. Its old generation has it.
            earlier = self._pre_restart.get(event.event_id)
            return earlier is not None and event_rows.is_same_event(earlier, event)

        new = [event for event in candidates if not is_stored(event) and not precedes_restart(event)]
        collisions = [
            event
            for event in candidates
            if event.numbered and event.event_id in stored and not stored[event.event_id].matches(event)
        ]
        if collisions:
            # On its first delivery the event may have shared its id with another event, and got a hash key.
            hash_keys = event_rows.stored_identities(*where, [event_rows.hash_key(event) for event in collisions])
            collisions = [event for event in collisions if event_rows.hash_key(event) not in hash_keys]
            if all(stored[event.event_id].quarantined for event in collisions):
                # A quarantined event proves no restart, because this program could not read it.
                new += [replace(event, event_id=event_rows.hash_key(event)) for event in collisions]
                collisions = []
        new += collisions
        proofs = set(map(id, collisions))
        if self._restart_begun:
            # A batch with an id restart is stored in parts, and the last part opens the generation.
            present, taken = self._look_up(connection, new, api_ids, [before.generation + 1])
            proofs |= present
            new = [event for event in new if id(event) not in present]
            if proofs:
                new = [_with_free_key(event, taken) for event in new]
        if not proofs:
            return new, None
        # An event that shares its id with another one of the batch is a copy with a hash key, and not in the batch.
        return new, next((event for event in events if id(event) in proofs), events[0])

    def _look_up(
        self, connection: Connection, events: Sequence[Event], api_ids: dict[int, int], generations: Sequence[int]
    ) -> tuple[set[int], set[int]]:
        """Look for events, under their ids and under their hash keys.

        Args:
            connection: in a transaction.
            events: without repetitions, see `event_rows.deduplicate`.
            api_ids: the id of the API by the hash key that replaces it.
            generations: where to look.

        Returns:
            The `id()` of each event that one of the generations has, and the keys that the first generation has.
        """
        present: set[int] = set()
        taken: set[int] = set()
        for generation in generations:
            hash_keys = {id(event): event_rows.hash_key(event) for event in events}
            keys = {event.event_id for event in events} | set(api_ids.values()) | set(hash_keys.values())
            stored = event_rows.stored_identities(connection, self._bot_id, generation, list(keys))
            taken = set(stored) if generation == generations[0] else taken
            for event in events:
                owner = stored.get(api_ids.get(event.event_id, event.event_id))
                if hash_keys[id(event)] in stored or (owner is not None and owner.matches(event)):
                    present.add(id(event))
        return present, taken


def _with_free_key(event: Event, taken: set[int]) -> Event:
    return replace(event, event_id=event_rows.hash_key(event)) if event.event_id in taken else event
