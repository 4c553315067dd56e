"""A batch that is not committed yet. It is stored in one transaction, or in parts if that takes too long."""

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
    """

    events: list[Event]
    generation: int
    arrived: float
    part_size: int | None = None

    @property
    def last_event_id(self) -> int:
        """The highest id of these events that the API has given; 0 without one."""
        return max((event.event_id for event in self.events if event.numbered), default=0)

    def first_part(self) -> PendingBatch:
        """The events of the next transaction; the ids of all later events are higher."""
        # If the ids do not ascend, only the whole answer shows where they have started over. So it is never split.
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
        return replace(self, part_size=max(MIN_PART, len(self.first_part().events) // 2))

    def after(self, part: PendingBatch) -> PendingBatch | None:
        """The events that remain when this first part is stored; None if there are none."""
        events = self.events[len(part.events) :]
        return replace(self, events=events) if events else None
