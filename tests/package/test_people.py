"""Who may do what: the group vkteams-readers, everybody else, and people with daemons of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.package.machine import Machine
from tests.package.service import TOKEN, Service


def test_the_group_may_ask_and_search_and_nothing_else(service: Service) -> None:
    machine = service.configured("sales", 8082).simulated(8082).started().machine
    service.say("отчёт за квартал готов")
    service.wait_archived("отчёт за квартал готов", "отчёт")
    status = machine.run("vkteamsctl daemon status", user="boris")
    assert status.returncode == 0 and "vkteamsd is running" in status.stdout
    assert service.hits("отчёт", user="boris") == ["отчёт за квартал готов"]
    stop = machine.run("vkteamsctl daemon stop", user="boris")
    assert stop.returncode == 77 and "belongs to another user" in stop.stdout
    assert machine.run("service vkteamsd status").returncode == 0
    machine.done("install -m 640 -o root -g vkteams-readers /dev/null /etc/vkteams/readers/sales.toml")
    assert service.hits("отчёт", user="boris", options="--instance sales") == [], "an instance has readers too"
    assert "vkteamsd is running" in machine.run("vkteamsctl --instance sales daemon status", user="boris").stdout
    _sees_no_secret(machine)
    refused = machine.run("vkteamsctl database replay --all --yes", user="boris")
    assert refused.returncode != 0 and "permission denied" not in refused.stdout, refused.stdout


def test_members_of_the_old_group_become_readers_with_an_upgrade(service: Service, later: Path) -> None:
    machine = service.simulated().machine
    machine.done("deluser boris vkteams-readers && delgroup --system vkteams-readers && adduser boris _vkteams")
    machine.done("install -d -m 750 -o _vkteams -g _vkteams /run/vkteams /run/vkteams/postgresql")
    machine.done("cat /etc/vkteams/token", user="boris")
    shutil.copy(later, machine.root / "root" / "later.deb")
    said = machine.done("apt-get install -y -o Dpkg::Options::=--force-confold /root/later.deb")
    assert "boris may search the archive as before" in said
    machine.done("service vkteamsd start")
    service.say("отчёт за квартал готов")
    service.wait_archived("отчёт за квартал готов", "отчёт")
    assert service.hits("отчёт", user="boris") == ["отчёт за квартал готов"]
    _sees_no_secret(machine)


def _sees_no_secret(machine: Machine) -> None:
    for look in ("/etc/vkteams/token", "/etc/vkteams/vkteamsd.toml", "/var/lib/vkteams", "/var/log/vkteams"):
        assert machine.run(f"ls -d {look} && {{ cat {look} || ls {look}/; }}", user="boris").returncode != 0, look
    assert "may read it" not in machine.done("vkteamsctl config check")
    machine.done("adduser --quiet anna _vkteams")
    assert "the group _vkteams (anna) may read it" in machine.done("vkteamsctl config check").replace("\n", " ")
    machine.done("deluser --quiet anna _vkteams")


def test_everybody_else_is_refused_in_one_sentence(service: Service) -> None:
    machine = service.started().machine
    status = machine.run("vkteamsctl daemon status", user="anna")
    assert status.returncode == 4 and "/etc/vkteams/vkteamsd.toml: this user may not read it" in status.stdout
    search = machine.run("vkteamsctl search text отчёт", user="anna")
    assert search.returncode == 77 and "this user may not read" in search.stdout
    assert len(search.stdout.splitlines()) == 1
    for look in ("cat /etc/vkteams/token", "ls /var/lib/vkteams", "ls /var/log/vkteams", "ls /run/vkteams"):
        assert machine.run(look, user="anna").returncode != 0, f"everybody can {look}"


def test_a_user_has_a_daemon_of_their_own_beside_it(service: Service) -> None:
    machine = service.started().simulated(8083).machine
    own = "/home/anna/.config/vkteams/vkteamsd.toml"
    machine.write(own, f'[api]\ntoken = "{TOKEN}"\nurl = "http://127.0.0.1:8083"\n[daemon]\nstart_timeout = 60\n')
    machine.done("chown -R anna: /home/anna/.config")
    machine.done("vkteamsctl daemon start", user="anna")
    assert machine.run("vkteamsctl daemon status", user="anna").returncode == 0
    assert service.status()["pid"] == service.pid()
    machine.done("vkteamsctl daemon stop", user="anna")
    assert machine.run("service vkteamsd status").returncode == 0


def test_where_systemd_runs_root_is_sent_to_the_unit(service: Service) -> None:
    machine: Machine = service.simulated().machine
    machine.done("mkdir -p /run/systemd/system")
    for verb in ("start", "restart"):
        refused = machine.run(f"vkteamsctl daemon {verb}")
        assert refused.returncode == 64 and f"systemctl {verb} vkteamsd" in refused.stdout
    machine.done("rmdir /run/systemd/system")
    machine.done("vkteamsctl daemon start")
    machine.done("vkteamsctl daemon stop")
