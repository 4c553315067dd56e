"""A server, a database or a schema that cannot hold an archive is refused in one sentence that says what to run."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

import vkteams_daemon
from tests.harness import traps
from tests.harness.batches import CHAT, batch, deleted, edited, new
from tests.harness.cluster import on_cluster
from tests.harness.embedding import WatchedModel
from tests.harness.postgres import PostgresServer, _free_port
from tests.harness.scale import FULL
from tests.harness.temporary import SERVER_USER
from tests.harness.waiting import until
from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.workers.worker import Worker
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.language_axis import LanguageAxis, query_vector
from vkteams_daemon.errors import ConfigError, SchemaError
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.retrieval.semantic import search_semantic
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store import embedding_models, gaps, rosters, schema, server_check
from vkteams_daemon.store.admin import cursors, maintenance, measures, person_erasure, stored_events, word_counts
from vkteams_daemon.store.backup import verification
from vkteams_daemon.store.connection_profiles import MAINTENANCE
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import erasure, replay
from vkteams_daemon.system.user import choose_owner

PACKAGE = Path(vkteams_daemon.__file__).parent
_PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


def _database(url: str) -> Database:
    return Database(Config(database=DatabaseOptions(url=url)))


def _execute(url: str, statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statements.encode())


@contextlib.contextmanager
def _pooler(server: PostgresServer, directory: Path, mode: str) -> Iterator[int]:
    """The port of a PgBouncer before the server."""
    port, owner = _free_port(), choose_owner(SERVER_USER)
    home = directory / "pooler"
    owner.make_directory(home, 0o700)
    owner.write_file(home / "users", f'"{server.user}" "{server.password}"\n', 0o600)
    owner.write_file(
        home / "ini",
        f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = plain\nauth_file = {home}/users\npool_mode = {mode}\n",
        0o600,
    )
    assert _PGBOUNCER is not None
    process = owner.popen([_PGBOUNCER, home / "ini"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(server.url().replace(f":{server.port}/", f":{port}/")).close()
            return True
        return False

    try:
        until(answers, 20, "PgBouncer")
        yield port
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.skipif(_PGBOUNCER is None, reason="PgBouncer is not installed")
@pytest.mark.parametrize("mode", ["transaction", "statement", "session"])
def test_only_a_pooler_in_session_mode_is_taken(
    postgres_server: PostgresServer, database_url: str, open_tmp: Path, mode: str
) -> None:
    with _pooler(postgres_server, open_tmp, mode) as port:
        database = _database(database_url.replace(f":{postgres_server.port}/", f":{port}/"))
        if mode == "session":
            with database:
                return
        with pytest.raises(ConfigError, match="leads through a pooler in transaction mode"):
            database.open()
        with pytest.raises(ConfigError, match="leads through a pooler in transaction mode"):
            database.open(migrate=False)


class _Pooled(psycopg.Connection[Any]):
    """A connection for which the pooler has made up a process number."""

    @property
    def info(self) -> Any:
        return SimpleNamespace(backend_pid=1)


def test_sessions_that_are_shared_are_refused(database_url: str) -> None:
    """What a pooler that is not busy does: both connections get one session."""
    with _Pooled.connect(database_url, autocommit=True) as shared, pytest.raises(ConfigError, match="pooler"):
        server_check.check_session(shared, lambda: shared)
    with _Pooled.connect(database_url, autocommit=True) as connection:
        server_check.check_session(connection, lambda: psycopg.connect(database_url, autocommit=True))


def test_server_itself_is_asked_over_one_connection(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        server_check.check_session(connection, lambda: pytest.fail("another connection is opened"))


def test_session_that_changes_between_two_statements_is_refused(database_url: str) -> None:
    """What a busy pooler does: each connection gets a session of its own, and not for long."""

    class Switching:
        info = SimpleNamespace(backend_pid=1)

        def __init__(self, *sessions: psycopg.Connection[Any]) -> None:
            self._sessions = itertools.cycle(sessions)

        def execute(self, *arguments: Any, **options: Any) -> Any:
            return next(self._sessions).execute(*arguments, **options)

    with contextlib.ExitStack() as stack:
        one, two, other = (stack.enter_context(psycopg.connect(database_url, autocommit=True)) for _ in range(3))
        with pytest.raises(ConfigError, match="pooler"):
            server_check.check_session(Switching(one, two), lambda: other)  # type: ignore[arg-type]


def test_new_archive_is_refused_where_others_may_create(
    postgres_server: PostgresServer, empty_database_url: str
) -> None:
    other = f"other_{empty_database_url.rpartition('/')[2]}"
    _execute(empty_database_url, f"CREATE ROLE {other}; GRANT CREATE ON SCHEMA public TO PUBLIC, {other}")
    try:
        with pytest.raises(SchemaError, match="other roles may create functions in schema public") as refused:
            schema.migrate(empty_database_url)
        assert refused.value.hint == f'Run `REVOKE CREATE ON SCHEMA "public" FROM PUBLIC, {other}`.'
        _execute(empty_database_url, refused.value.hint.split("`")[1])
        assert schema.migrate(empty_database_url) == list(schema.migrations())
        _execute(empty_database_url, "GRANT CREATE ON SCHEMA public TO PUBLIC")
        with _database(empty_database_url) as database, database.connect() as connection:
            [problem] = server_check.problems(connection)
            assert "schema public" in problem and "REVOKE CREATE" in problem
    finally:
        _execute(empty_database_url, f"DROP OWNED BY {other}; DROP ROLE {other}")


def test_new_archive_is_refused_where_letters_are_bytes(postgres_server: PostgresServer) -> None:
    name = "letters_are_bytes"
    postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'")
    try:
        with pytest.raises(SchemaError, match="takes letters for bytes") as refused:
            schema.migrate(postgres_server.url(name))
        postgres_server.drop_database(name)
        postgres_server.execute(refused.value.hint.split("`")[1])
        assert schema.migrate(postgres_server.url(name)) == list(schema.migrations())
    finally:
        postgres_server.drop_database(name)


def test_daemon_makes_no_second_archive_where_the_search_path_went_astray(database_url: str) -> None:
    _execute(database_url, "CREATE SCHEMA astray")
    database = _database(f"{database_url}?options=-csearch_path%3Dastray")
    with pytest.raises(SchemaError, match="leads to schema astray, and the archive is in schema public"):
        database.open()
    with pytest.raises(SchemaError, match="a schema without an archive, and schema public holds one"):
        database.open(migrate=False)
    database.open(beside=True)
    database.close()


def test_template_database_is_refused(postgres_server: PostgresServer) -> None:
    with pytest.raises(SchemaError, match="the database template1 is a template"):
        schema.migrate(postgres_server.url("template1"))


@pytest.mark.parametrize("table", ["users (id int)", "schema_version (version text)", "schema_version (version int)"])
def test_tables_of_another_program_are_named(empty_database_url: str, table: str) -> None:
    _execute(empty_database_url, f"CREATE TABLE {table}")
    with pytest.raises(SchemaError, match=f"schema public has tables of another program: {table.partition(' ')[0]}"):
        schema.migrate(empty_database_url)


_TRAPS = (
    "hashtextextended(text, integer)", "unnest(text[])", "make_interval(double precision)", "max(integer)",
    "concat_ws(text, text, text)", "length(varchar)", "lower(text)", "set_config(text, text, boolean)",
    "plainto_tsquery(text, text)", "pg_notify(text, text)", "count(text)", "current_setting(text)",
)  # fmt: skip


@contextlib.contextmanager
def _eve(server: PostgresServer, url: str) -> Iterator[str]:
    """The URL of another role that may create in the archive's schema and has no right to read a table."""
    eve = f"eve_{url.rpartition('/')[2]}"
    _execute(url, f"CREATE ROLE {eve} LOGIN PASSWORD 'x'; GRANT CREATE ON SCHEMA public TO {eve}")
    try:
        yield url.replace(f"{server.user}:{server.password}@", f"{eve}:x@")
    finally:
        server.drop_database(url.rpartition("/")[2])  # DROP OWNED takes a lock for each of thousands of operators
        server.execute(f"DROP ROLE {eve}")


