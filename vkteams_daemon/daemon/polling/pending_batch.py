"""A batch that is not committed yet. It is stored in one transaction, or in parts if that takes too long.

A batch whose ids ascend is cut into batches, each with the cursor that covers it. What cannot be cut goes to the writer
as a whole, with a limit for one transaction: if the ids do not ascend, only the whole batch shows what they mean, and
events of one id, or without a usable id, are covered by one cursor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.store.ingest import id_restart

MIN_PART = 10  # events; without a limit, an hour of a hanging database would end in one transaction per event


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """Events that are not committed yet.

    Attributes:
        events: in the order of the answer.
        generation: the generation that they were polled under.
        arrived: time of arrival (monotonic).
        part_size: the number of events in one transaction; None for all.
        saved: events of this batch that earlier transactions have saved without moving the cursor.
    """

    events: list[Event]
    generation: int
    arrived: float
    part_size: int | None = None
    saved: int = 0

    @property
    def limit(self) -> int | None:
        """The most events that one transaction may store, if there are more; None if all may."""
        return self.part_size if len(self.events) > (self.part_size or len(self.events)) else None

    @property
    def last_event_id(self) -> int:
        """The highest id of these events that the API has given; 0 without one."""
        return max((event.event_id for event in self.events if event.numbered), default=0)

    def first_part(self) -> PendingBatch:
        """The events of the next transaction; the ids of all later events are higher."""
        if self.part_size is None or not id_restart.is_ascending(self.events):
            return self
        end = self.part_size
        last_id = max((event.event_id for event in self.events[:end] if event.numbered), default=0)
        # Two events may have the same id, and the cursor that covers the first one covers the second one too.
        while end < len(self.events) and self.events[end].event_id <= last_id:
            end += 1
        return self if end >= len(self.events) else replace(self, events=self.events[:end])

    def halved(self) -> PendingBatch:
        """The same events, with half as many in each transaction."""
        return replace(self, part_size=max(MIN_PART, self.transaction_size // 2))

    @property
    def transaction_size(self) -> int:
        """The most events that the next transaction stores."""
        part = self.first_part()
        return part.limit or len(part.events)

    def after(self, part: PendingBatch) -> PendingBatch | None:
        """The events that remain when this first part is stored; None if there are none."""
        events = self.events[len(part.events) :]
        return replace(self, events=events, saved=0) if events else None

    def with_saved(self, count: int) -> PendingBatch:
        """The same events, of which one more transaction has saved so many."""
        return replace(self, saved=self.saved + count)
