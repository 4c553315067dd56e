"""Counts the archive's words now and then: how many messages hold each lexeme.

Text search asks the counts how rare a word is, and looks for what a misspelt one may have meant. Both bear counts that
are a little old, so nothing is written with a message: everything is counted anew once the archive has grown enough,
which also forgets the words of what was deleted.
"""

from __future__ import annotations

from vkteams_daemon.store.connections import Connection, translate_errors

GROWTH = 0.05  # of the messages counted last: then they are counted again
MIN_MESSAGES = 500  # messages; below it a search counts the newest ones itself, see search.vocabulary
_DAY = "1 day"  # after which they are counted again, however little was added: deleted words must go

_LOCK = "hashtextextended('vkteams words ' || current_schema(), 0)"
_SOURCE = "SELECT search FROM messages WHERE deleted_at IS NULL"


def count_words(connection: Connection) -> bool:
    """Count every word if it is time; a second for each 200,000 messages, and a look at two rows if it is not.

    Args:
        connection: in autocommit mode.

    Returns:
        Whether they were counted.
    """
    with translate_errors(), connection.transaction():
        row = connection.execute(f"SELECT pg_try_advisory_xact_lock({_LOCK})".encode()).fetchone()
        if not row or not row[0] or not _due(connection):
            return False
        connection.execute(
            "CREATE TEMPORARY TABLE counted ON COMMIT DROP AS"
            f" SELECT word, ndoc::bigint AS messages FROM ts_stat('{_SOURCE}') WHERE length(word) <= 64".encode()
        )
        connection.execute("DELETE FROM words w WHERE NOT EXISTS (SELECT FROM counted c WHERE c.word = w.word)")
        connection.execute(
            "INSERT INTO words AS w (word, messages) SELECT word, messages FROM counted ORDER BY word"
            " ON CONFLICT (word) DO UPDATE SET messages = excluded.messages WHERE w.messages <> excluded.messages"
        )
        connection.execute(
            f"INSERT INTO words_counted AS w (messages, counted_at) SELECT count(*), now() FROM ({_SOURCE}) AS m"
            " ON CONFLICT (only_row) DO UPDATE SET messages = excluded.messages,"
            " counted_at = excluded.counted_at".encode()
        )
    return True


def _due(connection: Connection) -> bool:
    counted = connection.execute(
        f"SELECT messages, counted_at < now() - interval '{_DAY}' FROM words_counted".encode()
    ).fetchone()
    before, old = counted or (0, False)
    if old:
        return True
    # Statistics of the planner, not a count: this is asked every minute.
    row = connection.execute("SELECT reltuples FROM pg_class WHERE oid = 'messages'::regclass").fetchone()
    estimate = row[0] if row else 0
    if estimate < before + MIN_MESSAGES:
        row = connection.execute(
            "SELECT count(*) FROM (SELECT FROM messages LIMIT %s) AS few", (before + MIN_MESSAGES,)
        ).fetchone()
        estimate = row[0] if row and before < 10 * MIN_MESSAGES else estimate
    return bool(estimate >= before + max(MIN_MESSAGES, GROWTH * before))