def _functions(eve: str) -> None:
    for trap in _TRAPS:
        _execute(
            eve,
            f"CREATE FUNCTION public.{trap} RETURNS bigint LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION '{traps.WORD}'; END $$",
        )


def _operators(eve: str) -> None:
    assert traps.set_operators(eve) > 1000


def _tables(eve: str) -> None:
    """Of the names of temporary tables: what is meant for one of those would go into another role's trigger."""
    source = "".join(file.read_text() for file in (PACKAGE / "store").rglob("*.py"))
    names = set(re.findall(r"pg_temp\.(\w+)", source))
    assert {"new_counts", "replayed_"} <= names
    replayed = [f"replayed_{table}" for table in ("chats", "users", "chat_members", "messages", "message_versions")]
    _execute(
        eve,
        "CREATE FUNCTION public.trap_of_a_table() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{traps.WORD}'; END $$",
    )
    for name in {*names, *replayed}:
        _execute(
            eve,
            f"CREATE TABLE public.{name} (word text); GRANT ALL ON public.{name} TO PUBLIC;"
            f" CREATE TRIGGER trap BEFORE INSERT OR UPDATE OR DELETE ON public.{name} FOR EACH STATEMENT"
            " EXECUTE FUNCTION public.trap_of_a_table()",
        )


