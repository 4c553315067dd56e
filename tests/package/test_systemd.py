"""The units under a real systemd: hardened, with the bundled database and a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.models import NAME, write_encoder
from tests.harness.waiting import until
from tests.package.machine import Machine, machine
from tests.package.service import PORT, TOKEN, Service

_SIMULATOR = f"""[Service]
User=nobody
ExecStart=vkteamsctl simulator run --port {PORT} --token {TOKEN}
"""


@pytest.fixture
def systemd(configured: list[Path], tmp_path: Path) -> Iterator[Service]:
    """The service on a machine that systemd has booted, the Bot API later than the service."""
    with machine(configured, tmp_path / "machine", systemd=True) as made:
        try:
            booted = "systemctl is-active basic.target"
            until(lambda: made.run(booted).returncode == 0, 60.0, "the end of booting", interval=0.2)
        except AssertionError as error:
            pytest.skip(f"systemd does not boot in namespaces here: {error}")
        made.write("/etc/systemd/system/simulator.service", _SIMULATOR)
        made.done("systemctl daemon-reload && systemctl start simulator")
        until(lambda: f":{PORT:04X} " in made.read("/proc/1/net/tcp"), 60.0, "the simulator")
        until(lambda: _property(made, "ActiveState") == "active", 120.0, "the service", interval=0.2)
        yield Service(made)


def _property(machine: Machine, name: str, unit: str = "vkteamsd") -> str:
    return machine.done(f"systemctl show --property {name} --value {unit}").strip()


def test_the_hardened_unit_archives_and_embeds(systemd: Service, tmp_path: Path) -> None:
    made = systemd.machine
    shutil.copytree(write_encoder(tmp_path / NAME), made.root / "root" / NAME)
    made.done(f"vkteamsctl model install /root/{NAME}")
    made.done("systemctl restart vkteamsd")
    assert _property(made, "ActiveState") == "active"
    assert _property(made, "MainPID") == str(systemd.pid())
    systemd.say("сервер упал ночью", "печенье на кухне")
    systemd.wait_archived("сервер упал ночью", "сервер")
    until(lambda: (systemd.status()["file"]["embedding"]["embedded"] or 0) >= 2, 60.0, "two vectors", interval=0.2)
    assert made.done("stat -c '%a %U %G' /run/vkteams").strip() == "2750 _vkteams vkteams-readers"
    found = made.done("vkteamsctl --output json search semantic сервер", user="boris")
    assert "сервер упал ночью" in found, "the running daemon gives a reader the vector"
    status = made.read(f"/proc/{systemd.pid()}/status")
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status and "CapEff:\t0000000000000000" in status


def test_systemd_keeps_it_and_is_obeyed(systemd: Service) -> None:
    made = systemd.machine
    first = systemd.pid()
    made.done("systemctl reload vkteamsd")
    until(lambda: "configuration read again" in systemd.log(), 30.0, "the reload")
    refused = made.run("vkteamsctl daemon stop")
    assert refused.returncode == 64 and "systemctl stop vkteamsd" in refused.stdout
    refused = made.run("vkteamsctl daemon start")
    assert refused.returncode == 64 and "systemctl start vkteamsd" in refused.stdout
    assert made.run("service vkteamsd status").returncode == 0, "the init script hands over to systemd"
    made.done(f"kill -9 {first}")
    until(lambda: _property(made, "NRestarts") == "1", 60.0, "the restart after kill -9", interval=0.2)
    until(lambda: _property(made, "ActiveState") == "active", 60.0, "the daemon's return", interval=0.2)
    assert systemd.pid() != first
    systemd.say("после падения")
    systemd.wait_archived("после падения", "падения")
    made.done("systemctl stop vkteamsd")
    assert _property(made, "Result") == "success"
    assert made.run("service vkteamsd status").returncode == 3


def test_a_rotation_under_systemd_lets_go_of_the_old_log(systemd: Service) -> None:
    made = systemd.machine
    first = systemd.pid()
    made.done("logrotate --force /etc/logrotate.d/vkteamsd")
    until(lambda: "configuration read again" in systemd.log(), 30.0, "the reload in the new log")
    assert systemd.pid() == first
    assert "vkteamsd.log.1" not in made.done(f"ls -l /proc/{first}/fd")


def test_a_wrong_configuration_is_not_tried_again_and_an_absent_one_not_at_all(systemd: Service) -> None:
    made = systemd.machine
    made.done("systemctl stop vkteamsd")
    made.write("/etc/systemd/system/vkteamsd.service.d/soon.conf", "[Service]\nRestartSec=0.2\n")
    made.write("/etc/vkteams/vkteamsd.toml", "[api]\nurl = 5\n")
    made.done("systemctl daemon-reload")
    assert made.run("systemctl start vkteamsd").returncode != 0
    until(lambda: _property(made, "ActiveState") == "failed", 60.0, "the end of trying", interval=0.2)
    assert int(_property(made, "NRestarts")) <= 5
    assert "api.url" in made.done("journalctl --no-pager -u vkteamsd")
    made.done("rm /etc/vkteams/token && systemctl reset-failed && systemctl start vkteamsd")
    assert (_property(made, "ActiveState"), _property(made, "ConditionResult")) == ("inactive", "no")


def test_an_instance_takes_its_token_from_systemd(systemd: Service) -> None:
    made = systemd.machine
    made.write("/etc/vkteams/sales.toml", f'[api]\nurl = "http://127.0.0.1:{PORT}"\n[daemon]\nstart_timeout = 60\n')
    made.done("chgrp _vkteams /etc/vkteams/sales.toml && chmod 640 /etc/vkteams/sales.toml")
    made.done("install -m 600 /dev/stdin /etc/vkteams/sales.token", stdin=f"{TOKEN}\n")
    made.done("systemctl stop vkteamsd && systemctl start vkteamsd@sales")
    assert _property(made, "MainPID", "vkteamsd@sales") == str(systemd.pid("sales"))
    assert made.done("stat -c '%a %U %G' /run/vkteams/sales/postgresql").strip() == "2750 _vkteams vkteams-readers"
    systemd.say("для продаж")
    systemd.wait_archived("для продаж", "продаж", options="--instance sales")


def test_an_upgrade_starts_what_ran_and_a_removal_stops_it(systemd: Service, later: Path) -> None:
    made = systemd.machine
    before = systemd.pid()
    shutil.copy(later, made.root / "root" / "later.deb")
    made.done("systemctl disable vkteamsd")
    made.done("apt-get install -y -o Dpkg::Options::=--force-confold /root/later.deb")
    assert _property(made, "ActiveState") == "active", "what somebody started by hand goes on as well"
    assert systemd.pid() != before
    made.done("systemctl stop vkteamsd && apt-get install -y --reinstall /root/later.deb")
    assert _property(made, "ActiveState") == "inactive", "what was stopped stays stopped"
    made.done("systemctl start vkteamsd && systemctl enable vkteamsd@sales")
    pid = systemd.pid()
    made.done("apt-get remove -y vkteams-daemon")
    assert not made.exists(f"/proc/{pid}")
    assert made.run("systemctl is-active vkteamsd").returncode != 0
    made.done("apt-get purge -y vkteams-daemon")
    assert made.run("find /etc/systemd /var/lib/systemd -name 'vkteamsd*'").stdout == ""


def test_archive_is_backed_up_destroyed_restored_and_verified(systemd: Service) -> None:
    """The recipe of docs/debian.md, beside events that arrive all the time."""
    made = systemd.machine
    systemd.say("до резервной копии")
    systemd.wait_archived("до резервной копии", "резервной")
    made.done("systemctl start vkteams-backup")
    assert _property(made, "Result", "vkteams-backup") == "success"
    assert made.run("systemctl is-enabled vkteams-backup.timer").stdout.strip() == "disabled"
    backup = made.done("ls /var/backups/vkteams/*.backup").strip()
    assert made.done(f"stat -c '%U %a' {backup}").strip() == "_vkteams 600"
    systemd.say("после копии, и верно пропало")
    systemd.wait_archived("после копии, и верно пропало", "пропало")
    made.done("systemctl stop vkteamsd && rm -rf /var/lib/vkteams/postgresql /var/lib/vkteams/*.acknowledged")
    made.done(f"vkteamsctl database verify {backup}")
    made.done(f"vkteamsctl database restore {backup}")
    systemd.say("пока демон стоял")
    made.done("systemctl start vkteamsd")
    systemd.wait_archived("пока демон стоял", "стоял")
    found = made.done("vkteamsctl search text резервной")
    assert "до резервной копии" in found.replace("**", "")
    assert "may be missing: the archive was restored from a backup" in " ".join(found.split())
    made.done("vkteamsctl database verify")
    made.done("vkteamsctl database gaps --dismiss 1")
    assert "may be missing" not in made.done("vkteamsctl search text резервной")
