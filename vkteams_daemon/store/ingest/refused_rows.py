"""Finds the items of a batch that cannot be written because of their content, and quarantines them alone.

There are two causes: the database refuses a row, or this program fails on an event. In both cases the rest of the batch
is written, the archive goes on, and a later version can read the event from the quarantine.

An item is quarantined only if a harmless one can be written in the same way. Otherwise the item is not the cause: this
program has a fault, or the database does not work as it should. Then nothing is written, so nothing is acknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg

from vkteams_daemon.errors import StoreError, VkTeamsError
from vkteams_daemon.store.connections import Connection, first_line

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# 22 data exception, 23 constraint violation, 54 program limit exceeded.
_REFUSAL_CLASSES = ("22", "23", "54")


def is_refusal(error: Exception) -> bool:
    """Whether the data caused the error, and not the connection, the schema, the disk or another holder."""
    if isinstance(error, psycopg.Error):
        return isinstance(error, psycopg.DataError) or (error.sqlstate or "")[:2] in _REFUSAL_CLASSES
    return not isinstance(error, VkTeamsError | OSError | MemoryError)


def insert_or_quarantine(
    connection: Connection,
    items: Sequence[Item],
    insert: Callable[[Sequence[Item]], Result],
    quarantine: Callable[[Item, str], Result],
    trial: Callable[[Item], object],
) -> list[Result]:
    """Insert the items. A part that fails is halved until the culprits are alone; the culprits are quarantined.

    Args:
        connection: in a transaction.
        items: in order; every inserted part keeps the order.
        insert: writes a part of the items, inside a savepoint.
        quarantine: writes one refused item in a form that the database accepts; gets the reason as well.
        trial: writes a harmless item of the same kind, in a savepoint that is rolled back.

    Returns:
        The results of `insert` and `quarantine`, in the order of the items.

    Raises:
        StoreError: a harmless item cannot be written either; the caller's transaction fails.
        Exception: an error that the data did not cause, see `is_refusal`; the caller's transaction fails.
    """
    try:
        with connection.transaction():
            return [insert(items)]
    except Exception as error:
        if not is_refusal(error):
            raise
        failure = error
    if len(items) == 1:
        _check_harmless(connection, lambda: trial(items[0]))
        return [quarantine(items[0], _reason(failure))]
    half = len(items) // 2
    return [
        *insert_or_quarantine(connection, items[:half], insert, quarantine, trial),
        *insert_or_quarantine(connection, items[half:], insert, quarantine, trial),
    ]


def _check_harmless(connection: Connection, write: Callable[[], object]) -> None:
    """Write a harmless item and roll it back; StoreError if it cannot be written."""
    try:
        with connection.transaction() as savepoint:
            write()
            raise psycopg.Rollback(savepoint)
    except Exception as error:
        if not is_refusal(error):
            raise
        log.debug("a harmless event cannot be stored either", exc_info=error)
        text = first_line(error) if isinstance(error, psycopg.Error) else _internal_error(error)
        raise StoreError(
            f"harmless events cannot be stored either, so nothing is quarantined: {text}",
            hint="The fault is not the event's: look at the settings of the database, or upgrade vkteams-daemon.",
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, psycopg.Error):
        return first_line(error)
    log.error("an event makes this program fail and is quarantined", exc_info=error)
    return _internal_error(error)


def _internal_error(error: Exception) -> str:
    text = f"internal error: {type(error).__name__}: {error}"[:500]
    # The message may repeat the event's text. A text column takes neither NUL nor lone surrogates.
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
