"""Rules for a server that may have started its event ids over, from the order of the ids in one batch."""

from __future__ import annotations

from collections.abc import Sequence

from vkteams_daemon.botapi.events import Event


def restart_index(batch: Sequence[Event], collision: Event) -> int:
    """The index of the first event with a new id.

    Two ascending runs are the end of the old ids and the beginning of the new ids. Any other order proves nothing, and
    then the whole batch counts as new.

    Args:
        batch: the events in the order of the API's answer.
        collision: the first event of the batch whose id is stored with another event.
    """
    starts = _run_starts(batch)
    index = next(index for index, event in enumerate(batch) if event is collision)
    return starts[1] if len(starts) == 2 and index >= starts[1] else 0


def safe_cursor(batch: Sequence[Event]) -> int:
    """The highest id that may be acknowledged even if the server has started its ids over; 0 if there is none.

    This is the highest id of the last ascending run. If a cursor is too low, the events come again as duplicates. If it
    is too high, it acknowledges events that were never delivered, and they are lost.
    """
    return max((event.event_id for event in batch[_run_starts(batch)[-1] :] if event.numbered), default=0)


def is_ascending(batch: Sequence[Event]) -> bool:
    """Whether no id is below an id that precedes it."""
    return len(_run_starts(batch)) == 1


def _run_starts(batch: Sequence[Event]) -> list[int]:
    """The indexes at which a run of ascending ids begins."""
    starts, last_id = [0], 0
    for index, event in enumerate(batch):
        if event.numbered:
            if event.event_id < last_id:
                starts.append(index)
            last_id = event.event_id
    return starts
