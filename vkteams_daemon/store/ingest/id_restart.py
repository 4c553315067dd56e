"""What the order of an answer's ids tells where a server may have started them over."""

from __future__ import annotations

from collections.abc import Sequence

from vkteams_daemon.botapi.events import Event


def restart_index(batch: Sequence[Event], colliding: Event) -> int:
    """The place from which on an answer has new ids, if this event, the first whose id is another's, shows that it has.

    Two ascending runs are the end of the old ids and the beginning of the new ones. Any other order tells nothing, and
    all of the answer counts as new.
    """
    runs = _run_starts(batch)
    place = next(place for place, event in enumerate(batch) if event is colliding)
    return runs[1] if len(runs) == 2 and place >= runs[1] else 0


def safe_cursor(batch: Sequence[Event]) -> int:
    """The highest id that can be acknowledged although the ids may have been started over; 0 without one.

    It is that of the last ascending run. What is acknowledged too low comes again and is known; what is acknowledged
    too high, and was never delivered, is lost.
    """
    return max((event.event_id for event in batch[_run_starts(batch)[-1] :] if event.numbered), default=0)


def is_ascending(batch: Sequence[Event]) -> bool:
    """Whether no id is below one that stands before it."""
    return len(_run_starts(batch)) == 1


def _run_starts(batch: Sequence[Event]) -> list[int]:
    """The places where a run of ascending ids begins."""
    starts, last = [0], 0
    for place, event in enumerate(batch):
        if event.numbered:
            if event.event_id < last:
                starts.append(place)
            last = event.event_id
    return starts
