"""The bundled PostgreSQL works in directories of any place and name, or says what to do."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from tests.harness.bundled import CLOSED
from tests.harness.temporary import servers
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.store.bundled import listener
from vkteams_daemon.store.bundled.listener import SOCKET
from vkteams_daemon.store.bundled.server import BundledServer

Make = Callable[[Path, Path], BundledServer]


def _socket_of(conninfo: str) -> Path:
    with psycopg.connect(conninfo) as connection:
        return Path(connection.info.host)


@pytest.fixture
def state(bundled_base: Path) -> Path:
    """The state directory of a database that is there; what it recorded about sockets is forgotten."""
    (bundled_base / "state/postgresql/socket").unlink(missing_ok=True)
    return bundled_base / "state"


@pytest.fixture(autouse=True)
def no_private_directories_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[str] = []

    def mkdtemp(**place: str) -> str:
        made.append(tempfile.mkdtemp(**place))
        return made[-1]

    monkeypatch.setattr(listener, "tempfile", SimpleNamespace(mkdtemp=mkdtemp))
    yield
    for directory in made:
        Path(directory).rmdir()


def test_socket_lies_in_the_runtime_directory_for_owner_and_group_only(
    state: Path, open_tmp: Path, make_server: Make
) -> None:
    share = make_server(state, open_tmp / "run")
    directory = _socket_of(share.acquire())
    assert directory == open_tmp / "run/postgresql"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    assert stat.S_IMODE((directory / SOCKET).stat().st_mode) == 0o770
    assert stat.S_IMODE((state / "postgresql/18").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["long" * 25, "with,comma"])
def test_socket_moves_to_a_private_directory_that_is_recorded_and_kept(
    state: Path, open_tmp: Path, name: str, make_server: Make
) -> None:
    share = make_server(state, open_tmp / name)
    directory = _socket_of(share.acquire())
    assert directory.parent == Path("/tmp")
    assert stat.S_IMODE(directory.stat().st_mode) == (0o750 if os.geteuid() == 0 else 0o700)
    assert (state / "postgresql/socket").read_text() == f"{directory}\n"
    share.release()
    assert _socket_of(share.acquire()) == directory, "the next start uses the same one"


@pytest.mark.parametrize("spare", [0, -1])
def test_longest_socket_path_that_fits_is_used(state: Path, open_tmp: Path, make_server: Make, spare: int) -> None:
    run = open_tmp / ("r" * (107 - len(str(open_tmp / "postgresql" / SOCKET)) - 1 - spare))
    wanted = run / "postgresql"
    assert len(str(wanted / SOCKET)) == 107 - spare
    assert (_socket_of(make_server(state, run).acquire()) == wanted) == (spare == 0)


def test_private_directory_that_others_could_have_made_is_not_reused(
    state: Path, open_tmp: Path, make_server: Make
) -> None:
    share = make_server(state, open_tmp / ("long" * 25))
    share.acquire()
    share.release()
    trap = open_tmp / "trap"
    trap.mkdir()
    trap.chmod(0o777)
    (state / "postgresql/socket").write_text(f"{trap}\n")
    assert _socket_of(share.acquire()) != trap


def test_odd_characters_in_the_paths_are_quoted(open_tmp: Path, make_server: Make) -> None:
    # A copy of the programs is called by initdb through a shell, between double quotes.
    base = open_tmp / ("it's ю" if CLOSED else 'it\'s $HOME `x` "q" \\ ю')
    share = make_server(base / "state", base / "run")
    with psycopg.connect(share.acquire()) as connection:
        assert connection.execute("SHOW data_directory").fetchone() == (str(base / "state/postgresql/18"),)
    assert _socket_of(share.acquire()) == base / "run/postgresql"
    share.release()
    assert servers(open_tmp) == []


def test_relative_paths_are_resolved_when_the_object_is_made(
    bundled_base: Path, open_tmp: Path, monkeypatch: pytest.MonkeyPatch, make_server: Make
) -> None:
    monkeypatch.chdir(bundled_base)
    share = make_server(Path("state"), Path("run"))
    monkeypatch.chdir(open_tmp)
    share.acquire()
    share.release()
    assert list(open_tmp.iterdir()) == []


def test_libpq_variables_do_not_lead_the_client_elsewhere(
    state: Path, open_tmp: Path, monkeypatch: pytest.MonkeyPatch, make_server: Make
) -> None:
    for name, value in {"PGPORT": "1", "PGHOST": "elsewhere.invalid", "PGUSER": "eve", "PGDATABASE": "x"}.items():
        monkeypatch.setenv(name, value)
    share = make_server(state, open_tmp / "run")
    psycopg.connect(share.acquire()).close()


def test_two_servers_with_one_runtime_directory_do_not_meet(
    bundled_base: Path, bundled_copy: Path, make_server: Make
) -> None:
    first = make_server(bundled_base / "state", bundled_copy / "run")
    second = make_server(bundled_copy / "state", bundled_copy / "run")
    assert _socket_of(first.acquire()) != _socket_of(second.acquire())
    assert first.running() != second.running()


def test_false_server_in_the_runtime_directory_is_not_asked(state: Path, open_tmp: Path, make_server: Make) -> None:
    """Something else that listens where the socket should be, another server say, is left alone."""
    share = make_server(state, open_tmp / "run")
    share.acquire()
    share.release()
    with socket.socket(socket.AF_UNIX) as false:
        false.bind(str(open_tmp / "run/postgresql" / SOCKET))
        false.listen()
        assert _socket_of(share.acquire()).parent == Path("/tmp")
        share.release()


def test_symbolic_link_to_another_disk_is_followed(bundled_copy: Path, make_server: Make) -> None:
    elsewhere = bundled_copy / "disk"
    (bundled_copy / "state/postgresql").rename(elsewhere)
    (bundled_copy / "state/postgresql").symlink_to(elsewhere)
    share = make_server(bundled_copy / "state", bundled_copy / "run")
    psycopg.connect(share.acquire()).close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_closed_state_directory_is_one_sentence(open_tmp: Path, make_server: Make) -> None:
    (open_tmp / "closed").mkdir(0o500)
    with pytest.raises(CannotCreate, match=r"closed/state: cannot be made: Permission denied"):
        make_server(open_tmp / "closed/state", open_tmp / "run").acquire()