def _types(eve: str) -> None:
    """A cast belongs to a type of one's own: it is taken only where a statement finds that type."""
    _execute(
        eve,
        "CREATE TYPE public.jsonb AS (word text); CREATE DOMAIN public.text AS pg_catalog.text;"
        " CREATE TYPE public.regconfig AS (word text); CREATE DOMAIN public.tsquery AS pg_catalog.text;"
        " CREATE DOMAIN public.timestamptz AS pg_catalog.text; CREATE DOMAIN public.oid AS pg_catalog.int4;"
        " CREATE TYPE public.regclass AS (word text);"
        " CREATE FUNCTION public.cast_trap(public.jsonb) RETURNS pg_catalog.text LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{traps.WORD}'; END $$;"
        " CREATE CAST (public.jsonb AS pg_catalog.text) WITH FUNCTION public.cast_trap(public.jsonb) AS IMPLICIT",
    )


# The types come last: they change what the words of the other statements mean.
LAID = {"": [_functions, _operators, _tables, _types]}
if FULL:
    LAID |= {lay.__name__: [lay] for lay in LAID[""]}


@pytest.mark.parametrize("kinds", LAID.values(), ids=LAID)
def test_nothing_that_another_role_creates_ever_runs(
    postgres_server: PostgresServer, database_url: str, model: WatchedModel, kinds: list[Callable[[str], None]]
) -> None:
    """The archive runs already in a schema that is open: every statement goes on to find PostgreSQL's own."""
    if on_cluster(database_url):
        pytest.skip("Citus itself takes operators and functions of an open schema")
    with _eve(postgres_server, database_url) as eve:
        for lay in kinds:
            lay(eve)
        _use_everything(database_url, model)
        assert traps.WORD not in postgres_server.log()


