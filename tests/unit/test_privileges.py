from __future__ import annotations

import grp
import os
import pwd
import stat
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from tests.harness.daemon import ROOT
from tests.harness.waiting import until
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.process import privileges
from vkteams_daemon.errors import CannotCreate, ConfigError, PermissionRefused
from vkteams_daemon.system import user
from vkteams_daemon.system.user import Owner, choose_owner

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
NOBODY = pwd.getpwnam("nobody")


def _config(**daemon: Any) -> Config:
    return msgspec.convert({"daemon": daemon}, Config)


def _be(monkeypatch: pytest.MonkeyPatch, uid: int, *, exists: bool = False) -> None:
    """Pretend to be that user, on a system with or without the user `_vkteams`."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: uid)
    uids = {"root": 0, "nobody": 65534} | ({"_vkteams": 990} if exists else {})

    def named(name: str) -> Any:
        return SimpleNamespace(pw_name=name, pw_uid=uids[name], pw_gid=uids[name])

    def numbered(uid: int) -> Any:
        return named({number: name for name, number in uids.items()}[uid])

    for module in (privileges, user):
        monkeypatch.setattr(module, "pwd", SimpleNamespace(getpwnam=named, getpwuid=numbered))


def test_root_becomes_the_packages_user_where_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    _be(monkeypatch, 0, exists=True)
    assert privileges.choose_user(_config()) == Owner("_vkteams", 990, 990, impersonated=True)
    assert privileges.choose_user(_config(user="nobody")).name == "nobody"


def test_root_is_refused_without_allow_root(monkeypatch: pytest.MonkeyPatch) -> None:
    _be(monkeypatch, 0)
    with pytest.raises(PermissionRefused, match="vkteamsd does not run as root, and there is no user _vkteams") as told:
        privileges.choose_user(_config())
    assert _adduser_line() in told.value.hint and "[daemon] user" in told.value.hint
    with pytest.raises(PermissionRefused, match="does not run as root") as refusal:
        privileges.choose_user(_config(user="root"))
    assert "VKTEAMS_DAEMON_ALLOW_ROOT=1" in refusal.value.hint
    assert privileges.choose_user(_config(allow_root=True)) == Owner("root", 0, 0, impersonated=False)
    _be(monkeypatch, 0, exists=True)
    assert privileges.choose_user(_config(user="root", allow_root=True)).uid == 0


def _adduser_line() -> str:
    """The command of README.md that makes the user."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return next(line.strip() for line in readme.splitlines() if line.strip().startswith("adduser "))


