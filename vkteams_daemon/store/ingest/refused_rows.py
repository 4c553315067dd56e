"""Finds what cannot be written for what it is, so that its batch-mates are written without it.

That is what the database refuses, and what a fault of this program stumbles over: both end in quarantine, from where a
later version can take it, and neither may keep the archive from going on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.store.connections import Connection, first_line

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# 22 data exception, 23 constraint violation, 54 program limit exceeded.
_CLASSES = ("22", "23", "54")


def is_refusal(error: Exception) -> bool:
    """Whether it lies in the data; not in the connection, the schema, the disk or another holder."""
    if isinstance(error, psycopg.Error):
        return isinstance(error, psycopg.DataError) or (error.sqlstate or "")[:2] in _CLASSES
    return not isinstance(error, VkTeamsError | OSError | MemoryError)


def insert_or_quarantine(
    connection: Connection,
    items: Sequence[Item],
    insert: Callable[[Sequence[Item]], Result],
    quarantine: Callable[[Item, str], Result],
) -> list[Result]:
    """Insert everything; what fails is halved until the culprits are alone, and those are quarantined.

    Args:
        connection: inside a transaction.
        items: in order; each part that is inserted keeps it.
        insert: writes some of them, inside a savepoint.
        quarantine: writes what remains of one that was refused for this reason.

    Returns:
        What `insert` and `quarantine` have returned.
    """
    try:
        with connection.transaction():
            return [insert(items)]
    except Exception as error:
        if not is_refusal(error):
            raise
        failure = error
    if len(items) == 1:
        return [quarantine(items[0], _reason(failure))]
    half = len(items) // 2
    return [
        *insert_or_quarantine(connection, items[:half], insert, quarantine),
        *insert_or_quarantine(connection, items[half:], insert, quarantine),
    ]


def _reason(error: Exception) -> str:
    if isinstance(error, psycopg.Error):
        return first_line(error)
    log.error("an event makes this program fail and is quarantined", exc_info=error)
    text = f"internal error: {type(error).__name__}: {error}"[:500]
    # It may repeat what the event says, and a column takes neither of these.
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
