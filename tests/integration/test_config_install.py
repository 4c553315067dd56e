"""`vkteamsctl config install --systemd` in a virtual environment: the package's units, with its programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vkteams_daemon.ctl.commands import config_install

Ask = Callable[..., Any]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment with the programs."""
    directory = tmp_path / "venv"
    (directory / "bin").mkdir(parents=True)
    (directory / "bin" / "vkteamsd").touch()
    monkeypatch.setattr(sys, "prefix", str(directory))
    return directory


def test_the_units_name_the_programs_of_the_environment(environment: Path, ask: Ask, tmp_path: Path) -> None:
    data = ask("config", "install", "--systemd", "--root", str(tmp_path / "root"))
    texts = {Path(path).name: Path(path).read_text() for path in data["written"]}
    assert sorted(texts) == [
        "_vkteamsctl", "vkteams-backup.service", "vkteams-backup.timer", "vkteams-mcp.service", "vkteams-web.service",
        "vkteamsctl", "vkteamsd", "vkteamsd.conf", "vkteamsd.service", "vkteamsd@.service",
    ]  # fmt: skip
    rotation = (tmp_path / "root/etc/logrotate.d/vkteamsd").read_text()
    assert f"|| {environment}/bin/vkteamsctl --config /dev/null" in rotation
    assert "complete -F _vkteams vkteamsctl vkteamsd" in texts["vkteamsd"] == texts["vkteamsctl"]
    assert texts["_vkteamsctl"].startswith("#compdef vkteamsctl vkteamsd\n")
    assert f"ExecStart={environment}/bin/vkteamsd --instance %i" in texts["vkteamsd@.service"]
    assert f"ExecStart={environment}/bin/vkteamsctl mcp serve --http" in texts["vkteams-mcp.service"]
    assert not any("/usr/sbin/vkteams" in text or "/usr/bin/vkteams" in text for text in texts.values())


def test_a_changed_file_is_not_replaced(environment: Path, ask: Ask, tmp_path: Path) -> None:
    command = ("config", "install", "--systemd", "--root", str(tmp_path / "root"))
    unit = Path(ask(*command)["written"][0])
    ask(*command)
    unit.write_text("changed")
    assert "exists already and differs" in ask(*command, code=73)["error"]
    assert ask(*command, "--overwrite") and unit.read_text() != "changed"


def test_it_refuses_what_a_unit_would_not_find(
    environment: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "nothing is named" in ask("config", "install", code=64)["error"]
    command = ("config", "install", "--systemd", "--root", str(tmp_path / "root"))
    monkeypatch.setattr(config_install, "_HIDDEN", (str(tmp_path),))
    assert "the units may not see" in ask(*command, code=78)["error"]
    (environment / "bin" / "vkteamsd").unlink()
    assert "has no vkteamsd" in ask(*command, code=78)["error"]
