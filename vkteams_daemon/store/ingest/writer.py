"""The writer commits each batch in one transaction: its events, their projection and the cursor.

The writer owns one direct connection. The connection holds the bot's session advisory lock, so that one process listens
to one bot. Every take-over raises the bot's epoch, so that a former holder that wakes up late cannot commit. Only the
`cursor` after a successful `store` or `acquire` may be sent to the API as lastEventId.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

from psycopg.errors import UniqueViolation

from vkteams_daemon.botapi.chat_filter import ChatFilter
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.errors import FenceLost
from vkteams_daemon.store import gaps, schema
from vkteams_daemon.store.blockers import PATIENCE
from vkteams_daemon.store.bulk import COPY_THRESHOLD
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive import projection
from vkteams_daemon.store.ingest import batch_part, event_rows, id_restart, probe, refused_rows
from vkteams_daemon.store.ingest.event_rows import GenerationEvent
from vkteams_daemon.store.ingest.session import Session
from vkteams_daemon.store.words.lexicon import Lexicon

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cursor:
    """A bot's position: every event up to `last_event_id` of this generation is stored or filtered out.

    Attributes:
        epoch: raised by every take-over.
        moves: raised by every move of the cursor, up or down.
    """

    generation: int
    last_event_id: int
    epoch: int
    moves: int = 0


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What happened to one batch.

    Attributes:
        saved: events that were inserted, quarantined ones included.
        duplicate: events that were stored already.
        filtered: events of chats that are not kept.
        quarantined: events that this program could not read or the database refused.
        late: events at or below the old cursor that were not stored; 0 after an id restart.
        queued: messages with a new text to embed.
        moved: whether the cursor changed.
        restarted: whether an id restart has opened a new generation.
        partial: whether new events of the batch remain. The counts then only tell what this transaction has stored.
    """

    saved: int = 0
    duplicate: int = 0
    filtered: int = 0
    quarantined: int = 0
    late: int = 0
    queued: int = 0
    moved: bool = False
    restarted: bool = False
    partial: bool = False


