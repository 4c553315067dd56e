"""Makes the index terms of stored messages again, after an upgrade that changes what is searched.

It runs beside a daemon, the newest messages first, and can be interrupted at any point. It never waits for a lock while
it holds the locks of chats: it leaves out what others have locked, and comes back to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vkteams_daemon.store import schema
from vkteams_daemon.store.bulk import ColumnSet
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import chat_locks, message_rows
from vkteams_daemon.store.words import searched_texts
from vkteams_daemon.store.words.lexicon import Lexicon, search_vector, words_of

Progress = Callable[[int, int], None]  # called with the messages done so far, and their total

_BATCH = 200
_OLD = f"search_version < {searched_texts.VERSION}"
_PAGE = (
    f"SELECT sent_at, chat_id, msg_id FROM messages WHERE {_OLD} AND (sent_at, chat_id, msg_id) < (%s, %s, %s)"
    f" ORDER BY sent_at DESC, chat_id DESC, msg_id DESC LIMIT {_BATCH}"
)
# Chat by chat: rows of several machines cannot be locked in one statement.
_LOCK = (
    "SELECT m.chat_id, m.msg_id, m.text, m.parts, m.format FROM messages m WHERE m.chat_id = %s AND m.msg_id = ANY(%s)"
    f" AND m.{_OLD} ORDER BY m.msg_id FOR NO KEY UPDATE SKIP LOCKED"
)
_ROWS = ColumnSet((("chat_id", "text"), ("msg_id", "text"), ("search", "tsvector")))
_UPDATE = (
    f"UPDATE messages m SET search = i.search, search_version = {searched_texts.VERSION}"
    " FROM (SELECT * FROM {incoming}) AS i WHERE m.chat_id = i.chat_id AND m.msg_id = i.msg_id"
)


def refill(
    connection: Connection,
    *,
    progress: Progress = lambda done, total: None,
    pause: Callable[[], bool] = lambda: False,
) -> int:
    """Make the terms of every message that has old ones.

    Args:
        connection: used for this alone, in autocommit mode.
        progress: called after each batch.
        pause: called between two batches; True ends it.

    Returns:
        How many messages still have old terms, because other sessions have locked them or because it was ended.
    """
    lexicon = Lexicon()
    last: tuple[Any, ...] = ("infinity", "", "")
    done = 0
    with translate_errors():
        message_rows.prepare_connection(connection)
        row = connection.execute(f"SELECT count(*) FROM messages WHERE {_OLD}".encode()).fetchone()
        total = int(row[0]) if row else 0
        while page := connection.execute(_PAGE.encode(), last, prepare=False).fetchall():
            last = page[-1]
            done += _fill(connection, lexicon, [(chat_id, msg_id) for _, chat_id, msg_id in page])
            progress(min(done, total), total)
            if pause():
                break
    return max(0, total - done)


def _fill(connection: Connection, lexicon: Lexicon, keys: list[tuple[str, str]]) -> int:
    with connection.transaction():
        schema.fence(connection)
        chats = chat_locks.try_lock_chats(connection, {chat_id for chat_id, _ in keys})
        unlocked = [key for key in keys if key[0] in chats]
        if not unlocked:
            return 0
        with connection.pipeline():
            locked = [connection.execute(_LOCK.encode(), of_chat) for of_chat in message_rows.by_chat(unlocked)]
            rows = [row for answer in locked for row in answer]
        texts = {(chat_id, msg_id): searched_texts.texts(*content) for chat_id, msg_id, *content in rows}
        lexemes = lexicon.lexemes(connection, set().union(*map(words_of, texts.values())))
        if texts:
            _ROWS.execute(connection, _UPDATE, [(*key, search_vector(each, lexemes)) for key, each in texts.items()])
    return len(texts)
