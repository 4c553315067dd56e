"""Checks whether an archive is consistent: its tables against each other, in one transaction that only reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vkteams_daemon.store import vector_counts
from vkteams_daemon.store.connections import Connection, translate_errors
from vkteams_daemon.store.derive import event_counts
from vkteams_daemon.store.derive.kept_counts import COUNTED

# Each check counts the rows that are wrong. One that reads a whole table reads it once, along its keys.
_WAITING = "WITH q AS MATERIALIZED (SELECT chat_id, msg_id, model_id FROM embedding_queue)"
_COUNTS = ("messages", "edited", "deleted", "versions")
_CHECKS: tuple[tuple[str, str, str], ...] = (
    (
        "cursors",
        "every event belongs to a bot and to a generation that the bot has reached",
        "SELECT count(*) FROM"
        " (SELECT bot_id, pg_catalog.max(generation) AS generation FROM events GROUP BY bot_id) AS e"
        " LEFT JOIN bots b USING (bot_id) WHERE b.bot_id IS NULL OR e.generation > b.generation",
    ),
    (
        "counts of events",
        "the counts of events agree with the events",
        "SELECT count(*) FROM bots b LEFT JOIN (SELECT bot_id, count(*) AS events FROM events GROUP BY bot_id) AS e"
        " USING (bot_id) WHERE b.events <> coalesce(e.events, 0)",
    ),
    (
        "counts of events by chat",
        "the counts of events by chat agree with the events",
        f"SELECT count(*) FROM bot_chat_counts c FULL JOIN ({event_counts.COUNTED}) AS e USING (bot_id, chat_id)"
        " WHERE (c.events, c.last_at) IS DISTINCT FROM (e.events, e.last_at)",
    ),
    (
        "messages",
        "every message that an event announces is there, unless it was erased",
        # Events and messages may lie on different machines, and so may messages and the queue: hence the lists first.
        "WITH e AS MATERIALIZED (SELECT chat_id, subject, count(*) AS n FROM events WHERE type = 'newMessage'"
        " AND error IS NULL AND chat_id IS NOT NULL AND subject IS NOT NULL AND payload IS NOT NULL GROUP BY 1, 2)"
        " SELECT coalesce(pg_catalog.sum(e.n), 0)::bigint FROM e LEFT JOIN messages m"
        " ON m.chat_id = e.chat_id AND m.msg_id = e.subject WHERE m.chat_id IS NULL",
    ),
    (
        "chats",
        "every message's chat is known",
        "SELECT count(*) FROM (SELECT DISTINCT chat_id FROM messages) AS m"
        " WHERE NOT EXISTS (SELECT FROM chats c WHERE c.chat_id = m.chat_id)",
    ),
    *(
        (
            f"counts of {what}",
            f"the counts of {what} agree with the messages",
            f"SELECT count(*) FROM {table} c FULL JOIN ({COUNTED[table]})"
            f" AS m (chat_id, {key}, {', '.join(counts)}) USING (chat_id, {key})"
            f" WHERE ({', '.join(f'c.{count}' for count in counts)})"
            f" IS DISTINCT FROM ({', '.join(f'm.{count}' for count in counts)})",
        )
        for what, table, key, counts in (
            ("people", "chat_user_counts", "user_id", (*_COUNTS, "first_at", "last_at")),
            ("hours", "chat_hour_counts", "hour", _COUNTS),
        )
    ),
    (
        "counts of vectors",
        "the counts of vectors agree with the vectors",
        "SELECT count(*) FROM (SELECT chat_id, model_id, pg_catalog.sum(messages)::bigint AS messages,"
        " pg_catalog.sum(vectors)::bigint AS vectors FROM chat_vector_counts GROUP BY chat_id, model_id) AS c"
        f" FULL JOIN ({vector_counts.COUNTED}) AS e USING (chat_id, model_id)"
        " WHERE (coalesce(c.messages, 0), coalesce(c.vectors, 0))"
        " <> (coalesce(e.messages, 0), coalesce(e.vectors, 0))",
    ),
    (
        "missing vectors",
        "every text has its vectors, or waits for them",
        f"{_WAITING} SELECT count(*) FROM embedding_models model CROSS JOIN messages m WHERE model.state = 'active'"
        " AND m.deleted_at IS NULL AND m.text <> ''"
        " AND NOT EXISTS (SELECT FROM embeddings e WHERE e.chat_id = m.chat_id AND e.msg_id = m.msg_id"
        "  AND e.model_id = model.model_id)"
        " AND NOT EXISTS (SELECT FROM q WHERE q.chat_id = m.chat_id AND q.msg_id = m.msg_id"
        "  AND q.model_id = model.model_id)",
    ),
    (
        "old vectors",
        "no vector is older than its text, unless the message waits for new ones",
        f"{_WAITING} SELECT count(*) FROM (SELECT v.chat_id, v.msg_id, pg_catalog.max(v.replaced_at) AS replaced_at"
        " FROM message_versions v GROUP BY v.chat_id, v.msg_id) AS v JOIN embeddings e USING (chat_id, msg_id)"
        " JOIN embedding_models model ON model.model_id = e.model_id AND model.state = 'active'"
        " WHERE e.kind = 'message' AND e.embedded_at < v.replaced_at"
        " AND NOT EXISTS (SELECT FROM q WHERE q.chat_id = e.chat_id AND q.msg_id = e.msg_id"
        "  AND q.model_id = e.model_id)",
    ),
    (
        "vectors without text",
        "no vector belongs to a message that has no text",
        "SELECT count(*) FROM embeddings e JOIN messages m USING (chat_id, msg_id)"
        " WHERE e.kind = 'message' AND coalesce(m.text, '') = ''",
    ),
)


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check.

    Attributes:
        name: of the check.
        rule: what holds in a consistent archive, as a sentence.
        wrong: rows for which it does not hold.
    """

    name: str
    rule: str
    wrong: int


def verify(connection: Connection, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Check]:
    """Run every check.

    Args:
        connection: in autocommit mode, without time limits.
        progress: called before each check with the checks that are done, and all there are.
    """
    checks: list[Check] = []
    with translate_errors(), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for name, rule, query in _CHECKS:
            progress(len(checks), len(_CHECKS))
            row = connection.execute(query.encode()).fetchone()
            assert row is not None
            checks.append(Check(name, rule, int(row[0])))
    return checks