class Writer:
    """Writes one bot's events. One thread calls `store`, `acquire` and `close`; any thread may call `ping` and `abort`.

    Args:
        connect: opens the writer's own connection.
        bot_id: the bot's userId.
        nick: the bot's nick, for the `bots` table.
        chat_ids: keep only these chats and their threads; empty keeps everything.
        write_timeout: seconds after which a transaction is aborted.
        patience: seconds after which a silent holder of the bot's lock is ended.
        acknowledged: what this host remembers of the cursors that it has sent; None: gaps are not noticed.

    Attributes:
        erase: whether a deletion erases the text, as `[storage] on_delete` says.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        bot_id: str,
        *,
        nick: str | None = None,
        chat_ids: Sequence[str] = (),
        write_timeout: float = 30.0,
        patience: float = PATIENCE,
        acknowledged: gaps.Acknowledgements | None = None,
    ) -> None:
        self._session = Session(connect, write_timeout, patience)
        self._bot_id = bot_id
        self._nick = nick
        self._chat_filter = ChatFilter(chat_ids)
        self._highest_stored_id = 0
        # Events with old ids, by id, from the batch with the last id restart.
        self._pre_restart: dict[int, Event] = {}
        # Whether the next generation has events although it is not open: parts of a batch with an id restart.
        self._restart_begun = False
        # Until another bot proves to hear the same chats, messages of newMessage events are expected to be new.
        self._expect_new = True
        self._cursor: Cursor | None = None
        self._acknowledged = acknowledged
        self._archive_id = ""
        self._lexicon = Lexicon()
        self.erase = False

    @property
    def cursor(self) -> Cursor | None:
        """The bot's cursor while its lock is held; None otherwise."""
        return self._cursor if self._session.open else None

    @property
    def holds_lock(self) -> bool:
        """Whether the connection holds the bot's lock, as far as this side knows."""
        return self.cursor is not None

    def acquire(self) -> bool:
        """Connect if needed, try to take the bot's lock, raise the epoch and read the cursor.

        Returns:
            False while another process listens to this bot.

        Raises:
            SchemaNewer: a newer program has migrated the schema.
        """
        self._cursor = None
        with self._session.exclusive() as connection:
            if not self._session.try_lock(connection, self._bot_id):
                self._look_for_gaps(connection)
                return False
            with connection.transaction():
                schema.fence(connection)
                row = connection.execute(
                    "INSERT INTO bots AS b (bot_id, nick, epoch) VALUES (%s, %s, 1) ON CONFLICT (bot_id) DO UPDATE"
                    " SET epoch = b.epoch + 1, nick = coalesce(excluded.nick, b.nick), updated_at = now()"
                    " RETURNING generation, last_event_id, epoch, moves",
                    (self._bot_id, self._nick),
                ).fetchone()
            assert row is not None
            cursor = Cursor(*row)
            self._chat_filter.threads = self._known_threads(connection)
            # If the cursor was set back by hand, there are stored events above it.
            stored_id = event_rows.highest_id(connection, self._bot_id, cursor.generation)
            next_id = event_rows.highest_id(connection, self._bot_id, cursor.generation + 1)
            self._highest_stored_id = max(cursor.last_event_id, stored_id, next_id)
            self._restart_begun = next_id != 0
            self._look_for_gaps(connection)
            self._cursor = cursor
            return True

    def before_poll(self) -> None:
        """Remember the cursor outside the database. The poll loop calls this before it sends the cursor."""
        cursor = self._cursor
        if cursor is not None and self._acknowledged is not None:
            position = gaps.Position(cursor.generation, cursor.last_event_id, cursor.moves)
            self._acknowledged.remember(self._archive_id, position)

    def store(self, batch: Sequence[Event], limit: int | None = None) -> StoreResult:
        """Commit one batch and the cursor that covers it, in one transaction.

        Args:
            batch: events in the order of the API's answer.
            limit: store at most so many new events. If more are new, the cursor stays and the result is partial: the
                batch must be stored again, as a whole, until it is not.

        Raises:
            FenceLost: another holder has moved the cursor or raised the epoch; nothing was committed.
            SchemaNewer: a newer program has migrated the schema; nothing was committed.
            DatabaseUnavailable: the connection broke. Only the cursor that the next `acquire` reads tells whether the
                batch was committed.
            StoreError: the database refuses for a reason other than the events, or this program cannot store harmless
                events either; nothing was committed.
        """
        before = self._cursor
        if before is None:
            raise FenceLost("the bot's lock is not held")
        with self._session.exclusive(reconnect=False) as connection:
            try:
                insert = functools.partial(self._insert, expect_new=self._expect_new)
                after, result = self._commit(connection, batch, before, insert, limit)
            except Exception as error:
                if not refused_rows.is_refusal(error):
                    raise
                self._expect_new = self._expect_new and not isinstance(error, UniqueViolation)
                # Savepoints cost time and refusals are rare, so the first attempt has none and this one has them.
                after, result = self._commit(connection, batch, before, self._insert_or_quarantine, limit)
            # After late events the cursor is below the highest stored id.
            if result.restarted and not result.partial and not self._restart_begun:
                self._highest_stored_id = 0
            self._highest_stored_id = max([self._highest_stored_id, *(event.event_id for event in batch)])
            if result.restarted:
                self._restart_begun = result.partial
            self._cursor = after
            return result

    def store_late(self, batch: Sequence[Event], generation: int) -> StoreResult:
        """Commit events that were acknowledged already as late events of a generation; the cursor stays.

        An event that this generation or a later one has is a duplicate. An event whose id is stored with another event
        gets a hash key.

        Raises:
            FenceLost, DatabaseUnavailable, StoreError: as `store`.
        """
        before = self._cursor
        if before is None:
            raise FenceLost("the bot's lock is not held")
        with self._session.exclusive(reconnect=False) as connection:
            events = self._filter(connection, batch)
            with connection.transaction():
                self._fence(connection, before)
                candidates, api_ids = event_rows.deduplicate(events)
                generations = range(generation, max(generation, before.generation) + 1)
                present, taken = self._look_up(connection, candidates, api_ids, generations)
                new = [_with_free_key(event, taken) for event in candidates if id(event) not in present]
                rows = sorted(((generation, event) for event in new), key=lambda row: row[1].event_id)
                quarantined, queued = self._insert_or_quarantine(connection, rows) if rows else (0, 0)
            self._highest_stored_id = max([self._highest_stored_id, *(event.event_id for event in new)])
        return StoreResult(
            saved=len(new),
            duplicate=len(events) - len(new),
            filtered=len(batch) - len(events),
            quarantined=quarantined,
            late=len(new),
            queued=queued,
        )

    @property
    def blocked_by(self) -> str:
        """The sessions that hold the bot's lock and are not ours to end; "" if there are none."""
        return self._session.blocked_by

    @property
    def holder_is_alive(self) -> bool:
        """Whether the holder of the bot's lock has shown a sign of life since the first `acquire` that was refused."""
        return self._session.holder_is_alive

    def ping(self) -> None:
        """Keep the session alive; does nothing during a transaction.

        Raises:
            DatabaseUnavailable: the connection is gone, and the lock with it.
        """
        self._session.ping()

    def abort(self) -> None:
        """Abort the connection's current operation; the thread that waits for it gets DatabaseUnavailable."""
        self._session.abort()

    def close(self) -> None:
        """Close the connection; the server then releases the lock."""
        self._session.close()

    def _look_for_gaps(self, connection: Connection) -> None:
        """Compare what this host has sent with the database, and store and log what is missing.

        This needs no lock: after a failover another host may have taken it, which has sent nothing of what is missing.
        """
        if self._acknowledged is None:
            return
        with connection.transaction():
            schema.fence(connection)
            self._archive_id = gaps.archive_id(connection)
            row = connection.execute(
                "SELECT generation, last_event_id, moves FROM bots WHERE bot_id = %s", (self._bot_id,)
            ).fetchone()
            stored = gaps.Position(*(row or (1, 0, 0)))
            found = gaps.detect(connection, self._bot_id, self._archive_id, stored, self._acknowledged)
        self._acknowledged.forget_unsaved()
        sent = self._acknowledged.position(self._archive_id)
        if sent is not None and sent.lost_by(stored):
            self._acknowledged.remember(self._archive_id, stored)
        for each in found:
            log.error(
                "events of bot %s up to %s are missing from the archive: %s; see `vkteamsctl database gaps`",
                self._bot_id, each.to_event_id, each.reason,
            )  # fmt: skip

    def _known_threads(self, connection: Connection) -> set[str]:
        if not self._chat_filter.chat_ids:
            return set()
        rows = connection.execute(
            "SELECT chat_id FROM chats WHERE parent_chat_id = ANY(%s)", (list(self._chat_filter.chat_ids),)
        ).fetchall()
        return {row[0] for row in rows}

    def _filter(self, connection: Connection, batch: Sequence[Event]) -> list[Event]:
        """The events that the chat filter keeps. Another bot's process may have learned meanwhile of a thread."""
        events = self._chat_filter.apply(batch)
        if len(events) == len(batch):
            return events
        rows = connection.execute(
            "SELECT chat_id FROM chats WHERE chat_id = ANY(%s) AND parent_chat_id = ANY(%s)",
            (list({event.chat_id for event in batch if event.chat_id}), list(self._chat_filter.chat_ids)),
        ).fetchall()
        self._chat_filter.threads.update(row[0] for row in rows)
        return self._chat_filter.apply(batch)

    def _commit(
        self,
        connection: Connection,
        batch: Sequence[Event],
        before: Cursor,
        insert: Callable[[Connection, Sequence[GenerationEvent], Sequence[Event]], tuple[int, int]],
        limit: int | None,
    ) -> tuple[Cursor, StoreResult]:
        """Commit a batch in one transaction; returns the new cursor and the result.

        `insert` writes events, as `_insert` does.
        """
        events = self._filter(connection, batch)
        with connection.transaction():
            self._fence(connection, before)
            new, proof = self._classify(connection, events, before)
            restarted = proof is not None
            late = [event for event in new if event.numbered and event.event_id <= before.last_event_id]
            generations = {}
            if proof is not None:
                # Events that precede the restart and continue from the cursor have old ids.
                preceding = batch[: id_restart.restart_index(batch, proof)]
                pre_restart = [event for event in preceding if event.event_id > before.last_event_id]
                generations = {id(event): before.generation for event in pre_restart}
            rows = [(generations.get(id(event), before.generation + restarted), event) for event in new]
            # Write them in the order of their ids, as replay does, and not in the order of the API's answer.
            rows.sort(key=lambda row: (row[0], row[1].event_id))
            part: Sequence[GenerationEvent] = rows
            reordered: Sequence[Event] = ()
            if limit is not None:
                first_late = late[0] if late and not restarted else None
                part = batch_part.first_part(rows, limit, last=first_late)
                if any(row[1] is first_late for row in part):
                    reordered = sorted(events, key=attrgetter("event_id"))
            quarantined, queued = insert(connection, part, reordered) if part else (0, 0)
            if len(part) < len(rows):
                return before, StoreResult(
                    saved=len(part), quarantined=quarantined, queued=queued, restarted=restarted, partial=True
                )
            after = _next_cursor(before, batch, events, restarted=restarted, late=bool(late))
            if after != before:
                after = replace(after, moves=before.moves + 1)
                self._move_cursor(connection, before, after)
        if restarted:
            self._pre_restart = {event.event_id: event for event in pre_restart}
        return after, StoreResult(
            saved=len(rows),
            duplicate=len(events) - len(rows),
            filtered=len(batch) - len(events),
            quarantined=quarantined,
            late=0 if restarted else len(late),
            queued=queued,
            moved=after != before,
            restarted=restarted,
        )

    def _classify(
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

    def _insert(
        self,
        connection: Connection,
        rows: Sequence[GenerationEvent],
        reordered: Sequence[Event] = (),
        *,
        expect_new: bool,
    ) -> tuple[int, int]:
        """Insert events and what follows from them.

        Args:
            connection: in a transaction.
            rows: the events.
            reordered: if one of them comes later than its id says, all events of its batch in their order. The newest
                event decides on names and members.
            expect_new: see `projection.Projection`.

        Returns:
            How many events were quarantined, and how many texts are new.
        """
        copy = len(rows) >= COPY_THRESHOLD
        projected = projection.Projection(erase=self.erase, lexicon=self._lexicon, expect_new=expect_new)
        quarantined = 0

        def project_and_yield() -> Iterator[GenerationEvent]:
            # The server takes in the events that were sent, while this adds their facts to the projection.
            nonlocal quarantined
            for row in rows:
                event = row[1]
                if event.error is None:
                    projected.add(event.facts, event.received_at)
                else:
                    quarantined += 1
                yield row
            for event in reordered:
                projected.add_people(event.facts, event.received_at)

        # A small batch goes in a pipeline, to save round trips. COPY is not possible in a pipeline.
        with contextlib.nullcontext() if copy else connection.pipeline():
            event_rows.insert(connection, self._bot_id, project_and_yield(), copy)
            queued = projected.save(connection, copy=copy)
        return quarantined, queued

    def _insert_or_quarantine(
        self, connection: Connection, rows: Sequence[GenerationEvent], reordered: Sequence[Event] = ()
    ) -> tuple[int, int]:
        """Insert a batch with something that cannot be written; the culprits are quarantined.

        `reordered` is left out, because it may hold the culprits.
        """

        def insert(part: Sequence[GenerationEvent]) -> tuple[int, int]:
            return self._insert(connection, part, expect_new=False)

        def quarantine(row: GenerationEvent, reason: str) -> tuple[int, int]:
            return insert([(row[0], event_rows.as_quarantined(row[1], reason))])

        probed: set[str | None] = set()

        def insert_probe(row: GenerationEvent) -> None:
            if row[1].type not in probed:
                for event in probe.events_like(row[1].type):
                    insert([(row[0], event)])
                probed.add(row[1].type)

        # Lock all chats at once. If each part locked its own, two bots could wait for each other.
        chats = {event.facts.message.chat_id for _, event in rows if event.facts.message}
        projection.lock_chats(connection, {*chats, probe.CHAT})
        counts = refused_rows.insert_or_quarantine(connection, rows, insert, quarantine, insert_probe)
        return sum(quarantined for quarantined, _ in counts), sum(queued for _, queued in counts)

    def _fence(self, connection: Connection, before: Cursor) -> None:
        schema.fence(connection)
        row = connection.execute(
            "SELECT generation, last_event_id, epoch, moves FROM bots WHERE bot_id = %s FOR UPDATE", (self._bot_id,)
        ).fetchone()
        if row is None or Cursor(*row) != before:
            raise FenceLost("another process has taken over this bot")

    def _move_cursor(self, connection: Connection, before: Cursor, after: Cursor) -> None:
        moved = connection.execute(
            "UPDATE bots SET generation = %s, last_event_id = %s, moves = %s, updated_at = now()"
            " WHERE bot_id = %s AND generation = %s AND last_event_id = %s AND epoch = %s",
            (
                after.generation,
                after.last_event_id,
                after.moves,
                self._bot_id,
                before.generation,
                before.last_event_id,
                before.epoch,
            ),
        )
        if moved.rowcount != 1:
            raise FenceLost("another process has taken over this bot")


def _with_free_key(event: Event, taken: set[int]) -> Event:
    return replace(event, event_id=event_rows.hash_key(event)) if event.event_id in taken else event


def _next_cursor(
    before: Cursor, batch: Sequence[Event], events: Sequence[Event], *, restarted: bool, late: bool
) -> Cursor:
    """The cursor after this batch, of which the chat filter has left `events`."""
    if restarted:
        return replace(before, generation=before.generation + 1, last_event_id=id_restart.safe_cursor(batch))
    if not late and len(events) < len(batch):
        unfiltered = set(map(id, events))
        late = any(e.numbered and e.event_id <= before.last_event_id for e in batch if id(e) not in unfiltered)
    if late:
        # The API has forgotten acknowledged events. So ids below the cursor suggest a restart that we have not
        # detected, because no new id has met a stored one yet. Do not resend the old cursor: it would acknowledge
        # undelivered events.
        return replace(before, last_event_id=id_restart.safe_cursor(batch))
    return replace(before, last_event_id=max([before.last_event_id, *(e.event_id for e in batch if e.numbered)]))
