"""The projection of a set of events: messages, versions, chats, users and members, written with set-based statements.

The writer uses it for events that have just arrived, and replay for stored events; both are in a transaction.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.botapi.facts import MessageFact
from vkteams_daemon.store import distribution
from vkteams_daemon.store.bulk import COPY_THRESHOLD
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.derive import message_rows
from vkteams_daemon.store.derive.chat_locks import lock_chats
from vkteams_daemon.store.derive.message_fold import fold_all, is_original, new_message, versions_needed_since
from vkteams_daemon.store.derive.message_rows import Key
from vkteams_daemon.store.derive.people import People
from vkteams_daemon.store.derive.search_terms import SearchTerms
from vkteams_daemon.store.words.lexicon import Lexicon


class Projection:
    """Collects the facts of a batch event by event, then saves the rows that follow from them.

    Args:
        erase: whether a deletion erases the text (`[storage] on_delete`).
        lexicon: the lexemes that are known already; None for a new lexicon.
        expect_new: whether to insert original messages without looking for stored ones. If one is stored, the database
            refuses the batch.
        held: the chats in which nothing is erased.
    """

    def __init__(
        self,
        *,
        erase: bool,
        lexicon: Lexicon | None = None,
        expect_new: bool = False,
        held: Collection[str] = frozenset(),
    ) -> None:
        self._erase = erase
        self._held = held
        self._expect_new = expect_new
        self._facts: dict[Key, list[MessageFact]] = {}
        self._mentioned: set[Key] = set()  # what other events may be about
        self._people = People()
        self._search_terms = SearchTerms(lexicon or Lexicon())

    def add(self, event: Event) -> None:
        """Add the next event."""
        if event.error is None:
            self.add_people(event)
        if (fact := event.facts.message) is None:
            if event.chat_id and event.subject and self._erases((event.chat_id, event.subject)):
                self._mentioned.add((event.chat_id, event.subject))
        else:
            self._facts.setdefault((fact.chat_id, fact.msg_id), []).append(fact)
            if fact.content is not None:
                self._search_terms.add(fact.content)

    def add_people(self, event: Event) -> None:
        """Add only what the next event says about chats, users and members."""
        self._people.add(event.facts, event.received_at)

    def save(self, connection: Connection, *, copy: bool) -> int:
        """Save the rows, in a transaction; returns how many messages have a new text to embed.

        Args:
            connection: in pipeline mode unless `copy`.
            copy: whether to insert many new messages with COPY.
        """
        if self._facts or self._mentioned:
            lock_chats(connection, {chat_id for chat_id, _ in (*self._facts, *self._mentioned)})
        self._people.save(connection)
        expect_new = self._expect_new
        if expect_new and len(self._facts) < COPY_THRESHOLD:
            # Of a small batch, a machine of a Citus cluster would refuse the row with an error that tells nothing.
            expect_new = not distribution.is_distributed(connection)
        originals = [key for key, facts in self._facts.items() if is_original(facts[0])] if expect_new else []
        keys = self._facts.keys() - originals
        stored = message_rows.load_messages(connection, keys, self._since) if keys else {}
        new = [facts for key, facts in self._facts.items() if key not in stored]
        queued = message_rows.save_messages(
            connection,
            [fold_all(message, self._facts[key], erase=self._erases(key)) for key, message in stored.items()],
            (fold_all(message := new_message(facts[0]), facts, erase=self._erases(message.key)) for facts in new),
            self._search_terms,
            erase=self._erase,
            held=self._held,
            copy=copy and len(new) >= COPY_THRESHOLD,
            unseen=expect_new,
        )
        if self._mentioned:
            message_rows.erase_mentions(connection, self._mentioned)
        return queued

    def _since(self, key: Key) -> datetime:
        return min(versions_needed_since(fact, erase=self._erases(key)) for fact in self._facts[key])

    def _erases(self, key: Key) -> bool:
        return self._erase and key[0] not in self._held
