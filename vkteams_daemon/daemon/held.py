"""An answer of the API on its way into the database: in one transaction, or in parts where that takes too long."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.store import numbering

FEWEST = 500  # events; a database that has not taken so many in time would not have taken fewer, either


@dataclass(frozen=True, slots=True)
class Held:
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

    def part(self) -> Held:
        """What goes into the next transaction: the first events, which no later one precedes in the order of ids."""
        # In any other order the answer as a whole tells where ids have started over.
        if self.most is None or not numbering.ascending(self.events):
            return self
        return replace(self, events=self.events[: self.most])

    def halved(self) -> Held:
        """The same, half as many at a time."""
        return replace(self, most=max(FEWEST, len(self.part().events) // 2))

    def after(self, part: Held) -> Held | None:
        """What is left when this part is stored."""
        rest = self.events[len(part.events) :]
        return replace(self, events=rest) if rest else None