@pytest.mark.parametrize("name", ["", "root"])
def test_root_gives_an_archive_to_no_user_that_is_not_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whether the daemon stays root or not: `nobody` runs other programs too."""
    _be(monkeypatch, 0)
    with pytest.raises(PermissionRefused, match="there is no user _vkteams") as told:
        user.choose_owner(name)
    assert _adduser_line() in told.value.hint and "[daemon] user" in told.value.hint
    assert user.choose_owner("nobody").name == "nobody"
    with pytest.raises(ConfigError, match="no user 'nemo'"):
        user.choose_owner("nemo")
    _be(monkeypatch, 0, exists=True)
    assert user.choose_owner(name) == Owner("_vkteams", 990, 990, impersonated=True)


def test_a_user_that_does_not_exist_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _be(monkeypatch, 0)
    with pytest.raises(ConfigError, match=r"daemon.user: there is no user 'nemo'"):
        privileges.choose_user(_config(user="nemo"))


def test_an_ordinary_user_runs_as_itself_and_cannot_become_another(monkeypatch: pytest.MonkeyPatch) -> None:
    _be(monkeypatch, 65534, exists=True)
    assert privileges.choose_user(_config()) == Owner("nobody", 65534, 65534, impersonated=False)
    assert privileges.choose_user(_config(user="nobody")).impersonated is False
    with pytest.raises(PermissionRefused, match="only root can start vkteamsd as _vkteams"):
        privileges.choose_user(_config(user="_vkteams"))
    _be(monkeypatch, 4242)
    monkeypatch.setattr(privileges, "_user_name", str)
    assert privileges.choose_user(_config()).name == "4242"


def _own() -> Owner:
    return Owner(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid(), impersonated=False)


@as_root
def test_state_directory_of_root_lets_the_bundled_database_through(tmp_path: Path) -> None:
    for name, url, mode in (("bundled", "", 0o751), ("own", "postgresql://db.corp.example/vkteams", 0o750)):
        config = msgspec.convert(
            {
                "daemon": {"runtime_dir": str(tmp_path / name / "run"), "state_dir": str(tmp_path / name / "state")},
                "database": {"url": url},
            },
            Config,
        )
        privileges.make_directories(config, _own())
        assert stat.S_IMODE(config.state_dir.stat().st_mode) == mode
        assert stat.S_IMODE(config.runtime_dir.stat().st_mode) == 0o750


def test_directories_are_made_private_and_only_once(tmp_path: Path) -> None:
    config = _config(runtime_dir=str(tmp_path / "a" / "run"), state_dir=str(tmp_path / "state"))
    before = os.umask(0)
    try:
        privileges.make_directories(config, _own())
        (tmp_path / "state").chmod(0o755)
        privileges.make_directories(config, _own())
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a" / "run").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o755


def test_directory_below_a_world_writable_one_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    privileges.make_directories(_config(runtime_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")), _own())
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


@as_root
def test_directories_belong_to_the_user_that_root_becomes(open_tmp: Path) -> None:
    owner = Owner("nobody", NOBODY.pw_uid, NOBODY.pw_gid, impersonated=True)
    config = _config(runtime_dir=str(open_tmp / "run" / "sales"), state_dir=str(open_tmp / "state" / "sales"))
    config = msgspec.structs.replace(config, instance="sales")
    privileges.make_directories(config, owner)
    for name in ("run", "run/sales", "state", "state/sales"):
        assert (open_tmp / name).stat().st_uid == NOBODY.pw_uid  # the shared one too: another instance needs it


@as_root
@pytest.mark.parametrize("trap", ["link", "directory", "link on the way"])
def test_foreign_path_in_a_world_writable_directory_is_refused(tmp_path: Path, trap: str) -> None:
    tmp_path.chmod(0o1777)
    target = tmp_path / "theirs"
    target.mkdir()
    os.chown(target, NOBODY.pw_uid, NOBODY.pw_gid)
    place = target
    if trap != "directory":
        place = tmp_path / "run"
        place.symlink_to(target)
        os.chown(place, NOBODY.pw_uid, NOBODY.pw_gid, follow_symlinks=False)
    if trap == "link on the way":
        place = place / "deeper"
    with pytest.raises(PermissionRefused, match="belongs to another user, in a directory that everybody"):
        privileges.make_directories(_config(runtime_dir=str(place), state_dir=str(tmp_path / "s")), _own())
    assert list(target.iterdir()) == []


def test_error_for_a_file_in_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(CannotCreate, match="run"):
        privileges.make_directories(_config(runtime_dir=str(tmp_path / "run"), state_dir=str(tmp_path)), _own())


def test_user_without_access_to_program_or_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(runtime_dir=str(tmp_path), state_dir=str(tmp_path))
    privileges.check_access(config, _own(), privileges.program_directories())
    access = os.access
    closed = privileges.program_directories()[0]
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and access(path, mode))
    with pytest.raises(PermissionRefused, match=r"cannot read this program: .* is closed to it"):
        privileges.check_access(config, _own(), privileges.program_directories())
    closed = tmp_path
    with pytest.raises(CannotCreate, match="may not write there"):
        privileges.check_access(config, _own(), privileges.program_directories())


def _three_places(base: Path) -> Config:
    return _config(
        runtime_dir=str(base / "run"), state_dir=str(base / "state"), log_file=str(base / "log" / "vkteamsd.log")
    )


NOBODYS = Owner("nobody", NOBODY.pw_uid, NOBODY.pw_gid, impersonated=True)


@as_root
@pytest.mark.parametrize("closed", ["run", "state", "log", "run/vkteamsd.pid", "log/vkteamsd.log"])
def test_what_the_daemons_user_may_not_use_is_found_beforehand(
    open_tmp: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """Root may write everywhere, and gives its rights up."""
    monkeypatch.setattr(privileges, "program_directories", lambda: [])
    config = _config(
        runtime_dir=str(open_tmp / "run"),
        state_dir=str(open_tmp / "state"),
        log_file=str(open_tmp / "log/vkteamsd.log"),
    )
    privileges.check_places(config)
    privileges.check_rights(config, NOBODYS)
    assert list(open_tmp.iterdir()) == [], "it makes nothing"
    privileges.make_directories(config, NOBODYS)
    privileges.check_rights(config, NOBODYS)
    place = open_tmp / closed
    if place.suffix:
        place.touch(mode=0o600)
    else:
        os.chown(place, 0, 0)
        place.chmod(0o700)
    with pytest.raises(CannotCreate, match=f"^{place}: .*user nobody may not write"):
        privileges.check_rights(config, NOBODYS)
    os.chown(place, NOBODY.pw_uid, NOBODY.pw_gid)
    privileges.check_rights(config, NOBODYS)


@as_root
def test_what_root_makes_for_the_status_is_the_readers_and_so_is_what_is_made_in_it(
    open_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers = grp.getgrnam("daemon").gr_gid  # neither root nor nobody is a member
    monkeypatch.setattr(privileges, "readers_group", lambda: readers)
    config = msgspec.structs.replace(
        _config(runtime_dir=str(open_tmp / "run/sales"), state_dir=str(open_tmp / "state")), instance="sales"
    )
    before = os.umask(0o077)  # of a careful root
    try:
        privileges.make_directories(config, NOBODYS)
        NOBODYS.make_directory(open_tmp / "run/sales/postgresql", 0o750)
    finally:
        os.umask(before)
    for name in ("run", "run/sales", "run/sales/postgresql"):
        made = (open_tmp / name).stat()
        assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (NOBODY.pw_uid, readers, 0o2750), name
    made = (open_tmp / "state").stat()
    assert (made.st_gid, stat.S_IMODE(made.st_mode)) == (NOBODY.pw_gid, 0o750)
    assert privileges.exposed_directories(config) == []


@as_root
def test_program_that_the_daemons_user_cannot_read_is_found_beforehand(
    open_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (open_tmp / "closed" / "program").mkdir(parents=True)
    (open_tmp / "closed").chmod(0o700)
    monkeypatch.setattr(privileges, "program_directories", lambda: [open_tmp / "closed" / "program"])
    config = _config(runtime_dir=str(open_tmp / "run"), state_dir=str(open_tmp / "state"))
    with pytest.raises(PermissionRefused, match=f"nobody cannot read this program: {open_tmp}/closed is closed to it"):
        privileges.check_rights(config, NOBODYS)


@pytest.mark.parametrize("name", ["run", "state", "log"])
def test_what_stands_in_the_place_of_a_directory_is_found_beforehand(tmp_path: Path, name: str) -> None:
    config = _config(
        runtime_dir=str(tmp_path / "run"),
        state_dir=str(tmp_path / "state"),
        log_file=str(tmp_path / "log/vkteamsd.log"),
    )
    (tmp_path / name).touch()
    with pytest.raises(CannotCreate, match=f"{tmp_path / name}: cannot be made"):
        privileges.check_places(config)
    with pytest.raises(CannotCreate, match=f"{tmp_path / name}: cannot be made"):
        privileges.make_directories(config, _own())


def test_directory_that_others_may_write_to_is_told(tmp_path: Path) -> None:
    config = _config(runtime_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state"))
    privileges.make_directories(config, _own())
    assert privileges.exposed_directories(config) == []
    (tmp_path / "run").chmod(0o1777)
    (tmp_path / "state").chmod(0o770)
    assert privileges.exposed_directories(config) == [
        f"{tmp_path / 'state'}: others than its owner may write there; run `chmod 750 {tmp_path / 'state'}`"
    ]


def test_the_home_of_the_starting_user_is_left_behind() -> None:
    environ = {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0", "USER": "root", "TZ": "UTC"}
    owner = Owner("nobody", NOBODY.pw_uid, NOBODY.pw_gid, impersonated=True)
    privileges.adopt_home(owner, environ)
    assert environ == {"HOME": NOBODY.pw_dir, "USER": "nobody", "LOGNAME": "nobody", "TZ": "UTC"}


@as_root
def test_a_connection_as_the_owner_leaves_a_thread_its_identity() -> None:
    """seteuid(2) changes every thread of the process, also one that acts as the owner with files just then."""
    owner, connecting = choose_owner("nobody"), threading.Event()

    def connect() -> None:
        with owner.connecting():
            assert os.geteuid() == owner.uid
            connecting.set()

    with owner.acting():
        other = threading.Thread(target=connect)
        other.start()
        until(lambda: user._rights._waiters, 20, "the connection that waits")  # type: ignore[attr-defined]
        assert not connecting.is_set() and os.geteuid() == 0
        assert user._identity() == (owner.uid, owner.gid)
    other.join(20)
    assert connecting.is_set() and os.geteuid() == 0 and user._identity() == (0, 0)
