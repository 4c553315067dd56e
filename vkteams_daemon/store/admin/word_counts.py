"""Counts the words of the archive: in how many messages each lexeme occurs.

Text search reads from the counts how rare a word is, and spelling correction looks there for known words. Both work
with counts that are a little old. So storing a message changes no count. Everything is counted again once the archive
has grown enough or a day has passed, and that removes the words of deleted messages as well.
"""

from __future__ import annotations

from vkteams_daemon.store import schema
from vkteams_daemon.store.connections import Connection, translate_errors

GROWTH = 0.05  # a new count is due when this share of the messages of the last count has been added
MIN_MESSAGES = 500  # with fewer messages a search counts words itself, see search.spelling.vocabulary
_MAX_AGE = "1 day"  # then a new count is due in any case, so that the words of deleted messages disappear

_LOCK = "pg_catalog.hashtextextended('vkteams words ' || current_schema()::text, 0::bigint)"
_SOURCE = "SELECT search FROM messages WHERE deleted_at IS NULL"


def count_words(connection: Connection, *, now: bool = False) -> bool:
    """Count every word if a new count is due.

    A count takes a second for each 200,000 messages. If none is due, two rows are read.

    Args:
        connection: in autocommit mode.
        now: count if there is a count at all, due or not: words have to disappear.

    Returns:
        Whether the words were counted.
    """
    with translate_errors(), connection.transaction():
        schema.fence(connection)
        if now:
            # Another count may have begun before the words were gone.
            connection.execute(f"SELECT pg_catalog.pg_advisory_xact_lock({_LOCK})".encode())
            if connection.execute("SELECT FROM words LIMIT 1").fetchone() is None:
                return False
        else:
            row = connection.execute(f"SELECT pg_catalog.pg_try_advisory_xact_lock({_LOCK})".encode()).fetchone()
            if not row or not row[0] or not _is_due(connection):
                return False
        connection.execute(
            "CREATE TEMPORARY TABLE pg_temp.new_counts ON COMMIT DROP AS"
            f" SELECT word, ndoc::bigint AS messages FROM pg_catalog.ts_stat('{_SOURCE}') WHERE"
            f" pg_catalog.length(word) <= 64".encode()
        )
        connection.execute(
            "DELETE FROM words w WHERE NOT EXISTS (SELECT FROM pg_temp.new_counts n WHERE n.word = w.word)"
        )
        connection.execute(
            "INSERT INTO words AS w (word, messages) SELECT word, messages FROM pg_temp.new_counts ORDER BY word"
            " ON CONFLICT (word) DO UPDATE SET messages = excluded.messages WHERE w.messages <> excluded.messages"
        )
        connection.execute(
            f"INSERT INTO words_counted AS w (messages, counted_at) SELECT count(*), now() FROM ({_SOURCE}) AS m"
            " ON CONFLICT (only_row) DO UPDATE SET messages = excluded.messages,"
            " counted_at = excluded.counted_at".encode()
        )
    return True


def _is_due(connection: Connection) -> bool:
    last_count = connection.execute(
        f"SELECT messages, counted_at < now() - interval '{_MAX_AGE}' FROM words_counted".encode()
    ).fetchone()
    counted_messages, is_old = last_count or (0, False)
    if is_old:
        return True
    # Use the planner's estimate, because this runs every minute.
    row = connection.execute("SELECT reltuples FROM pg_class WHERE oid = 'messages'::regclass::oid").fetchone()
    estimate = row[0] if row else 0
    if estimate < counted_messages + MIN_MESSAGES:
        row = connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM messages LIMIT %s) AS first_messages",
            (counted_messages + MIN_MESSAGES,),
        ).fetchone()
        estimate = row[0] if row and counted_messages < 10 * MIN_MESSAGES else estimate
    return bool(estimate >= counted_messages + max(MIN_MESSAGES, GROWTH * counted_messages))
