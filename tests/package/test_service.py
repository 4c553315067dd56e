"""The init script, with the exit codes of the Linux Standard Base."""

from __future__ import annotations

import json
from pathlib import Path

from tests.harness.waiting import until
from tests.package.machine import Machine
from tests.package.service import Service


def test_it_listens_and_archives_what_is_said(service: Service) -> None:
    service.started()
    service.say("принтер снова сломался")
    service.wait_archived("принтер снова сломался", "принтер")
    status = service.status()
    assert status["status"] == "running"
    uid = service.machine.done(f"stat -c %U /proc/{service.pid()}").strip()
    assert uid == "_vkteams"
    groups = service.machine.done(f"grep -E '^(Gid|Groups)' /proc/{service.pid()}/status").replace(":", " ").split()
    own = [
        service.machine.done(f"getent group {name} | cut -d : -f 3").strip() for name in ("_vkteams", "vkteams-readers")
    ]
    assert set(groups) == {"Gid", "Groups", *own}, "nothing of root's"
    assert "events.saved" in service.machine.done("vkteamsctl daemon stats")


def test_start_when_it_runs_and_stop_when_it_does_not_are_no_errors(service: Service) -> None:
    machine = service.started().machine
    pid = service.pid()
    again = machine.run("service vkteamsd start")
    assert again.returncode == 0 and "already running" in again.stdout
    assert service.pid() == pid
    machine.done("service vkteamsd stop")
    assert not machine.exists(f"/proc/{pid}")
    assert machine.run("service vkteamsd status").returncode == 3
    machine.done("service vkteamsd stop")


def test_status_tells_running_dead_and_stopped_apart(service: Service) -> None:
    machine = service.started().machine
    assert machine.run("service vkteamsd status").returncode == 0
    machine.done(f"kill -9 {service.pid()}")
    until(lambda: machine.run("service vkteamsd status").returncode == 1, 20.0, "status 1 after kill -9")
    machine.done("service vkteamsd start")
    assert machine.run("service vkteamsd status").returncode == 0
    service.say("после падения")
    service.wait_archived("после падения", "падения")


def test_restart_reload_and_their_relatives(service: Service) -> None:
    machine = service.simulated().machine
    assert machine.run("service vkteamsd reload").returncode == 7, "nothing runs that could reload"
    machine.done("service vkteamsd try-restart")
    assert machine.run("service vkteamsd status").returncode == 3, "try-restart starts nothing"
    machine.done("service vkteamsd restart")
    first = service.pid()
    for action in ("reload", "force-reload"):
        machine.done(f"service vkteamsd {action}")
        assert service.pid() == first
    until(lambda: service.log().count("configuration read again") >= 2, 20.0, "two reloads in the log")
    machine.done("service vkteamsd try-restart")
    assert service.pid() != first
    assert machine.run("service vkteamsd dance").returncode == 2


def test_why_it_does_not_start_is_said_and_has_its_code(service: Service) -> None:
    machine = service.simulated().machine
    machine.write("/etc/vkteams/vkteamsd.toml", "[api]\nurl = 5\n")
    refused = machine.run("service vkteamsd start")
    assert refused.returncode == 6 and "api.url" in refused.stdout and "line 2" in refused.stdout
    other = machine.run("service vkteamsd start", user="boris")
    assert other.returncode in (4, 6)
    assert machine.run("service vkteamsd status").returncode == 3, "a broken file keeps nobody from asking"


def test_a_broken_file_keeps_nobody_from_stopping_it(service: Service) -> None:
    machine = service.started().machine
    machine.write("/etc/vkteams/vkteamsd.toml", "[api\n")
    assert machine.run("service vkteamsd status").returncode == 0
    machine.done("service vkteamsd stop")
    assert not machine.exists("/run/vkteams/vkteamsd.pid")


def test_every_file_is_an_instance(service: Service) -> None:
    machine = service.configured("sales", 8082).simulated().simulated(8082).machine
    machine.done("service vkteamsd start")
    assert service.pid() != service.pid("sales")
    service.say("для продаж", port=8082)
    service.wait_archived("для продаж", "продаж", options="--instance sales")
    assert service.hits("продаж") == []
    machine.done("service vkteamsd stop sales")
    assert machine.run("service vkteamsd status vkteamsd").returncode == 0
    assert machine.run("service vkteamsd status sales").returncode == 3
    assert machine.run("service vkteamsd status").returncode == 3
    assert machine.exists("/var/log/vkteams/sales/vkteamsd.log")


def test_log_rotation_loses_no_line(service: Service) -> None:
    machine = service.started().machine
    machine.done("logrotate --force /etc/logrotate.d/vkteamsd")
    until(lambda: "configuration read again" in service.log(), 20.0, "the reload in the new log")
    rotated = machine.read("/var/log/vkteams/vkteamsd.log.1")
    assert "vkteamsd" in rotated and "starts as process" in rotated
    mode = machine.done("stat -c '%a %U %G' /var/log/vkteams/vkteamsd.log").strip()
    assert mode == "640 _vkteams _vkteams"
    names = machine.done(f"ls -l /proc/{service.pid()}/fd")
    assert "vkteamsd.log.1" not in names, "the old file is let go"


def test_it_needs_nothing_that_the_package_does_not_bring(bare: Machine) -> None:
    links = bare.done("cat /proc/net/dev")
    assert [line.partition(":")[0].strip() for line in links.splitlines()[2:]] == ["lo"], "there is no network here"
    Service(bare).configured().started()
    answer = json.loads(bare.run("vkteamsctl --output json diagnostic health").stdout)
    assert answer["data"]["api_connection"] == "ok"
    assert answer["data"]["database"] == "ok"


def test_debians_own_test_passes(bare: Machine) -> None:
    script = Path(__file__).parents[2] / "debian" / "tests" / "service"
    bare.write("/root/service", script.read_text(encoding="utf-8"), 0o755)
    said = bare.done("mkdir /tmp/own && AUTOPKGTEST_TMP=/tmp/own /root/service")
    assert "Starting archive of VK Teams chats: vkteamsd." in said and "hit" in said
