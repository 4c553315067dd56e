"""`vkteamsctl daemon` refuses to start or stop a daemon that systemd manages."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from vkteams_daemon.ctl.commands.daemon import systemd
from vkteams_daemon.errors import UsageError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of units, on a machine that runs systemd, for root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(systemd, "RUNTIME_DIRECTORY", tmp_path)
    monkeypatch.setattr(systemd, "UNIT_DIRECTORIES", (tmp_path,))
    monkeypatch.delenv("VKTEAMS_BOT_CONFIG", raising=False)
    return tmp_path


def _arguments(**arguments: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"foreground": False, **arguments})


def test_root_is_sent_to_systemctl(machine: Path) -> None:
    (machine / "vkteamsd.service").touch()
    with pytest.raises(UsageError) as refused:
        systemd.refuse_start(_arguments(), "start")
    assert "systemctl start vkteamsd`" in refused.value.hint
    systemd.refuse_start(_arguments(instance="sales"), "start")
    (machine / "vkteamsd@.service").touch()
    with pytest.raises(UsageError) as refused:
        systemd.refuse_start(_arguments(instance="sales", config="/etc/vkteams/sales.toml"), "restart")
    assert "systemctl restart vkteamsd@sales`" in refused.value.hint


@pytest.mark.parametrize("arguments", [{"foreground": True}, {"config": "/srv/own.toml"}, {"pid_file": "/srv/own.pid"}])
def test_daemon_with_files_of_its_own_may_start(machine: Path, arguments: dict[str, Any]) -> None:
    (machine / "vkteamsd.service").touch()
    systemd.refuse_start(_arguments(**arguments), "start")


def test_other_users_and_machines_without_systemd_may_start(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemd.refuse_start(_arguments(), "start")
    (machine / "vkteamsd.service").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    systemd.refuse_start(_arguments(), "start")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(systemd, "RUNTIME_DIRECTORY", machine / "absent")
    systemd.refuse_start(_arguments(), "start")


def test_daemon_that_systemd_started_is_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    systemd.refuse_stop(os.getpid())
    groups = {"0::/system.slice/vkteamsd.service\n": "vkteamsd", "0::/x/vkteamsd@sales.service\n": "vkteamsd@sales"}
    for text, name in groups.items():
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        with pytest.raises(UsageError) as refused:
            systemd.refuse_stop(os.getpid())
        assert f"systemctl stop {name}`" in refused.value.hint
