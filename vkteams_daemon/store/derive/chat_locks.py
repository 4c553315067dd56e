"""The advisory locks of chats, which a transaction takes before it reads a message and writes it back.

Two bots may see one chat, and retention, replay and erasure run beside the daemon.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from vkteams_daemon.store.connections import Connection

# The chats share 1,024 lock keys, so that a batch with many chats cannot fill the server's lock table.
_LOCK_CHATS = (
    "SELECT pg_catalog.pg_advisory_xact_lock(7691, bucket) FROM"
    " (SELECT DISTINCT pg_catalog.hashtext(chat_id) & 1023 AS bucket FROM pg_catalog.unnest(%s::text[]) AS"
    " chat_id ORDER BY bucket) AS b"
)
_TRY_LOCK_CHATS = (
    "SELECT chat_id FROM pg_catalog.unnest(%s::text[]) AS chat_id"
    " WHERE pg_catalog.pg_try_advisory_xact_lock(7691, pg_catalog.hashtext(chat_id) & 1023)"
)


def lock_chats(connection: Connection, chat_ids: Iterable[str]) -> None:
    """Lock these chats until the transaction ends, so that no other transaction folds their messages."""
    connection.execute(_LOCK_CHATS.encode(), [list(chat_ids)])


def try_lock_chats(connection: Connection, chat_ids: Collection[str]) -> set[str]:
    """Lock those of these chats that no other transaction has locked; returns them."""
    return {row[0] for row in connection.execute(_TRY_LOCK_CHATS.encode(), [list(chat_ids)]).fetchall()}
