"""An archive on a Citus cluster: its layout, its answers beside those of one server, and what it survives.

The tests that need a cluster are skipped unless VKTEAMS_TEST_CITUS_URL names a coordinator (tests/harness/cluster.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import conninfo

from tests.harness.batches import DERIVED, rows
from tests.harness.cluster import VARIABLE, ClusterDatabase, distributed, needs_cluster, on
from tests.harness.cluster_server import Machine
from tests.harness.daemon import DaemonProcess
from tests.harness.mcp import Office
from tests.harness.oracle import Oracle
from tests.harness.postgres import PostgresServer
from tests.harness.talk import ANNA, DEV, OPS, PETR, VERA, Talk, moment
from tests.harness.traffic import Traffic
from tests.harness.waiting import until
from tests.integration.test_migrations import catalogue
from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.workers.worker import Worker, WorkerStats
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.errors import ConfigError, SchemaError, VkTeamsError
from vkteams_daemon.options import Embedding
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store import distribution, embedding_models, schema, vector_index
from vkteams_daemon.store.admin import indexes, maintenance, person_erasure
from vkteams_daemon.store.backup import verification
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.distribution import BY_BOT, BY_CHAT, EVERYWHERE
from vkteams_daemon.store.rebuild import erasure, replay

_THREAD = "thread-1@chat.agent"
_WORDS = [
    "сервер",
    "упал",
    "почта",
    "не",
    "работает",
    "договор",
    "оплата",
    "счёт",
    "таблица",
    "отпуск",
    "деплой",
    "release",
    "wiki",
    "jira",
    "ошибка",
]
_LAYOUT = (
    "SELECT p.logicalrelid::text, p.partmethod, coalesce(column_to_column_name(p.logicalrelid, p.partkey), '')"
    " FROM pg_dist_partition p"
)

_QUESTIONS: list[dict[str, Any]] = [
    *({"query": query, "mode": mode} for mode in ("text", "semantic", "hybrid") for query in (
        "сервер", "упал сервер", '"не работает"', "wiki OR jira", "ошибка -деплой", "ашибка", "почему упал сервер",
        "ghbdtn", "потому что диск", "таблица от Петра",
    )),
    {"query": "сервер", "chat_ids": [DEV]}, {"query": "сервер", "user_id": PETR},
    {"query": "сервер", "since": moment(30), "until": moment(90)}, {"query": "сервер", "newest_first": True},
    {"query": "диск", "reply_to_user": VERA}, {"query": "смотрите", "has": ["image"]},
    {"query": "диск", "edited": True}, {"query": "ответ", "chat_ids": [_THREAD]},
    {"query": "сервер", "context": 2, "limit": 3}, {"query": "отпуск release", "limit": 50},
]  # fmt: skip


def _converse(talk: Talk) -> None:
    """Everything that hangs on messages: versions, replies, threads, files, members, deletions."""
    talk.many([f"{' '.join(_WORDS[(7 * i + 3 * k) % 15] for k in range(4))} {i}" for i in range(250)])
    talk.many(
        [" ".join(_WORDS[(4 * i + 2 * k) % 15] for k in range(5)) for i in range(40)], chat=DEV, who=PETR, first=900
    )
    talk.say("a1", "кто знает почему упал сервер", who=VERA)
    talk.say("a2", "потому что диск", answers="a1", at=2, who=PETR)
    talk.edit("a2", "потому что диск полон", at=3)
    talk.edit("a2", "потому что диск полон, почистил", at=4)
    talk.say("t1", "ответ в треде", chat=_THREAD, below=(OPS, "a1"), at=5)
    talk.say("f1", "смотрите", parts=({"type": "file", "payload": {"fileId": "x", "type": "image"}},), at=6)
    talk.say("p1", "личное", chat=ANNA, at=6)
    talk.say("d1", "это удалят", at=7)
    talk.say("d2", "ответ на удалённое", answers="d1", at=8)
    talk.writer.erase = True
    talk.delete("d1")
    talk.writer.erase = False
    talk.event("newChatMembers", chat={"chatId": OPS, "type": "group"}, newMembers=[{"userId": PETR}, {"userId": VERA}])
    talk.event("leftChatMembers", chat={"chatId": OPS, "type": "group"}, leftMembers=[{"userId": VERA}])


def _embed(talk: Talk, model: Model) -> None:
    with talk.database.connection() as connection:
        registered = embedding_models.register(connection, model.name, model.fingerprint, model.dims)
        embedding_models.enqueue_missing(connection, registered.model_id)
    worker = Worker(talk.database, lambda _: model, WorkerStats())
    # Without the index, which answers nearly, so that both answer exactly.
    while worker.round():
        pass


@pytest.fixture(scope="module")
def conversations(postgres_server: PostgresServer, cluster_url: str, tiny_model_dir: Path) -> Iterator[dict[str, Talk]]:
    """The same conversation on one server and on the cluster, with vectors."""
    model = Model.load(tiny_model_dir)
    with postgres_server.fresh() as url:
        talks = {"one server": Talk(url), "cluster": Talk(cluster_url)}
        for talk in talks.values():
            _converse(talk)
            _embed(talk, model)
        yield talks
        for talk in talks.values():
            talk.close()


@pytest.fixture
def both(conversations: dict[str, Talk]) -> Iterator[dict[str, Talk]]:
    """The two conversations, which a test leaves alike: one message more in an archive changes every score in it."""
    yield conversations
    one, other = ([(event.event_id, event.type) for event in talk.written] for talk in conversations.values())
    assert one == other, "the test has told one archive what it has not told the other"
    one, other = (
        talk.rows("SELECT sum(messages), sum(deleted) FROM chat_user_counts") for talk in conversations.values()
    )
    assert one == other, "the test has changed one archive alone"


def _take_up(talk: Talk) -> None:
    """Write again: the server has ended the session of a writer that was silent."""
    talk.writer.close()
    assert talk.writer.acquire()


def _refused(database: Database, why: str, *, migrate: bool) -> None:
    with contextlib.closing(database), pytest.raises(ConfigError, match=why):
        database.open(migrate=migrate)


def _archive(talk: Talk, models_dir: Path) -> Archive:
    config = talk.database._config
    return Archive(Config(database=config.database, embedding=Embedding(models_dir=str(models_dir))))


def test_an_archive_on_one_server_is_refused_if_it_is_configured_as_distributed(database_url: str) -> None:
    for migrate in (True, False):
        _refused(distributed(database_url), "and the archive lies on one server", migrate=migrate)


def test_a_server_without_citus_gets_no_distributed_archive(empty_database_url: str) -> None:
    _refused(distributed(empty_database_url), "this database has no extension citus", migrate=True)


@needs_cluster
def test_a_distributed_archive_lies_as_documented_and_is_refused_if_not_configured_so(cluster_url: str) -> None:
    layout = {table: (method, column) for table, method, column in on(cluster_url, _LAYOUT)}
    assert layout == (
        dict.fromkeys(EVERYWHERE, ("n", ""))
        | dict.fromkeys(BY_BOT, ("h", "bot_id"))
        | dict.fromkeys(BY_CHAT, ("h", "chat_id"))
    )
    for migrate in (True, False):
        database = distributed(cluster_url, wanted=False)
        _refused(database, "the archive is distributed over several machines", migrate=migrate)


@needs_cluster
def test_a_role_that_only_owns_its_schema_keeps_a_distributed_archive() -> None:
    cluster = ClusterDatabase(os.environ[VARIABLE])
    role = f"keeper_{cluster.name}"
    try:
        on(cluster.url, "CREATE EXTENSION vector")
        cluster.everywhere(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        on(cluster.url, f"CREATE SCHEMA AUTHORIZATION {role}")
        # Of the role's search_path, not of ours; machines have only the role's.
        on(cluster.url, "GRANT CREATE ON SCHEMA public TO PUBLIC")
        url = conninfo.make_conninfo(cluster.url, user=role, password="x")
        with pytest.raises(SchemaError, match="other roles may create functions in schema public"):
            distributed(url).open()
        on(cluster.url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        with distributed(url):
            pass
        with contextlib.closing(Talk(url)) as talk:
            talk.say("1", "сервер упал")
            with talk.database.connect() as connection:
                assert verification.verify(connection)
            with talk.database.connect(None) as connection:
                assert maintenance.plan(connection).invalid == []
                assert maintenance.maintain(connection)
    finally:
        cluster.drop()
        cluster.everywhere(f"DROP ROLE {role}")


@needs_cluster
def test_a_distributed_archive_of_an_older_release_is_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, fresh = ClusterDatabase(os.environ[VARIABLE]), ClusterDatabase(os.environ[VARIABLE])
    try:
        with monkeypatch.context() as older:
            first = {number: script for number, script in schema.migrations().items() if number <= 12}
            older.setattr(schema, "migrations", lambda: first)
            there = [table for table in BY_CHAT if f"CREATE TABLE {table} " in "".join(first.values())]
            older.setattr(distribution, "BY_CHAT", tuple(there))
            older.setattr(distribution, "BY_BOT", ("events",))
            with distributed(cluster.url):
                pass
        with distributed(cluster.url) as database, database.connect() as connection:
            assert schema.schema_version(connection) == max(schema.migrations())
        assert {table for table, method, _ in on(cluster.url, _LAYOUT) if method == "h"} == {*BY_BOT, *BY_CHAT}
        with distributed(fresh.url):
            assert catalogue(cluster.url) == catalogue(fresh.url)
    finally:
        cluster.drop()
        fresh.drop()


@needs_cluster
def test_the_cluster_derives_the_same_rows(both: dict[str, Talk]) -> None:
    one, other = both["one server"], both["cluster"]
    for table in DERIVED:
        columns = _without_times(one, table)
        assert rows(other.url, table, columns) == rows(one.url, table, columns), table


@needs_cluster
def test_forty_questions_are_answered_alike(both: dict[str, Talk], models_dir: Path) -> None:
    assert len(_QUESTIONS) == 40
    with _archive(both["one server"], models_dir) as one, _archive(both["cluster"], models_dir) as other:
        found = 0
        for question in _QUESTIONS:
            answers = [archive.search(**question) for archive in (one, other)]
            expected, hits = ([(hit.chat_id, hit.msg_id, round(hit.score, 4)) for hit in a.hits] for a in answers)
            assert hits == expected, (question, [h.hits[:2] for h in answers])
            assert answers[0].showing == answers[1].showing
            found += len(hits)
        assert found > 200


@needs_cluster
def test_other_questions_are_answered_alike(both: dict[str, Talk], models_dir: Path) -> None:
    accesses = [
        Access("all"), Access("chat", chats=frozenset([OPS])), Access("time", since=moment(3)),
        Access("both", chats=frozenset([OPS, DEV]), since=moment(1)), Access("member", user=ANNA),
    ]  # fmt: skip
    asked: list[Callable[[Archive], Any]] = [
        lambda a: [m.msg_id for m in a.thread(OPS, "a2")],
        lambda a: a.chats(),
        lambda a: a.users(),
        lambda a: a.context("почему упал сервер").conversations,
        lambda a: a.count("сервер"),
        lambda a: a.chat_view(OPS).messages,
        lambda a: a.existing([OPS], threads=True),
        lambda a: [m.msg_id for m in a.latest(limit=20)],
        lambda a: (s := a.statistics(), s.messages, s.authors, s.days, s.busiest)[1:],
        lambda a: (s := a.statistics(since=moment(5)), s.messages, s.authors, s.days, s.busiest)[1:],
        lambda a: a.nobodys_chats(),
    ]
    with _archive(both["one server"], models_dir) as one, _archive(both["cluster"], models_dir) as other:
        for access in accesses:
            for number, question in enumerate(asked):
                answers = []
                for archive in (one, other):
                    try:
                        answers.append(repr(question(archive.seen_by(access))))
                    except VkTeamsError as error:  # the same refusal for the same reader
                        answers.append(f"{type(error).__name__}: {error}")
                assert answers[0] == answers[1], (access.name, number)


@needs_cluster
def test_the_writer_does_not_wait_for_a_worker_that_stores_other_vectors_of_the_shards(both: dict[str, Talk]) -> None:
    for talk in both.values():
        _take_up(talk)
        talk.say("w1", "скоро удалят", at=400, chat=DEV)
        with talk.connection() as worker, worker.transaction():
            worker.execute("DELETE FROM embeddings WHERE model_id = 0")
            talk.delete("w1", chat=DEV)  # the server would end the worker's transaction after 10 s


@needs_cluster
def test_what_maintains_an_archive_runs_on_the_cluster(both: dict[str, Talk], tiny_model_dir: Path) -> None:
    talk = both["cluster"]
    model = Model.load(tiny_model_dir)
    for each in both.values():
        Worker(each.database, lambda _: model, WorkerStats()).maintain(idle=True)
    with talk.database.connect() as connection:
        assert replay.everything(connection, erase=False).messages == 0
        assert [check.name for check in verification.verify(connection) if check.wrong] == []
    with talk.database.connect(None) as connection:
        assert maintenance.maintain(connection)
    for each in both.values():
        with each.database.connect() as connection:
            person_erasure.erase(connection, [VERA], by="test")
            each.erased = erasure.erase(connection, moment(100), [OPS])  # type: ignore[attr-defined]
    assert both["cluster"].erased == both["one server"].erased  # type: ignore[attr-defined]
    with talk.database.connect() as connection:
        assert [check.name for check in verification.verify(connection) if check.wrong] == []


@needs_cluster
def test_maintenance_sees_and_mends_the_indexes_of_the_shards(
    cluster: ClusterDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = vector_index.GRAPHS
    monkeypatch.setattr(vector_index, "GRAPHS", (replace(small, most=100), large))
    monkeypatch.setattr(indexes, "MIN_SAVING", 100_000)
    database = ClusterDatabase(cluster.url)
    vectors = (
        "INSERT INTO embeddings"
        " SELECT chat_id, msg_id, 1, 'message', 0, 'h', '[1,0]' FROM messages"
        " WHERE substr(msg_id, 2)::int BETWEEN %s AND %s"
    )
    try:
        with distributed(database.url):
            pass
        with contextlib.closing(Talk(database.url)) as talk, talk.database.connect(None) as connection:
            talk.many([f"text {n}" for n in range(4000)])
            talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')")
            talk.execute(vectors, 1, 50)
            assert vector_index.ensure_index(connection, 1, 2)
            talk.execute(vectors, 51, 300)
            [(shard, host, port)] = on(
                database.url,
                "SELECT table_name::text || '_' || shardid, nodename, nodeport FROM citus_shards"
                " WHERE table_name = 'messages'::regclass"
                " AND shardid = get_shard_id_for_distribution_column(%s, %s::text)",
                "messages", OPS,
            )  # fmt: skip
            here = {
                "host": host,
                "port": port,
                "options": "-c citus.enable_manual_changes_to_shards=on -c citus.override_table_visibility=off",
            }
            time_index = shard.replace("messages", "messages_time")
            for command in (  # what an interrupted REINDEX and an interrupted build leave
                f"CREATE INDEX {time_index}_ccnew ON {shard} (sent_at)",
                f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{time_index}'::regclass",
            ):
                on(database.url, command, **here)
            talk.execute("DELETE FROM messages WHERE substr(msg_id, 2)::int %% 40 <> 0 AND chat_id = %s", OPS)
            connection.execute("VACUUM (ANALYZE) messages, embeddings")
            plan = maintenance.plan(connection)
            assert [index.name for index in plan.invalid] == ["messages_time", f"public.{time_index}_ccnew"]
            assert "messages_pkey" in [index.name for index in plan.grown]
            assert plan.outgrown == []
            talk.execute(
                vectors.replace("0, 'h'", "n, 'h'").replace("WHERE", ", generate_series(1, 10) AS n WHERE"), 1, 4000
            )
            connection.execute("VACUUM (ANALYZE) embeddings")
            assert maintenance.plan(connection).outgrown == ["embeddings_hnsw_1_message"]
            assert maintenance.maintain(connection)
            plan = maintenance.plan(connection)
            assert (plan.invalid, plan.grown, plan.outgrown) == ([], [], [])
            options = "SELECT DISTINCT reloptions[1] FROM pg_class WHERE relname ~ '^embeddings_hnsw_1_message_\\d+$'"
            assert on(database.url, options, **here) == [(f"m={large.m}",)]
    finally:
        database.drop()


@needs_cluster
@pytest.mark.timeout(240)
def test_kills_and_moved_shards_lose_and_double_nothing(
    cluster: ClusterDatabase, vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, models_dir: Path
) -> None:
    database = ClusterDatabase(cluster.url)
    oracle = Oracle(simulator, database.url)
    daemon = vkteamsd(
        api_url=simulator.url, database_url=database.url,
        options={"embedding.models_dir": str(models_dir), "database.distributed": True},
    )  # fmt: skip
    pause = threading.Event()
    try:
        with Traffic(simulator, rate=20):
            daemon.started()
            for _ in range(3):
                pause.wait(1.5)
                daemon.kill9()
                daemon.started()
            moved = _move_shards(database)
            pause.wait(1)
        oracle.wait(90)
        daemon.stop()
        oracle.check()
        assert moved == {"events", "messages"}
        until(lambda: oracle.rows("SELECT count(*) FROM pg_prepared_xacts")[0][0] == 0, 60, "no transaction in doubt")
    finally:
        oracle.close()
        daemon.close()
        database.drop()


def _move_shards(database: ClusterDatabase) -> set[str]:
    """Move a shard of the events and one of the messages that hold rows to the other worker; the tables moved."""
    moved = set()
    for table in ("events", "messages"):
        [(shard, host, port)] = on(
            database.url,
            "SELECT s.shardid, s.nodename, s.nodeport FROM citus_shards s WHERE s.table_name = %s::regclass"
            " ORDER BY s.shard_size DESC LIMIT 1",
            table,
        )
        to = next(worker for worker in database.workers if worker != (host, port))
        on(database.url, "SELECT citus_move_shard_placement(%s, %s, %s, %s, %s)", shard, host, port, *to)
        moved.add(table)
    return moved


def _without_times(talk: Talk, table: str) -> str:
    """The columns that do not say when a row was written."""
    columns = talk.rows(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND table_schema = 'public'"
        " AND NOT column_name = ANY(%s) ORDER BY ordinal_position",
        table,
        ["received_at", "replaced_at", "first_seen_at", "seen_at", "deleted_at", "joined_at", "left_at"],
    )
    return ", ".join(name for (name,) in columns)


@needs_cluster
@pytest.mark.parametrize("place", ["one server", "cluster"])
def test_a_silent_session_that_holds_rows_is_ended_also_on_another_machine(both: dict[str, Talk], place: str) -> None:
    config = both[place].database._config
    impatient = Config(database=msgspec.structs.replace(config.database, patience=0.5))
    hold = "UPDATE messages SET pinned_at = NULL WHERE chat_id = %s"
    changed = 0
    with (
        contextlib.closing(Database(impatient)) as database, both[place].connection() as silent,
        pytest.raises(psycopg.Error),
    ):  # fmt: skip
        database.open(migrate=False)
        with silent.transaction():
            silent.execute(hold, (OPS,))
            with database.connect() as waiting:
                waiting.execute("SET statement_timeout = '5s'")
                changed = waiting.execute(hold, (OPS,)).rowcount
    assert changed > 0, "it would have waited for 5 s in vain"


@needs_cluster
def test_beside_a_frozen_machine_questions_end_in_time_and_health_says_why(
    both: dict[str, Talk], cluster: ClusterDatabase, models_dir: Path, tmp_path: Path
) -> None:
    office = Office(tmp_path, both["cluster"].url, models_dir)
    office.configure(search={"timeout": 1})
    frozen = Machine(os.environ[VARIABLE], *cluster.workers[0])
    frozen.pause()
    try:
        for words in (("search", "text", "сервер"), ("context", "chats")):
            code, said = office.failed(*words)
            assert code == 69 and "the search was cancelled after 1 s" in said, words
        assert any("database: the search was cancelled" in p for p in office.ctl("diagnostic", "health")["problems"])
    finally:
        frozen.resume()
    frozen.stop(signal.SIGKILL)
    try:
        code, said = office.failed("search", "text", "сервер")
        assert code == 69 and f"{frozen.host}:{frozen.port}" in said
    finally:
        frozen.start()
    until(lambda: office.ctl("search", "text", "сервер")["hits"], 30, "an answer of all machines")
