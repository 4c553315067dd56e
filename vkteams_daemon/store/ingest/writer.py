"""The writer commits each batch in one transaction: its events, their projection and the cursor.

The writer owns one direct connection. The connection holds the bot's session advisory lock, so that one process listens
to one bot. Every take-over raises the bot's epoch, so that a former holder that wakes up late cannot commit. Only the
`cursor` after a successful `store` or `acquire` may be sent to the API as lastEventId.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import attrgetter
from typing import Any

from psycopg.errors import UniqueViolation

from vkteams_daemon.botapi.chat_filter import ChatFilter
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.errors import FenceLost
from vkteams_daemon.store import distribution, gaps, schema
from vkteams_daemon.store.blockers import PATIENCE
from vkteams_daemon.store.bulk import CopyRefused
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.ingest import batch_part, event_cursor, refused_rows
from vkteams_daemon.store.ingest.classification import Classifier
from vkteams_daemon.store.ingest.event_cursor import Cursor
from vkteams_daemon.store.ingest.event_rows import GenerationEvent
from vkteams_daemon.store.ingest.insertion import EventInserter, Inserted
from vkteams_daemon.store.ingest.session import Session

log = logging.getLogger(__name__)


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
        self._classifier = Classifier(bot_id)
        self._inserter = EventInserter(bot_id)
        self._cursor: Cursor | None = None
        self._acknowledged = acknowledged
        self._archive_id = ""
        self.last_arrival: datetime | None = None

    @property
    def erase(self) -> bool:
        """Whether a deletion erases the text, as `[storage] on_delete` says."""
        return self._inserter.erase

    @erase.setter
    def erase(self, erase: bool) -> None:
        self._inserter.erase = erase

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
            distribution.settle(connection)  # else the cursor could cover events that are not visible yet
            cursor = event_cursor.take_over(connection, self._bot_id, self._nick)
            self._chat_filter.threads = self._known_threads(connection)
            self._classifier.take_over(connection, cursor)
            self.last_arrival = event_cursor.last_arrival(connection, self._bot_id)
            self._look_for_gaps(connection)
            self._cursor = cursor
            return True

    def note_gaps(self) -> None:
        """Store the gaps that this host knows of, as a take-over does.

        Raises:
            DatabaseUnavailable: the connection broke; what was not stored stays known.
        """
        with self._session.exclusive(reconnect=False) as connection:
            self._look_for_gaps(connection)

    def before_poll(self, cursor: Cursor) -> None:
        """Remember a cursor outside the database. The poll loop calls this before it sends the cursor."""
        if self._acknowledged is not None:
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
                after, result = self._commit(connection, batch, before, self._inserter.insert, limit)
            except Exception as error:
                if not refused_rows.is_refusal(error):
                    raise
                if isinstance(error, UniqueViolation | CopyRefused):
                    self._inserter.expect_new = False
                # Savepoints cost time and refusals are rare, so the first attempt has none and this one has them.
                after, result = self._commit(connection, batch, before, self._inserter.insert_or_quarantine, limit)
            self._cursor = after
            return result

    def store_late(self, batch: Sequence[Event], generation: int, limit: int | None = None) -> StoreResult:
        """Commit events that were acknowledged already as late events of a generation; the cursor stays.

        An event that this generation or a later one has is a duplicate. An event whose id is stored with another event
        gets a hash key.

        Args:
            batch: the events, in the order of the API's answer.
            generation: the one that they were polled under.
            limit: as of `store`.

        Raises:
            FenceLost, DatabaseUnavailable, StoreError: as `store`.
        """
        before = self._cursor
        if before is None:
            raise FenceLost("the bot's lock is not held")
        with self._session.exclusive(reconnect=False) as connection:
            events = self._filter(connection, batch)
            with event_cursor.transaction(connection, self._bot_id, before) as rules_version:
                self._inserter.follow(connection, rules_version)
                last_generation = max(generation, before.generation)
                rows = self._classifier.classify_late(connection, events, generation, last_generation)
                part = rows[:limit]
                inserted = Inserted()
                if part:
                    inserted = self._inserter.insert_or_quarantine(connection, part)
                    event_cursor.check_changes(
                        event_cursor.send_changes(connection, self._bot_id, before, before, len(part))
                    )
            self._classifier.stored([event for _, event in part])
        stored = StoreResult(
            saved=len(part), late=len(part), quarantined=inserted.quarantined, queued=inserted.queued,
            partial=len(part) < len(rows),
        )  # fmt: skip
        if stored.partial:
            return stored
        return replace(stored, duplicate=len(events) - len(rows), filtered=len(batch) - len(events))

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
        # A standby looks again and again. What has been told is told: otherwise the same loss would be another gap.
        sent = self._acknowledged.position(self._archive_id)
        if sent is not None and sent.lost_by(stored):
            self._acknowledged.remember(self._archive_id, stored)
        for each in found:
            log.error(
                "events of bot %s%s are missing from the archive: %s; see `vkteamsctl database gaps`",
                self._bot_id, gaps.id_span(each), each.reason,
            )  # fmt: skip

    def _known_threads(self, connection: Connection) -> set[str]:
        if not self._chat_filter.chat_ids:
            return set()
        rows = connection.execute(
            "SELECT chat_id, parent_chat_id FROM chats WHERE parent_chat_id IS NOT NULL"
        ).fetchall()
        return {chat_id for chat_id, parent in rows if self._chat_filter.chooses(parent)}

    def _filter(self, connection: Connection, batch: Sequence[Event]) -> list[Event]:
        """The events that the chat filter keeps. Another bot's process may have learned meanwhile of a thread."""
        events = self._chat_filter.apply(batch)
        if len(events) == len(batch):
            return events
        rows = connection.execute(
            "SELECT chat_id, parent_chat_id FROM chats WHERE chat_id = ANY(%s) AND parent_chat_id IS NOT NULL",
            (list({event.chat_id for event in batch if event.chat_id}),),
        ).fetchall()
        self._chat_filter.threads.update(chat_id for chat_id, parent in rows if self._chat_filter.chooses(parent))
        return self._chat_filter.apply(batch)

    def _commit(
        self,
        connection: Connection,
        batch: Sequence[Event],
        before: Cursor,
        insert: Callable[..., Inserted],
        limit: int | None,
    ) -> tuple[Cursor, StoreResult]:
        """Commit a batch in one transaction; returns the new cursor and the result.

        `insert` writes events, as `EventInserter.insert` does.
        """
        events = self._filter(connection, batch)
        after = before
        with event_cursor.transaction(connection, self._bot_id, before) as rules_version:
            self._inserter.follow(connection, rules_version)
            new = self._classifier.classify(connection, batch, events, before)
            part: Sequence[GenerationEvent] = new.rows
            reordered: Sequence[Event] = ()
            if limit is not None:
                first_late = new.late[0] if new.late and not new.restarted else None
                part = batch_part.first_part(new.rows, limit, last=first_late)
                if any(row[1] is first_late for row in part):
                    reordered = sorted(events, key=attrgetter("event_id"))
            partial = len(part) < len(new.rows)
            if not partial:
                after = event_cursor.after_batch(before, batch, events, restarted=new.restarted, late=bool(new.late))
            changes: list[Any] = []

            def send_changes() -> None:
                changes.append(event_cursor.send_changes(connection, self._bot_id, before, after, len(part)))

            if part:
                inserted = insert(connection, part, reordered, and_then=send_changes)
            else:
                inserted = Inserted()
                if after != before:
                    send_changes()
            for sent in changes:
                event_cursor.check_changes(sent)
            if new.restarted and not partial:
                arrival = min(event.received_at for event in batch)
                gaps.add_restart(connection, self._bot_id, before.last_event_id, arrival)
        self._classifier.committed(batch, new, partial=partial)
        result = StoreResult(
            saved=len(part),
            quarantined=inserted.quarantined,
            queued=inserted.queued,
            restarted=new.restarted,
            partial=partial,
        )
        if partial:
            return before, result
        return after, replace(
            result,
            duplicate=len(events) - len(new.rows),
            filtered=len(batch) - len(events),
            late=0 if new.restarted else len(new.late),
            moved=after != before,
        )
