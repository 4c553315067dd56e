from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.process import privileges
from vkteams_daemon.errors import CannotCreate, ConfigError, PermissionRefused
from vkteams_daemon.system.user import Owner

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

    monkeypatch.setattr(privileges, "pwd", SimpleNamespace(getpwnam=named, getpwuid=numbered))


def test_root_becomes_the_packages_user_where_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    _be(monkeypatch, 0, exists=True)
    assert privileges.choose_user(_config()) == Owner("_vkteams", 990, 990, impersonated=True)
    assert privileges.choose_user(_config(user="nobody")).name == "nobody"


def test_root_is_refused_without_allow_root(monkeypatch: pytest.MonkeyPatch) -> None:
    _be(monkeypatch, 0)
    for config in (_config(), _config(user="root")):
        with pytest.raises(PermissionRefused, match="does not run as root") as refusal:
            privileges.choose_user(config)
        assert "VKTEAMS_DAEMON_ALLOW_ROOT=1" in refusal.value.hint
    assert privileges.choose_user(_config(allow_root=True)) == Owner("root", 0, 0, impersonated=False)
    _be(monkeypatch, 0, exists=True)
    assert privileges.choose_user(_config(user="root", allow_root=True)).uid == 0


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
def test_directories_belong_to_the_user_that_root_becomes(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(0o755)
    owner = Owner("nobody", NOBODY.pw_uid, NOBODY.pw_gid, impersonated=True)
    config = _config(runtime_dir=str(tmp_path / "run" / "sales"), state_dir=str(tmp_path / "state" / "sales"))
    config = msgspec.structs.replace(config, instance="sales")
    privileges.make_directories(config, owner)
    for name in ("run", "run/sales", "state", "state/sales"):
        assert (tmp_path / name).stat().st_uid == NOBODY.pw_uid  # the shared one too: another instance needs it


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


def test_the_home_of_the_starting_user_is_left_behind() -> None:
    environ = {"HOME": "/root", "XDG_RUNTIME_DIR": "/run/user/0", "USER": "root", "TZ": "UTC"}
    owner = Owner("nobody", NOBODY.pw_uid, NOBODY.pw_gid, impersonated=True)
    privileges.adopt_home(owner, environ)
    assert environ == {"HOME": NOBODY.pw_dir, "USER": "nobody", "LOGNAME": "nobody", "TZ": "UTC"}
