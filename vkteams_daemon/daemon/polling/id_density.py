"""Notices a missing event id where a bot's ids have been dense.

The API does not promise that ids are dense: on some installations they are, on others many bots share one sequence. So
a hole is only a warning, and only after many ids without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

DENSE = 1000  # ids in a row without a hole, after which a hole is unusual


class IdDensity:
    """Belongs to the thread of the poll loop.

    Args:
        warn: called with the warning, or with None when as many ids have come without a hole again.
        dense: ids in a row after which a hole is unusual.
    """

    def __init__(self, warn: Callable[[str | None], None] = lambda sentence: None, dense: int = DENSE) -> None:
        self._warn = warn
        self._dense = dense
        self._last: int | None = None
        self._run = 0
        self._warned = False

    def add(self, ids: Iterable[int], after: int) -> None:
        """Look at the ids of one answer.

        Args:
            ids: in any order; those that the API repeats are passed over.
            after: the id that they were polled with.
        """
        ordered = sorted(ids)
        last = after if self._last is None else self._last
        if ordered and ordered[-1] < last:
            last, self._run = 0, 0  # they have started over
        for event_id in ordered:
            if event_id <= last:
                continue
            if event_id == last + 1:
                self._run += 1
            else:
                if self._run >= self._dense:
                    self._warn(
                        f"event {event_id} came after event {last}: before that, {self._run} ids in a row had no hole;"
                        " an event may not have been delivered"
                    )
                    self._warned = True
                self._run = 0
            last = event_id
        self._last = last
        if self._warned and self._run >= self._dense:
            self._warn(None)
            self._warned = False
