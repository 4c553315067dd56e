"""The first user starts the bundled PostgreSQL, all users share it, and the last one stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.harness.bundled import ServerUser
from tests.harness.temporary import SERVER_USER, servers
from tests.harness.waiting import until
from vkteams_daemon.errors import DatabaseUnavailable
from vkteams_daemon.store.bundled.cluster import Cluster
from vkteams_daemon.store.bundled.server import BundledServer
from vkteams_daemon.system.user import choose_owner


@pytest.fixture
def share(bundled_base: Path) -> Iterator[BundledServer]:
    share = BundledServer(bundled_base / "state", bundled_base / "run")
    yield share
    share.release()


def _ask(conninfo: str, question: str) -> object:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        cursor = connection.execute(question.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def test_first_user_starts_it_and_gets_a_conninfo(share: BundledServer) -> None:
    assert share.running() is None
    conninfo = share.acquire()
    assert _ask(conninfo, "SELECT current_user || ' ' || current_database()") == "vkteams vkteams"
    with psycopg.connect(conninfo) as connection:
        status = Path(f"/proc/{connection.info.backend_pid}/stat").read_text()
    assert share.running() == int(status.rpartition(")")[2].split()[1]), "the parent of a session's process"


_SETTINGS = {
    "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "data_checksums": "on",
    "listen_addresses": "", "server_encoding": "UTF8", "shared_buffers": "128MB", "max_connections": "60",
    "logging_collector": "on", "log_rotation_age": "1d", "log_truncate_on_rotation": "on",
}  # fmt: skip


def test_server_runs_with_the_settings_of_a_new_database(share: BundledServer) -> None:
    conninfo = share.acquire()
    assert {name: _ask(conninfo, f"SHOW {name}") for name in _SETTINGS} == _SETTINGS


def test_a_large_archive_gets_more_shared_memory_unless_the_administrator_has_chosen(open_tmp: Path) -> None:
    cluster = Cluster(open_tmp, choose_owner(SERVER_USER))
    (cluster.data / "base" / "5").mkdir(parents=True)
    conf = cluster.data / "postgresql.conf"
    conf.write_text("#shared_buffers = 1GB\nshared_buffers = 128MB\t# min 128kB\n")
    for size in (100, 300):
        with (cluster.data / "base" / "5" / "1234").open("wb") as file:
            file.truncate(size * 2**20)  # it takes no space
        assert cluster.shared_buffers() == (size if size > 128 else None)
    for chosen in ("shared_buffers = '2 GB'", "include_dir = 'conf.d'"):
        (cluster.data / "postgresql.auto.conf").write_text(f"{chosen}  # mine\n")
        assert cluster.shared_buffers() is None


def test_database_has_russian_search_vectors_and_a_built_in_locale(share: BundledServer) -> None:
    assert _ask(share.acquire(), "SELECT lower('ПРИВЕТ') || upper('ё')") == "приветЁ"
    assert _ask(share.acquire(), "SELECT to_tsvector('russian', 'Ежики — колючие!')::text") == "'ежик':1 'колюч':2"
    assert _ask(share.acquire(), "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'") == 1
    assert _ask(
        share.acquire(), "SELECT datcollate || datctype || datlocale FROM pg_database WHERE datname = 'vkteams'"
    ) == ("C.UTF-8" * 3)


def test_only_peer_authentication_is_accepted(share: BundledServer) -> None:
    with psycopg.connect(share.acquire()) as connection:
        methods = connection.execute("SELECT DISTINCT type, auth_method FROM pg_hba_file_rules").fetchall()
    assert methods == [("local", "peer")]


def test_log_has_the_error_of_a_statement_without_its_text(share: BundledServer, bundled_base: Path) -> None:
    with psycopg.connect(share.acquire()) as connection, pytest.raises(psycopg.Error):
        connection.execute("SELECT 'what people said'::integer")
    log = bundled_base / "state" / "postgresql" / "log"

    def text() -> str:
        return "".join(file.read_text() for file in log.glob("postgresql-*.log"))

    until(lambda: "invalid input syntax" in text(), what="the error in the log")
    assert "SELECT" not in text()


def test_last_release_of_two_shares_stops_the_server(share: BundledServer, bundled_base: Path) -> None:
    other = BundledServer(bundled_base / "state", bundled_base / "run")
    assert share.acquire() == other.acquire()
    pid = share.running()
    share.release()
    assert other.running() == pid
    other.release()
    assert other.running() is None
    assert servers(bundled_base) == []


def test_data_survives_a_stop(share: BundledServer) -> None:
    _ask(share.acquire(), "CREATE TABLE kept_over_a_stop AS SELECT 42 AS n")
    share.release()
    assert _ask(share.acquire(), "SELECT n FROM kept_over_a_stop") == 42


def test_release_without_acquire_does_nothing(tmp_path: Path) -> None:
    BundledServer(tmp_path / "state", tmp_path / "run").release()
    assert not (tmp_path / "state").exists()


def test_second_release_does_not_touch_another_users_share(share: BundledServer, bundled_base: Path) -> None:
    with ServerUser(bundled_base):
        share.acquire()
        share.release()
        share.release()
        assert share.running()


def test_acquiring_twice_needs_one_release(share: BundledServer) -> None:
    share.acquire()
    share.acquire()
    share.release()
    assert share.running() is None


def test_last_of_several_processes_stops_the_server(share: BundledServer, bundled_base: Path) -> None:
    with ServerUser(bundled_base) as first, ServerUser(bundled_base) as second:
        assert first.server_pid == second.server_pid
        assert first.release() == f"released {first.server_pid}"
        assert second.release() == "released None"
    assert servers(bundled_base) == []


def test_server_of_a_killed_starter_lives_on_and_is_stopped_by_the_next_user(
    share: BundledServer, bundled_base: Path
) -> None:
    with ServerUser(bundled_base) as starter:
        starter.kill()
        share.acquire()
        assert share.running() == starter.server_pid
    share.release()
    assert servers(bundled_base) == []


def test_killed_user_does_not_keep_it_running(share: BundledServer, bundled_base: Path) -> None:
    share.acquire()
    with ServerUser(bundled_base) as user:
        user.kill()
    share.release()
    assert servers(bundled_base) == []


def test_ten_starters_at_once_make_and_start_one_server(open_tmp: Path) -> None:
    users = [ServerUser(open_tmp, wait=False) for _ in range(10)]
    try:
        for user in users:
            user.read_line()
        assert len({user.server_pid for user in users}) == 1
        made = sorted(p.name for p in (open_tmp / "state" / "postgresql").iterdir() if not p.name.startswith("bin-"))
        assert made == ["18", "log", "server.lock", "socket", "start.lock", "users.lock"]
        for user in users[:-1]:
            assert user.release() == f"released {user.server_pid}"
        assert users[-1].release() == "released None"
    finally:
        for user in users:
            user.kill()
    assert servers(open_tmp) == []


def test_users_that_start_and_stop_at_once_all_get_a_server(bundled_base: Path) -> None:
    """Starting beside stopping: nobody is left with a server that is about to go."""
    failures: list[BaseException] = []

    def come_and_go() -> None:
        share = BundledServer(bundled_base / "state", bundled_base / "run")
        try:
            for _ in range(8):
                assert _ask(share.acquire(), "SELECT 1") == 1
                share.release()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert servers(bundled_base) == []


def test_signals_to_the_starters_process_group_do_not_reach_the_server(
    share: BundledServer, bundled_base: Path
) -> None:
    with ServerUser(bundled_base, own_group=True) as starter:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            starter.signal_group(number)
        starter.process.wait(60)
        assert os.getsid(starter.server_pid) not in (starter.process.pid, os.getsid(0))
        assert _ask(share.acquire(), "SELECT 1") == 1
        assert share.running() == starter.server_pid


def test_server_inherits_no_descriptor_and_no_secret_of_its_starter(
    share: BundledServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VKTEAMS_BOT_API_TOKEN", "001.secret")
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("LC_ALL", "ru_RU.KOI8-R")
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        share.acquire()
        pid = share.running()
        opened = set()
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it opens and closes files all the time
                opened.add(str(file.readlink()))
        assert str(Path(f"/proc/self/fd/{writing}").readlink()) not in opened
        assert not [name for name in opened if name.endswith(("users.lock", "start.lock"))]
        assert b"001.secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        os.close(reading)
        os.close(writing)


def test_forked_child_leaves_its_parents_share_alone(share: BundledServer) -> None:
    share.acquire()
    pid = share.running()
    child = os.fork()
    if child == 0:
        share.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert share.running() == pid


def test_acquire_gives_up_on_a_hanging_server_after_the_timeout(share: BundledServer, bundled_base: Path) -> None:
    with ServerUser(bundled_base) as starter:
        os.kill(starter.server_pid, signal.SIGSTOP)
        try:
            with pytest.raises(DatabaseUnavailable, match="in time"):
                share.acquire(timeout=0.5)
        finally:
            os.kill(starter.server_pid, signal.SIGCONT)
        assert _ask(share.acquire(), "SELECT 1") == 1


def test_stop_ends_the_server_while_others_use_it(share: BundledServer, bundled_base: Path) -> None:
    with ServerUser(bundled_base):
        assert BundledServer(bundled_base / "state", bundled_base / "run").stop()
        assert share.running() is None
