"""Which configuration file is the system's, and its daemon's directories, which are the same for every user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vkteams_daemon import config
from vkteams_daemon.options import Config


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """An ordinary user's environment, with a home, and /etc/vkteams in a directory of the test."""
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(config, "SYSTEM_DIRECTORY", tmp_path / "etc")
    (tmp_path / "etc").mkdir()
    own = tmp_path / "home" / ".config" / "vkteams"
    own.mkdir(parents=True)
    return {"HOME": str(tmp_path / "home")}


def test_a_file_of_the_system_means_the_systems_directories_for_every_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    main = Config(source="/etc/vkteams/vkteamsd.toml")
    assert main.pid_file == Path("/run/vkteams/vkteamsd.pid")
    assert main.state_dir == Path("/var/lib/vkteams")
    assert main.log_file == Path("/var/log/vkteams/vkteamsd.log")
    sales = Config(source="/etc/vkteams/sales.toml", instance="sales")
    assert sales.status_file == Path("/run/vkteams/sales/vkteamsd.status.json")
    assert sales.log_file == Path("/var/log/vkteams/sales/vkteamsd.log")


def test_a_users_own_file_keeps_to_the_users_directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/12345")
    own = Config(source="/home/somebody/.config/vkteams/vkteamsd.toml")
    assert own.pid_file == Path("/run/user/12345/vkteams/vkteamsd.pid")
    assert not str(own.log_file).startswith("/var")


def test_the_systems_file_stands_before_the_users(somebody: dict[str, str], tmp_path: Path) -> None:
    system, own = tmp_path / "etc" / "vkteamsd.toml", tmp_path / "home" / ".config" / "vkteams" / "vkteamsd.toml"
    system.touch()
    own.touch()
    assert config.find_file(None, "", somebody) == system


def test_a_systems_file_that_is_closed_does_not_stand_before_the_users(
    somebody: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, own = tmp_path / "etc" / "vkteamsd.toml", tmp_path / "home" / ".config" / "vkteams" / "vkteamsd.toml"
    system.touch()
    readable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != system and readable(path, mode))
    assert config.find_file(None, "", somebody) == system, "alone it is still the answer, and its refusal says why"
    own.touch()
    assert config.find_file(None, "", somebody) == own
