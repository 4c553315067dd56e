"""What Debian and systemd have to say about the package."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.package.machine import Machine

UNITS = (
    "vkteamsd.service", "vkteamsd@.service", "vkteams-backup.service", "vkteams-web.service", "vkteams-mcp.service",
)  # fmt: skip


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_has_no_complaint(package: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "5", package],
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_override_is_explained() -> None:
    text = (Path(__file__).parents[2] / "debian" / "vkteams-daemon.lintian-overrides").read_text()
    previous = ""
    for line in text.splitlines():
        assert line.startswith(("#", "vkteams-daemon: "))
        assert not line.startswith("vkteams") or previous, "an override without a comment above it"
        previous = line


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_valid_and_hardened(bare: Machine, unit: str) -> None:
    shown = unit.replace("@", "@sales")
    verified = bare.run(f"systemd-analyze verify --man=no {shown}")
    assert (verified.returncode, verified.stdout) == (0, "")
    said = bare.run(f"systemd-analyze security --offline=true --threshold=20 --no-pager /lib/systemd/system/{unit}")
    level = re.search(r"Overall exposure level.*: ([\d.]+)", said.stdout)
    assert said.returncode == 0 and level and float(level[1]) <= 2.0, said.stdout


def test_manuals_and_completions_lie_where_they_are_looked_for(package: Path) -> None:
    listed = subprocess.run(["dpkg-deb", "--contents", package], text=True, capture_output=True, check=True).stdout
    for path in (
        "usr/share/man/man8/vkteamsd.8.gz", "usr/share/man/man1/vkteamsctl.1.gz",
        "usr/share/man/man5/vkteamsd.toml.5.gz", "usr/share/bash-completion/completions/vkteamsctl",
        "usr/share/bash-completion/completions/vkteamsd", "usr/share/zsh/vendor-completions/_vkteamsctl",
        "usr/lib/tmpfiles.d/vkteamsd.conf", "etc/logrotate.d/vkteamsd", "etc/init.d/vkteamsd",
    ):  # fmt: skip
        assert f" ./{path}" in listed, path
