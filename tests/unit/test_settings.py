from __future__ import annotations

import os
from pathlib import Path

import pytest

from vkteams_daemon.daemon.process.settings import Settings
from vkteams_daemon.errors import ConfigError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.toml").write_text('[daemon]\nruntime_dir = "run"\nstate_dir = "state"\n')
    (tmp_path / "token").write_text("001.1:1\n")
    return tmp_path


def test_every_path_is_absolute_before_the_directory_changes(directory: Path) -> None:
    settings = Settings("d.toml", "", {"daemon.pid_file": "x.pid"}, {"VKTEAMS_API_TOKEN_FILE": "token"})
    config = settings.read()
    os.chdir("/")
    for again in (config, settings.read_again()):
        assert again.pid_file == directory / "x.pid"
        assert again.status_file == directory / "x.status.json"
        assert again.runtime_dir == directory / "run"
        assert again.log_file == directory / "state" / "vkteamsd.log"
        assert again.models_dir == directory / "state" / "models"
        assert again.api.token == "001.1:1"
        assert again.source == str(directory / "d.toml")


def test_unset_paths_stay_those_of_the_starting_user(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "d.toml").write_text("")
    monkeypatch.setattr(os, "getuid", lambda: 0)
    settings = Settings("d.toml", "sales", {}, {})
    assert settings.read().pid_file == Path("/run/vkteams/sales/vkteamsd.pid")
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert settings.read_again() == settings.read_again()
    assert settings.read_again().pid_file == Path("/run/vkteams/sales/vkteamsd.pid")
    assert settings.read_again().log_file == Path("/var/log/vkteams/sales/vkteamsd.log")


def test_read_again_returns_a_changed_path(directory: Path) -> None:
    settings = Settings("d.toml", "", {}, {})
    settings.read()
    (directory / "d.toml").write_text('[daemon]\nruntime_dir = "other"\nstate_dir = "state"\n')
    assert settings.read_again().runtime_dir == directory / "other"
    assert settings.read_again().state_dir == directory / "state"


@pytest.mark.parametrize("option", ["api.token_file", "api.ca_file", "database.url_file"])
def test_files_that_are_read_again_must_be_whole_paths(directory: Path, option: str) -> None:
    section, key = option.split(".")
    (directory / "d.toml").write_text(f'[{section}]\n{key} = "token"\n')
    with pytest.raises(ConfigError, match=rf"{option}: 'token' is relative") as refusal:
        Settings("d.toml", "", {}, {}).read()
    assert "whole path" in refusal.value.hint


def test_the_file_is_looked_for_once(directory: Path) -> None:
    environ = {"HOME": str(directory), "VKTEAMS_API_TOKEN": "001.1:1"}
    settings = Settings(None, "", {}, environ)
    assert settings.read().source == ""
    found = directory / ".config" / "vkteams" / "vkteamsd.toml"
    found.parent.mkdir(parents=True)
    found.write_text("[log]\nlevel = 'debug'\n")
    other = Settings(None, "", {}, environ)
    assert other.read().source == str(found)
    found.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        other.read_again()
