"""Finds the rows that the database refuses for what they are, so that their batch-mates are written without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from vkteams_daemon.store.database import Connection, first_line

Item = TypeVar("Item")
Result = TypeVar("Result")

# 22 data exception, 23 constraint violation, 54 program limit exceeded.
_CLASSES = ("22", "23", "54")


def is_refusal(error: psycopg.Error) -> bool:
    """Whether the server, or the driver on its behalf, refuses the data; not the connection, the schema or the disk."""
    return isinstance(error, psycopg.DataError) or (error.sqlstate or "")[:2] in _CLASSES


def write(
    connection: Connection,
    items: Sequence[Item],
    insert: Callable[[Sequence[Item]], Result],
    quarantine: Callable[[Item, str], Result],
) -> list[Result]:
    """Insert everything; what is refused is halved until the culprits are alone, and those are quarantined.

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
    except psycopg.Error as error:
        if not is_refusal(error):
            raise
        reason = first_line(error)
    if len(items) == 1:
        return [quarantine(items[0], reason)]
    half = len(items) // 2
    return [
        *write(connection, items[:half], insert, quarantine),
        *write(connection, items[half:], insert, quarantine),
    ]
