"""vkteamsctl leaves a daemon that systemd looks after to systemd."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from vkteams_daemon.ctl.commands.daemon import service_unit
from vkteams_daemon.errors import UsageError


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of root's where systemd runs, with no unit of ours."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(service_unit, "SYSTEMD", tmp_path)
    monkeypatch.setattr(service_unit, "PLACES", (tmp_path,))
    monkeypatch.delenv("VKTEAMS_BOT_CONFIG", raising=False)
    return tmp_path


def _arguments(**given: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"foreground": False, **given})


def test_root_is_sent_to_the_unit(systemd: Path) -> None:
    (systemd / "vkteamsd.service").touch()
    with pytest.raises(UsageError) as refused:
        service_unit.refuse_start(_arguments(), "start")
    assert "systemctl start vkteamsd`" in refused.value.hint
    service_unit.refuse_start(_arguments(instance="sales"), "start")
    (systemd / "vkteamsd@.service").touch()
    with pytest.raises(UsageError) as refused:
        service_unit.refuse_start(_arguments(instance="sales", config="/etc/vkteams/sales.toml"), "restart")
    assert "systemctl restart vkteamsd@sales`" in refused.value.hint


@pytest.mark.parametrize("given", [{"foreground": True}, {"config": "/srv/own.toml"}, {"pid_file": "/srv/own.pid"}])
def test_a_daemon_of_ones_own_is_not_meant(systemd: Path, given: dict[str, Any]) -> None:
    (systemd / "vkteamsd.service").touch()
    service_unit.refuse_start(_arguments(**given), "start")


def test_other_users_and_other_machines_are_not_meant(systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service_unit.refuse_start(_arguments(), "start")
    (systemd / "vkteamsd.service").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    service_unit.refuse_start(_arguments(), "start")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(service_unit, "SYSTEMD", systemd / "absent")
    service_unit.refuse_start(_arguments(), "start")


def test_a_daemon_that_systemd_started_is_stopped_by_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    service_unit.refuse_stop(os.getpid())
    groups = {"0::/system.slice/vkteamsd.service\n": "vkteamsd", "0::/x/vkteamsd@sales.service\n": "vkteamsd@sales"}
    for text, name in groups.items():
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        with pytest.raises(UsageError) as refused:
            service_unit.refuse_stop(os.getpid())
        assert f"systemctl stop {name}`" in refused.value.hint
