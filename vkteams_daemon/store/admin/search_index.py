"""The index of messages' words (GIN): merging its pending list.

The server adds the words of new messages to a list, which each search reads from beginning to end, and merges the list
into the index when it has grown to 4 MB (gin_pending_list_limit), within the transaction that happens to store the next
message. Among a million messages a question of eight words took 17 ms with a list of 1.8 MB, and such a merge 0.3 s.
"""

from __future__ import annotations

from vkteams_daemon.store.connections import Connection, translate_errors

# Only the owner may. On a cluster this index has no rows: each shard has its own, which autovacuum merges.
_MERGE = (
    "SELECT pg_catalog.gin_clean_pending_list(c.oid::regclass) FROM pg_class c"
    " WHERE c.oid = pg_catalog.to_regclass('messages_search')::oid AND pg_catalog.pg_has_role(c.relowner, 'USAGE')"
)


def merge_pending(connection: Connection) -> int:
    """Merge the pending list into the index; returns how many pages the list had.

    It takes 20 µs a message. New messages are stored meanwhile.

    Args:
        connection: in autocommit mode.
    """
    with translate_errors():
        row = connection.execute(_MERGE.encode()).fetchone()
    return int(row[0]) if row else 0
