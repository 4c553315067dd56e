"""Maintenance: the plan finds what is needed, and after maintenance it finds nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from tests.harness.talk import Talk
from tests.harness.waiting import until
from vkteams_daemon.store import embedding_models, vector_index
from vkteams_daemon.store.admin import indexes, maintenance
from vkteams_daemon.store.connections import Connection


@pytest.fixture
def connection(talk: Talk) -> Iterator[Connection]:
    with talk.connection() as opened:
        yield opened


def _names(states: list[indexes.IndexState]) -> list[str]:
    return [index.name for index in states]


def test_new_archive_needs_nothing_and_can_be_maintained(talk: Talk, connection: Connection) -> None:
    talk.say("1", "one")
    plan = maintenance.plan(connection)
    assert (plan.invalid, plan.grown, plan.outgrown, plan.retired, plan.collation) == ([], [], [], [], False)
    steps = maintenance.maintain(connection)
    assert sorted(step.what for step in steps) == sorted(
        f"{table} vacuumed and analysed" for table in maintenance.TABLES
    )
    assert not any(step.remark for step in steps)


def test_dead_rows_are_counted_and_gone_afterwards(talk: Talk, connection: Connection) -> None:
    talk.many([f"text {n}" for n in range(2000)])
    connection.execute("ALTER TABLE messages SET (autovacuum_enabled = off)")
    connection.execute("DELETE FROM messages")
    connection.execute("SELECT pg_stat_force_next_flush()")
    until(lambda: maintenance.plan(connection).dead.get("messages") == 2000, 30, "the server's count of dead rows")
    before = next(table.octets for table in maintenance.table_sizes(connection) if table.name == "messages")
    maintenance.maintain(connection)
    until(lambda: "messages" not in maintenance.plan(connection).dead, 30, "no dead rows")
    assert next(table.octets for table in maintenance.table_sizes(connection) if table.name == "messages") < before


def test_an_index_that_has_grown_is_rebuilt(
    talk: Talk, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "MIN_SAVING", 100_000)
    talk.many([f"text {n}" for n in range(4000)])
    connection.execute("ALTER TABLE messages SET (autovacuum_enabled = off)")
    # A message here and there keeps every page of the index.
    connection.execute("DELETE FROM messages WHERE substr(msg_id, 2)::int % 40 <> 0")
    connection.execute("VACUUM (ANALYZE) messages")
    grown = maintenance.plan(connection).grown
    assert "messages_pkey" in _names(grown)
    steps = maintenance.maintain(connection)
    assert "messages_pkey rebuilt, which had grown" in [step.what for step in steps]
    assert maintenance.plan(connection).grown == []
    before = next(index.octets for index in grown if index.name == "messages_pkey")
    after = next(
        index for index in indexes.index_states(connection, maintenance.TABLES) if index.name == "messages_pkey"
    )
    assert after.octets < before / 4
    assert after.fresh is not None
    assert after.fresh / 3 < after.octets < after.fresh * 2


def test_invalid_index_is_rebuilt_or_dropped(talk: Talk, connection: Connection) -> None:
    talk.many(["same"] * 3)
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("CREATE UNIQUE INDEX CONCURRENTLY messages_once_ccnew ON messages (text)")
    connection.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'messages_time'::regclass")
    assert _names(maintenance.plan(connection).invalid) == ["messages_once_ccnew", "messages_time"]
    maintenance.maintain(connection)
    assert maintenance.plan(connection).invalid == []
    names = _names(indexes.index_states(connection, maintenance.TABLES))
    assert "messages_time" in names
    assert "messages_once_ccnew" not in names


def test_vectors_of_a_retired_model_are_deleted(talk: Talk, connection: Connection) -> None:
    talk.say("1", "one")
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state)"
                 " VALUES ('old', 'f', 2, 'retired'), ('new', 'g', 2, 'active')")  # fmt: skip
    talk.execute(
        "INSERT INTO embeddings SELECT chat_id, msg_id, m, 'message', 0, 'h', '[1,0]'"
        " FROM messages, generate_series(1, 2) AS m"
    )
    assert maintenance.plan(connection).retired == ["old"]
    assert maintenance.maintain(connection)[0].what == "remains of old deleted"
    assert maintenance.plan(connection).retired == []
    assert talk.rows("SELECT model_id FROM embeddings") == [(2,)]


def test_a_process_that_was_stopped_while_it_built_an_index_is_ended_after_the_patience(
    talk: Talk, connection: Connection, database_url: str
) -> None:
    talk.say("1", "one")
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('old', 'f', 2, 'retired')")
    talk.execute("INSERT INTO embeddings SELECT chat_id, msg_id, 1, 'message', 0, 'h', '[1,0]' FROM messages")
    talk.execute(f"CREATE INDEX {vector_index.index_name(1)} ON embeddings (msg_id)")
    with psycopg.connect(database_url, application_name="vkteamsd", autocommit=True) as stopped:
        stopped.execute(f"SELECT pg_advisory_lock({vector_index.INDEX_LOCK})".encode())
        silent = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND state_change < clock_timestamp() - interval '1s'"
        until(lambda: connection.execute(silent, (stopped.info.backend_pid,)).fetchone(), 20, "a silence of a second")
        maintenance.maintain(connection, patience=1.0)
        assert talk.rows(f"SELECT to_regclass('{vector_index.index_name(1)}')") == [(None,)]
        with pytest.raises(psycopg.OperationalError):
            stopped.execute("SELECT 1")


def test_fresh_size_of_a_vector_index_is_estimated(talk: Talk, connection: Connection) -> None:
    talk.many([f"text {n}" for n in range(3000)])
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 384, 'active')")
    talk.execute(
        "INSERT INTO embeddings SELECT chat_id, msg_id, 1, 'message', 0, 'h',"
        " ARRAY(SELECT random() - 0.5 + 0 * length(msg_id) FROM generate_series(1, 384))::real[]::halfvec"
        " FROM messages"
    )
    (model,) = embedding_models.active_models(connection)
    assert vector_index.ensure_index(connection, model.model_id, model.dims)
    index = next(index for index in indexes.index_states(connection, maintenance.TABLES) if index.kind == "hnsw")
    assert index.fresh is not None
    assert 0.75 < index.octets / index.fresh < 1.25
    assert not index.grown


def test_vector_index_of_a_smaller_archive_is_built_again_with_more_neighbours(
    talk: Talk, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = vector_index.GRAPHS
    monkeypatch.setattr(vector_index, "GRAPHS", (replace(small, most=100), large))
    talk.many([f"text {n}" for n in range(200)])
    talk.execute("INSERT INTO embedding_models (name, fingerprint, dims, state) VALUES ('m', 'f', 2, 'active')")

    def embed(first: int, last: int) -> None:
        talk.execute(
            "INSERT INTO embeddings SELECT chat_id, msg_id, 1, 'message', 0, 'h', '[1,0]' FROM messages"
            f" ORDER BY sent_at OFFSET {first} LIMIT {last - first}"
        )

    def options(name: str = "embeddings_hnsw_1_message") -> list[str]:
        [(options,)] = talk.rows(f"SELECT reloptions FROM pg_class WHERE relname = '{name}'")
        return list(options)

    embed(0, 50)
    assert vector_index.ensure_index(connection, 1, 2)
    assert options() == [f"m={small.m}", f"ef_construction={small.ef_construction}"]
    embed(50, 200)
    maintenance.maintain(connection)
    connection.execute("VACUUM (ANALYZE) embeddings")
    assert maintenance.plan(connection).outgrown == []
    assert options() == [f"m={large.m}", f"ef_construction={large.ef_construction}"]
    assert vector_index.graph_of(connection, 1) == large
    # A rebuild that was interrupted before its last step leaves the replaced index.
    connection.execute("CREATE INDEX embeddings_hnsw_1_message_ccold ON embeddings (chunk)")
    assert _names(maintenance.plan(connection).invalid) == ["embeddings_hnsw_1_message_ccold"]
    maintenance.maintain(connection)
    names = _names(indexes.index_states(connection, maintenance.TABLES))
    assert [name for name in names if name.startswith("embeddings_hnsw")] == ["embeddings_hnsw_1_message"]


def test_role_that_does_not_own_the_tables_gets_remarks(talk: Talk, connection: Connection) -> None:
    connection.execute("CREATE ROLE passer_by")
    try:
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO passer_by")
        connection.execute("SET ROLE passer_by")
        steps = maintenance.maintain(connection)
        # PostgreSQL 15 says it otherwise.
        assert any(re.search("permission denied to vacuum|can vacuum it", step.remark) for step in steps)
    finally:
        connection.execute("RESET ROLE")
        connection.execute("DROP OWNED BY passer_by")
        connection.execute("DROP ROLE passer_by")
