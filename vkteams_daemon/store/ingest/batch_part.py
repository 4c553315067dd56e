"""The part of a batch that goes into one transaction, if the whole batch takes the database too long.

An answer whose ids do not ascend cannot be cut into batches: only all of it shows what its ids mean, and which cursor
covers it. So the writer classifies the whole batch in each transaction, stores a part of what is new, and leaves the
cursor. The last part moves the cursor.

After a crash the API delivers the answer again, perhaps only the beginning of it. The stored parts must not change what
the writer concludes from it. Late ids are recognised only by events that are not stored yet. So the first late event of
the answer is stored last.
"""

from __future__ import annotations

from collections.abc import Sequence

from vkteams_daemon.botapi.events import Event
from vkteams_daemon.store.ingest.event_rows import GenerationEvent


def first_part(rows: Sequence[GenerationEvent], limit: int, last: Event | None) -> list[GenerationEvent]:
    """The rows of the next transaction: all, or `limit` of them.

    Args:
        rows: the new events, in the order in which they are written.
        limit: the most rows of one transaction.
        last: the event that is stored in the last transaction, or None.
    """
    if len(rows) <= limit:
        return list(rows)
    return [row for row in rows if row[1] is not last][:limit]