def _use_everything(url: str, model: WatchedModel) -> None:
    writer = Writer(lambda: psycopg.connect(url, autocommit=True), "1")
    with _database(url) as database, database.connect() as connection:
        embedding_models.register(connection, model.name, model.fingerprint, model.dims)
        assert writer.acquire()
        writer.store(batch(*(new(number, text=f"the server db-{number} answers") for number in range(1, 61))))
        writer.store(batch(edited(61, "m7", "the server answers"), deleted(62, "m8"), new(63, chat="x@chat.agent")))
        writer.close()
        worker = Worker(database, lambda _: model, WorkerStats())
        while worker.round() or worker.maintain(idle=True):
            pass
        replay.everything(connection, erase=False)
        replay.quarantined(connection, erase=False)
        word_counts.count_words(connection)
        maintenance.plan(connection)
        with database.connect(MAINTENANCE) as free:
            maintenance.maintain(free)
        measures.measure(connection)
        assert verification.verify(connection)
        now = datetime.now(UTC)
        chat, later = {"type": "group", "title": "x", "about": None}, now + timedelta(1)
        rosters.save(connection, "x@chat.agent", now, chat, {"anna": "admin"}, bot_id="1")
        rosters.save(connection, "x@chat.agent", later, {**chat, "type": None}, {}, bot_id="1")
        rosters.save_refusal(connection, "x@chat.agent", later, "no", bot_id="1")
        assert rosters.list_rosters(connection, ["x@chat.agent"])
        rosters.list_due(connection, now, ["x@chat.agent"], bot_id="1")
        with connection.transaction():
            gaps.add_restored(connection, now)
        stored_events.last_events(connection, limit=10)
        stored_events.quarantined_events(connection)
        erasure.count_expired(connection, now)
        embedding_models.model_statistics(connection)
        gaps.list_gaps(connection)
        assert server_check.problems(connection)
        with Archive(url) as archive:
            assert archive.search("server", mode="text").hits
            assert archive.search("sevrer", mode="text") is not None
            [statistics] = embedding_models.model_statistics(connection)
            direction = [1.0, *[0.0] * (model.dims - 1)]
            for axis in (None, LanguageAxis(tuple(direction), 0.5, 0.0)):
                query = query_vector([model.dims**-0.5] * model.dims, axis)
                assert search_semantic(connection, query, statistics.model, Scope(), 5)
                assert search_semantic(connection, query, statistics.model, Scope(("x@chat.agent",)), 5)
            assert archive.statistics().messages == len(archive.latest(limit=1000)) + 1, "one is deleted"
            assert archive.context("recent", timeframe=timedelta(days=3650)).conversations
            archive.context("topic", query="server")
            assert archive.chats() and archive.users() and list(archive.export())
            since = datetime(2025, 1, 1, tzinfo=UTC)
            confined = archive.seen_by(Access("x", frozenset({CHAT}), since=since))
            assert confined.search("sevrer answers", mode="text", chat_ids=[CHAT], since=since).hits
            assert confined.context("topic", query="server", chat_ids=[CHAT], since=since).conversations
            assert confined.statistics(chat_ids=[CHAT], since=since).messages
            assert confined.chats(chat_ids=[CHAT], since=since) and confined.users(chat_ids=[CHAT], since=since)
            connection.execute(
                "INSERT INTO rosters (chat_id, tried_at, read_at) VALUES (%s, now(), now()) ON CONFLICT DO NOTHING",
                (CHAT,),
            )
            connection.execute(
                "INSERT INTO roster_members (chat_id, user_id, since, role) VALUES (%s, 'eve', '2025-01-01', 'member')",
                (CHAT,),
            )
            member = archive.seen_by(Access("x", user="eve"))
            assert member.search("sevrer answers", mode="text").hits and member.statistics().messages
            assert not archive.seen_by(Access("x", user="nobody")).chats() and archive.nobodys_chats() is not None
        erasure.erase(connection, datetime(2027, 1, 1, tzinfo=UTC), ["x@chat.agent"])
        person_erasure.erase(connection, ["anna"], [("x@chat.agent", "m63")], by="root", ignore=True)
        cursors.set_cursor(database.connect, "1", 300)


def test_operator_in_our_schema_does_not_come_before_pgvectors(
    postgres_server: PostgresServer, empty_database_url: str, model: WatchedModel
) -> None:
    """pgvector has a schema of its own, which the search_path names after ours."""
    _execute(empty_database_url, "CREATE SCHEMA vectors; CREATE EXTENSION vector SCHEMA vectors")
    schema.migrate(empty_database_url)
    _execute(empty_database_url, "GRANT USAGE ON SCHEMA vectors TO PUBLIC")
    with _eve(postgres_server, empty_database_url) as eve:
        _execute(
            eve,
            "CREATE FUNCTION public.trap(vectors.halfvec, vectors.halfvec) RETURNS pg_catalog.float8 LANGUAGE plpgsql"
            f" AS $$ BEGIN RAISE EXCEPTION '{traps.WORD}'; END $$;"
            " CREATE OPERATOR public.<=>"
            " (LEFTARG = vectors.halfvec, RIGHTARG = vectors.halfvec, FUNCTION = public.trap)",
        )
        _use_everything(empty_database_url, model)
        assert traps.WORD not in postgres_server.log()
