"""Installation, upgrade, removal and purge."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from pathlib import Path

from tests.package.conftest import ROOT
from tests.package.machine import Machine
from tests.package.service import Service

# What package management itself, the users that the tests add, and a running machine write.
_NOT_OURS = re.compile(
    r"/(dev|proc|sys|run|tmp|root|home)(/|$)|/var/(lib/dpkg|lib/apt|cache|log/apt|mail|tmp)(/|$)"
    r"|/var/log/(dpkg|alternatives)\.log$|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$|/etc/\.pwd\.lock$|/usr/sbin/policy-rc\.d$"
)


def test_an_installation_starts_nothing_and_says_what_is_missing(bare: Machine) -> None:
    said = bare.read("/root/install.log")
    assert "vkteamsd is not started: it has no token yet" in said and "/etc/vkteams/token" in said
    assert bare.run("service vkteamsd status").returncode == 3
    refused = bare.run("service vkteamsd start")
    assert refused.returncode == 6 and "/etc/vkteams/token" in refused.stdout
    bare.done("service vkteamsd stop")
    for path, wanted in {
        "/etc/vkteams/vkteamsd.toml": "640 root _vkteams",
        "/etc/default/vkteamsd": "640 root _vkteams",
        "/etc/vkteams/readers": "750 root vkteams-readers",
        "/etc/vkteams/readers/vkteamsd.toml": "640 root vkteams-readers",
        "/var/lib/vkteams": "750 _vkteams _vkteams",
        "/var/log/vkteams": "750 _vkteams _vkteams",
    }.items():
        assert bare.done(f"stat -c '%a %U %G' {path}").strip() == wanted
    assert bare.run("find /usr/lib/vkteams-daemon -perm /022 ! -type l").stdout == "", "nobody may change the program"


def test_an_upgrade_keeps_edits_and_what_ran(service: Service, later: Path) -> None:
    machine = service.configured("sales", 8082).simulated().machine
    machine.done("service vkteamsd start vkteamsd")
    service.say("до обновления")
    before, edited = service.pid(), machine.read("/etc/vkteams/vkteamsd.toml")
    shutil.copy(later, machine.root / "root" / "later.deb")
    said = machine.done("apt-get install -y -o Dpkg::Options::=--force-confold /root/later.deb")
    assert "no token" not in said
    assert machine.done("dpkg-query -W -f '${Version}' vkteams-daemon").endswith("+later")
    assert machine.read("/etc/vkteams/vkteamsd.toml") == edited
    assert machine.read("/etc/vkteams/vkteamsd.toml.dpkg-dist").endswith("# As the later version has it.\n")
    assert service.pid() != before
    assert machine.run("service vkteamsd status vkteamsd").returncode == 0
    assert machine.run("service vkteamsd status sales").returncode == 3, "what was stopped stays stopped"
    service.say("после обновления")
    service.wait_archived("после обновления", "обновления")
    assert "до обновления" in service.hits("обновления")
    assert not machine.exists("/run/vkteams-daemon.running")


def test_an_upgrade_that_fails_halfway_forgets_nothing(service: Service, later: Path) -> None:
    machine = service.started().machine
    shutil.copy(later, machine.root / "root" / "later.deb")
    machine.done("mv /var/log/vkteams /var/log/away && touch /var/log/vkteams")
    upgrade = "dpkg --force-confold --install /root/later.deb"
    assert machine.run(upgrade).returncode != 0, "there is no directory for the log"
    assert machine.run("service vkteamsd status").returncode != 0
    machine.done("rm /var/log/vkteams && mv /var/log/away /var/log/vkteams")
    machine.done(upgrade)
    machine.done("service vkteamsd status")


def test_a_removal_that_is_given_up_starts_it_again(service: Service) -> None:
    machine = service.started().machine
    machine.done("/var/lib/dpkg/info/vkteams-daemon.prerm remove")
    assert machine.run("service vkteamsd status").returncode == 3
    machine.done("/var/lib/dpkg/info/vkteams-daemon.postinst abort-remove")
    machine.done("service vkteamsd status")


def test_what_was_removed_and_is_installed_again_is_started(service: Service) -> None:
    machine = service.started().machine
    machine.done("apt-get remove -y vkteams-daemon")
    said = machine.done("apt-get install -y /root/package.deb")
    assert "no token" not in said
    machine.done("service vkteamsd status")
    assert not machine.exists("/run/vkteams-daemon.running")


def test_removal_stops_it_and_keeps_configuration_and_archive(service: Service) -> None:
    machine = service.started().machine
    service.say("это остаётся")
    service.wait_archived("это остаётся", "остаётся")
    pid = service.pid()
    machine.done("apt-get remove -y vkteams-daemon")
    assert not machine.exists(f"/proc/{pid}")
    assert machine.run("grep -l -e vkteamsd -e postgres /proc/[0-9]*/comm").stdout == ""
    assert not machine.exists("/usr/lib/vkteams-daemon"), "not even its bytecode is left"
    assert machine.exists("/etc/vkteams/vkteamsd.toml") and machine.exists("/etc/vkteams/token")
    machine.done("/etc/init.d/vkteamsd start 2> /dev/null || sh /etc/init.d/vkteamsd start")
    said = machine.done("apt-get purge -y vkteams-daemon")
    assert "The bundled database stays in /var/lib/vkteams" in said
    assert machine.exists("/var/lib/vkteams/postgresql/18/PG_VERSION")
    assert not machine.exists("/etc/vkteams") and not machine.exists("/var/log/vkteams")


def test_a_purge_leaves_nothing(service: Service) -> None:
    machine = service.configured("sales", 8082).simulated(8082).started().machine
    machine.done("touch /var/lib/vkteams/purge-archive")
    machine.done("apt-get purge -y vkteams-daemon")
    assert machine.run("grep -l -e vkteamsd -e postgres /proc/[0-9]*/comm").stdout == ""
    for file in ("passwd", "group", "shadow", "gshadow"):
        assert "vkteams" not in machine.read(f"/etc/{file}")
    assert not machine.exists("/run/vkteams")
    before, after = _files(ROOT), _files(machine.root)
    changed = {path for path in before.keys() & after.keys() if before[path] != after[path]}
    assert (sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys()), sorted(changed)) == ([], [], [])


def _files(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything on a disk that is not excepted: what it is, whose, and its content."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(root):
        inside = "/" + os.path.relpath(directory, root).removeprefix(".")
        names[:] = [name for name in names if not _NOT_OURS.match(f"{inside.rstrip('/')}/{name}")]
        for name in (*names, *files):
            path, shown = Path(directory, name), f"{inside.rstrip('/')}/{name}"
            if _NOT_OURS.match(shown):
                continue
            about = path.lstat()
            content: object = None
            if stat.S_ISLNK(about.st_mode):
                content = str(path.readlink())
            elif stat.S_ISREG(about.st_mode):
                content = hashlib.sha256(path.read_bytes()).digest()
            found[shown] = (about.st_mode, about.st_uid, about.st_gid, content)
    return found
