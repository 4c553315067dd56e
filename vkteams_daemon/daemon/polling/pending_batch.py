"""An answer of the API on its way into the database: in one transaction, or in parts where that takes too long."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.store.ingest import id_restart

FEWEST = 10  # events in a part; after an hour of a hanging database there must not be a transaction for each


@dataclass(frozen=True, slots=True)
class PendingBatch:
    """Events that are not committed yet.

    Attributes:
        events: in the order of the answer.
        generation: the one they were polled under.
        arrived: when they came (monotonic).
        most: how many go into one transaction at most; None for all.
    """

    events: list[Event]
    generation: int
    arrived: float
    most: int | None = None

    def part(self) -> PendingBatch:
        """What goes into the next transaction: the first events, which no later one precedes in the order of ids."""
        # In any other order the answer as a whole tells where ids have started over.
        if self.most is None or not id_restart.is_ascending(self.events):
            return self
        end = self.most
        last = max((event.event_id for event in self.events[:end] if event.numbered), default=0)
        # Two events may have one id, and the cursor that covers the first one covers both.
        while end < len(self.events) and self.events[end].event_id <= last:
            end += 1
        return self if end >= len(self.events) else replace(self, events=self.events[:end])

    def halved(self) -> PendingBatch:
        """The same, half as many at a time."""
        return replace(self, most=max(FEWEST, len(self.part().events) // 2))

    def after(self, part: PendingBatch) -> PendingBatch | None:
        """What is left when this part is stored."""
        rest = self.events[len(part.events) :]
        return replace(self, events=rest) if rest else None
