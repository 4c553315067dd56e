"""The writer: one poll's batch becomes one transaction that holds its events, what they say, and the cursor.

The writer owns one direct connection. It holds the bot's session advisory lock, so that one process listens to one bot,
and the bot's epoch, raised at each take-over, so that a holder that wakes up late cannot commit. Only `cursor` after a
successful `store` or `acquire` may be sent to the API as lastEventId.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace

from psycopg.errors import UniqueViolation

from vkteams_daemon.botapi.chat_filter import ChatFilter
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.errors import FenceLost
from vkteams_daemon.store.bulk import COPY_THRESHOLD
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive import projection
from vkteams_daemon.store.ingest import event_rows, id_restart, refused_rows
from vkteams_daemon.store.ingest.event_rows import Keyed
from vkteams_daemon.store.ingest.session import Session


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a bot stands: what is at or below `last_event_id` of this generation is stored."""

    generation: int
    last_event_id: int
    epoch: int


@dataclass(frozen=True, slots=True)
class StoreResult:
    """What became of one batch; `queued` is how many messages have a new text to embed."""

    saved: int = 0
    duplicate: int = 0
    filtered: int = 0
    quarantined: int = 0
    late: int = 0
    queued: int = 0
    moved: bool = False
    restarted: bool = False


class Writer:
    """Writes one bot's events. `store`, `acquire` and `close` belong to one thread; `ping` and `abort` to any.

    Args:
        connect: opens the writer's own connection.
        bot_id: whose events these are.
        nick: the bot's nick, for the `bots` table.
        chat_ids: keep only these chats and their threads; empty keeps everything.
        write_timeout: seconds after which a stuck transaction is abandoned.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        bot_id: str,
        *,
        nick: str | None = None,
        chat_ids: Sequence[str] = (),
        write_timeout: float = 30.0,
    ) -> None:
        self._session = Session(connect, write_timeout)
        self._bot_id = bot_id
        self._nick = nick
        self._chat_filter = ChatFilter(chat_ids)
        self._highest = 0
        self._pre_restart: dict[int, Event] = {}
        # While no other bot is known to hear the same chats, what has just been said is taken for new.
        self._alone = True
        self._cursor: Cursor | None = None
        self.erase = False

    @property
    def cursor(self) -> Cursor | None:
        """Where the bot stands, while its lock is held; None otherwise."""
        return self._cursor if self._session.open else None

    @property
    def holds_lock(self) -> bool:
        """Whether the last that is known of the connection is that it holds the bot's lock."""
        return self.cursor is not None

    def acquire(self) -> bool:
        """Connect where needed, try to take the bot's lock, raise the epoch and read the cursor.

        Returns:
            False while another process listens to this bot.
        """
        self._cursor = None
        with self._session.exclusive() as connection:
            if not self._session.lock(connection, self._bot_id):
                return False
            with connection.transaction():
                taken = connection.execute(
                    "INSERT INTO bots AS b (bot_id, nick, epoch) VALUES (%s, %s, 1) ON CONFLICT (bot_id) DO UPDATE"
                    " SET epoch = b.epoch + 1, nick = coalesce(excluded.nick, b.nick), updated_at = now()"
                    " RETURNING generation, last_event_id, epoch",
                    (self._bot_id, self._nick),
                ).fetchone()
            assert taken is not None
            cursor = Cursor(*taken)
            self._chat_filter.threads = self._known_threads(connection)
            # A cursor that was set back by hand has stored events above it.
            self._highest = max(cursor.last_event_id, event_rows.highest(connection, self._bot_id, cursor.generation))
            self._cursor = cursor
            return True

    def store(self, batch: Sequence[Event]) -> StoreResult:
        """Commit one batch and the cursor that covers it, in one transaction.

        Raises:
            FenceLost: another holder has moved the cursor or raised the epoch; nothing was committed.
            DatabaseUnavailable: the connection broke; whether it committed is unknown until `acquire` reads the cursor.
            StoreError: the database refuses for a reason that does not lie in the events; nothing was committed.
        """
        before = self._cursor
        if before is None:
            raise FenceLost("the bot's lock is not held")
        with self._session.exclusive(reconnect=False) as connection:
            try:
                insert = functools.partial(self._insert, expect_new=self._alone)
                after, outcome = self._commit(connection, batch, before, insert)
            except Exception as error:
                if not refused_rows.is_refusal(error):
                    raise
                self._alone = self._alone and not isinstance(error, UniqueViolation)
                # Now with savepoints: they cost something, and data is refused once in a blue moon.
                after, outcome = self._commit(connection, batch, before, self._insert_healthy)
            # The cursor may stand below what was stored.
            self._highest = max([0 if outcome.restarted else self._highest, *(event.event_id for event in batch)])
            self._cursor = after
            return outcome

    def ping(self) -> None:
        """Keep the session alive; a no-op while a transaction is under way.

        Raises:
            DatabaseUnavailable: the connection is gone, and with it the lock.
        """
        self._session.ping()

    def abort(self) -> None:
        """End whatever the connection waits for, from any thread; its caller gets DatabaseUnavailable."""
        self._session.abort()

    def close(self) -> None:
        """Close the connection; the lock goes with it."""
        self._session.close()

    def _known_threads(self, connection: Connection) -> set[str]:
        if not self._chat_filter.chat_ids:
            return set()
        rows = connection.execute(
            "SELECT chat_id FROM chats WHERE parent_chat_id = ANY(%s)", (list(self._chat_filter.chat_ids),)
        ).fetchall()
        return {row[0] for row in rows}

    def _commit(
        self,
        connection: Connection,
        batch: Sequence[Event],
        before: Cursor,
        insert: Callable[[Connection, Sequence[Keyed]], tuple[int, int]],
    ) -> tuple[Cursor, StoreResult]:
        """One transaction; `insert` writes events and returns how many were quarantined and how many texts are new."""
        kept = self._chat_filter.apply(batch)
        with connection.transaction():
            self._fence(connection, before)
            new, colliding = self._classify(connection, kept, before)
            late = [event for event in new if event.numbered and event.event_id <= before.last_event_id]
            generations = {}
            if colliding:
                # What goes on from the cursor, before the place where the ids start over, is of the old ones.
                old = batch[: id_restart.restart_index(batch, colliding[0])]
                carried = [event for event in old if event.event_id > before.last_event_id]
                generations = {id(event): before.generation for event in carried}
            current = before.generation + bool(colliding)
            keyed = [(generations.get(id(event), current), event) for event in new + colliding]
            # In the order of their ids, however the API has arranged them: replay goes by it too.
            keyed.sort(key=lambda item: (item[0], item[1].event_id))
            bad, queued = insert(connection, keyed) if keyed else (0, 0)
            after = _advanced(before, batch, kept, restarted=bool(colliding), late=bool(late))
            if after != before:
                self._move(connection, before, after)
        if colliding:
            self._pre_restart = {event.event_id: event for event in carried}
        saved = len(new) + len(colliding)
        return after, StoreResult(
            saved=saved,
            duplicate=len(kept) - saved,
            filtered=len(batch) - len(kept),
            quarantined=bad,
            late=0 if colliding else len(late),
            queued=queued,
            moved=after != before,
            restarted=bool(colliding),
        )

    def _classify(self, connection: Connection, kept: list[Event], before: Cursor) -> tuple[list[Event], list[Event]]:
        """The events that are not stored yet, and those whose ids are other events': so the ids have started over."""
        where = connection, self._bot_id, before.generation
        distinct, ids = event_rows.distinct(kept)
        # Above the highest that was ever stored there is nothing: the fence sees to that.
        known = event_rows.stored(*where, [event.event_id for event in distinct if event.event_id <= self._highest])

        def is_known(event: Event) -> bool:
            # One that shares its id with another of this answer may have come first the last time, and have it.
            stored = known.get(ids.get(event.event_id, 0))
            return event.event_id in known or (stored is not None and stored.is_of(event))

        new = [event for event in distinct if not is_known(event)]
        # What stood before the place where the ids started over may come once more, as it was.
        new = [e for e in new if (old := self._pre_restart.get(e.event_id)) is None or not event_rows.same(old, e)]
        others = [e for e in distinct if e.event_id in known and e.numbered and not known[e.event_id].is_of(e)]
        if not others:
            return new, []
        # It may have shared its id with another event when it came first, and have been given a key of its own.
        twins = event_rows.stored(*where, [event_rows.own_key(event) for event in others])
        others = [event for event in others if event_rows.own_key(event) not in twins]
        if all(known[event.event_id].quarantined for event in others):
            # What could not be read is no proof of anything.
            return new + [replace(event, event_id=event_rows.own_key(event)) for event in others], []
        return new, others

    def _insert(self, connection: Connection, batch: Sequence[Keyed], *, expect_new: bool) -> tuple[int, int]:
        copy = len(batch) >= COPY_THRESHOLD
        derivation = projection.Projection(erase=self.erase, expect_new=expect_new)
        bad = 0

        def adding() -> Iterator[Keyed]:
            # What the events say is gathered while the server takes in those that were sent before.
            nonlocal bad
            for item in batch:
                if item[1].error is None:
                    derivation.add(item[1].facts, item[1].received_at)
                else:
                    bad += 1
                yield item

        # Few round trips for a small batch; a pipeline does not take COPY.
        with contextlib.nullcontext() if copy else connection.pipeline():
            event_rows.insert(connection, self._bot_id, adding(), copy)
            queued = derivation.save(connection, copy=copy)
        return bad, queued

    def _insert_healthy(self, connection: Connection, batch: Sequence[Keyed]) -> tuple[int, int]:
        """Insert a batch of which something cannot be written; that is quarantined."""

        def insert(part: Sequence[Keyed]) -> tuple[int, int]:
            return self._insert(connection, part, expect_new=False)

        def quarantine(item: Keyed, reason: str) -> tuple[int, int]:
            return insert([(item[0], event_rows.quarantined(item[1], reason))])

        # All chats at once: part by part, two bots could wait for each other.
        projection.lock_chats(connection, {event.facts.message.chat_id for _, event in batch if event.facts.message})
        written = refused_rows.insert_or_quarantine(connection, batch, insert, quarantine)
        return sum(bad for bad, _ in written), sum(queued for _, queued in written)

    def _fence(self, connection: Connection, before: Cursor) -> None:
        row = connection.execute(
            "SELECT generation, last_event_id, epoch FROM bots WHERE bot_id = %s FOR UPDATE", (self._bot_id,)
        ).fetchone()
        if row is None or Cursor(*row) != before:
            raise FenceLost("another process has taken over this bot")

    def _move(self, connection: Connection, before: Cursor, after: Cursor) -> None:
        moved = connection.execute(
            "UPDATE bots SET generation = %s, last_event_id = %s, updated_at = now()"
            " WHERE bot_id = %s AND generation = %s AND last_event_id = %s AND epoch = %s",
            (after.generation, after.last_event_id, self._bot_id, *astuple(before)),
        )
        if moved.rowcount != 1:
            raise FenceLost("another process has taken over this bot")


def _advanced(before: Cursor, batch: Sequence[Event], kept: Sequence[Event], *, restarted: bool, late: bool) -> Cursor:
    """Where the cursor stands after this answer, of which `kept` was not filtered out."""
    if restarted:
        return Cursor(before.generation + 1, id_restart.safe_cursor(batch), before.epoch)
    if not late and len(kept) < len(batch):
        there = set(map(id, kept))
        late = any(e.numbered and e.event_id <= before.last_event_id for e in batch if id(e) not in there)
    if late:
        # What was acknowledged is gone from the API. If it has something below that, its ids may have started over and
        # have met none of ours yet: to acknowledge the old number again could cost what it has not delivered.
        return replace(before, last_event_id=id_restart.safe_cursor(batch))
    return replace(before, last_event_id=max([before.last_event_id, *(e.event_id for e in batch if e.numbered)]))
