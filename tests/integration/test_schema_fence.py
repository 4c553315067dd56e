"""An old program beside a newer schema: every transaction that writes is refused, and the daemon ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.embedding import Chat, WatchedModel
from tests.harness.oracle import Oracle
from tests.harness.talk import ANNA, OPS, Talk
from tests.harness.waiting import until
from vkteams_daemon.daemon.workers.worker_loop import take_turns
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.errors import SchemaNewer, VkTeamsError
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store import embedding_models, erasure_rules, queue, schema
from vkteams_daemon.store.admin import cursors, person_erasure, word_counts
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.rebuild import erasure, replay

LATEST = max(schema.migrations())
SENTENCE = f"the schema is version {LATEST + 1}, newer than this program's {LATEST}"
_NEWER = f"INSERT INTO schema_version (version) VALUES ({LATEST + 1})"
_TABLES = ("bots", "events", "messages", "chats", "embedding_models", "embeddings", "embedding_queue", "words")


def _content(talk: Talk) -> list[object]:
    return [talk.rows(f"SELECT t::text FROM {table} t ORDER BY 1") for table in _TABLES]


_MODEL = embedding_models.StoredModel(1, "tiny", "f", 2, "building")
_BOT = "1000000001"
_NOTHING = "SELECT 1"
# What is done to the archive before, and the writing.
_WRITING: dict[str, tuple[str, Callable[[Talk, Connection], object]]] = {
    "writer": (_NOTHING, lambda talk, c: talk.say("2", "new")),
    "take-over": (_NOTHING, lambda talk, c: (talk.writer.close(), talk.writer.acquire())),
    "cursor": (_NOTHING, lambda talk, c: (talk.writer.close(), cursors.set_cursor(talk.connection, _BOT, 0))),
    "erasure of messages": (_NOTHING, lambda talk, c: erasure.erase(c, datetime.now(UTC))),
    "erasure of events": ("DELETE FROM messages", lambda talk, c: erasure.erase(c, datetime.now(UTC))),
    "erasure of a person": (_NOTHING, lambda talk, c: person_erasure.erase(c, [ANNA], by="dpo")),
    "hold": (_NOTHING, lambda talk, c: erasure_rules.hold(c, OPS, "counsel")),
    "replay": ("UPDATE messages SET text = ''", lambda talk, c: replay.everything(c, erase=False)),
    "replay of the quarantine": (
        "UPDATE events SET error = 'once', raw = convert_to(payload::text, 'UTF8')",
        lambda talk, c: replay.quarantined(c, erase=False),
    ),
    "register": (_NOTHING, lambda talk, c: embedding_models.register(c, "other", "g", 2)),
    "enqueue": ("DELETE FROM embedding_queue", lambda talk, c: embedding_models.enqueue_missing(c, 1)),
    "activate": (
        "DELETE FROM embedding_queue", lambda talk, c: embedding_models.activate_if_complete(c, _MODEL)
    ),
    "delete retired": (
        "UPDATE embedding_models SET state = 'retired'", lambda talk, c: embedding_models.delete_retired(c)
    ),
    "retry": (
        "UPDATE embedding_queue SET not_before = 'infinity'", lambda talk, c: queue.retry(c)
    ),
    "words": (_NOTHING, lambda talk, c: word_counts.count_words(c)),
}  # fmt: skip


@pytest.mark.parametrize("path", _WRITING)
def test_every_writing_path_refuses_a_newer_schema(talk: Talk, path: str) -> None:
    prepare, write = _WRITING[path]
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('tiny', 'f', 2, 'building')")
    talk.say("1", "old")
    talk.execute(prepare)
    talk.execute(_NEWER)
    before = _content(talk)
    with talk.connection() as connection, pytest.raises(SchemaNewer, match=SENTENCE) as refused:
        write(talk, connection)
    assert refused.value.exit_code == 78
    assert _content(talk) == before


def test_migration_waits_for_open_transactions_and_later_ones_see_it(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No transaction of the old program can commit after the migration has looked at the tables."""
    scripts = schema.migrations() | {LATEST + 1: "CREATE TABLE seen AS SELECT count(*) AS messages FROM messages"}
    with talk.connection() as old, talk.connection() as new:
        schema.fence(old)  # remembers the version that the old program knows
        monkeypatch.setattr(schema, "migrations", lambda: scripts)
        with old.transaction():
            schema.fence(old)
            old.execute("INSERT INTO messages (chat_id, msg_id, sent_at, received_at) VALUES ('c', 'm', now(), now())")
            migration = threading.Thread(target=schema.apply_migrations, args=(new,))
            migration.start()
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'schema_version'::regclass"
            until(lambda: talk.rows(waiting), 30, "a migration that waits")
        migration.join(30)
        assert talk.rows("SELECT messages FROM seen") == [(1,)]
        with pytest.raises(SchemaNewer), old.transaction():
            schema.fence(old)


def test_readers_do_not_wait_for_a_migration(talk: Talk) -> None:
    with talk.connection() as migration, talk.connection() as reader, migration.transaction():
        migration.execute("LOCK TABLE schema_version IN EXCLUSIVE MODE")
        reader.execute("SET lock_timeout = 1")
        schema.check_version(reader)


def test_daemon_ends_and_acknowledges_nothing_after_the_migration(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, oracle: Oracle
) -> None:
    simulator.say("681869378@chat.agent", "a.ivanova@corp.example", "before")
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url)
    process = daemon.spawn("--foreground")
    oracle.wait()
    with psycopg.connect(oracle.url, autocommit=True) as connection:
        connection.execute(_NEWER.encode())
    simulator.say("681869378@chat.agent", "a.ivanova@corp.example", "after")
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 78
    assert f"vkteamsd: {SENTENCE}. Upgrade vkteams-daemon." in printed
    assert "Traceback" not in printed
    assert oracle.stored() == [1]
    assert simulator.state()["acknowledged"] == 1
    # It does not start either.
    assert daemon.start().returncode == 78


def test_worker_ends_without_writing(chat: Chat, model: WatchedModel) -> None:
    chat.register(model)  # type: ignore[arg-type]
    chat.say("a text")
    ends: list[VkTeamsError] = []
    worker = chat.worker(model, WorkerStats())  # type: ignore[arg-type]
    chat.execute(_NEWER)
    thread = threading.Thread(
        target=take_turns, args=([worker], threading.Event(), 600, threading.Event(), ends.append)
    )
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert [str(error) for error in ends] == [SENTENCE]
    assert chat.chunks() == {}


def test_embed_role_ends(vkteamsd: Callable[..., DaemonProcess], chat: Chat, models_dir: Path) -> None:
    options = {"embedding.models_dir": str(models_dir), "embedding.poll_interval": 1, "daemon.role": "embed"}
    daemon = vkteamsd(database_url=chat.url, token="", options=options)
    chat.say("first")
    process = daemon.spawn("--foreground")
    until(lambda: chat.chunks() == {"m1": 1}, 60, "the first vector")
    chat.execute(_NEWER)
    chat.execute("INSERT INTO embedding_queue SELECT chat_id, msg_id, 1, 'message' FROM messages")
    chat.execute("NOTIFY vkteams_queue")
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 78, printed
    assert SENTENCE in printed
