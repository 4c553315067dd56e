"""What debian/ repeats of the project agrees with it."""

from __future__ import annotations

import configparser
import re
import subprocess
from pathlib import Path

import pytest

from vkteams_daemon import __version__
from vkteams_daemon.config import load

DEBIAN = Path(__file__).parents[2] / "debian"
EXTRAS = ("embedded", "mcp", "models", "web")


def _pinned() -> dict[str, str]:
    """The pins, by name: version and hashes."""
    text = (DEBIAN / "requirements.txt").read_text().replace("\\\n", " ")
    return dict(line.split("==", 1) for line in text.splitlines() if line)


def test_every_requirement_of_the_project_is_pinned_by_hash() -> None:
    setup = configparser.ConfigParser()
    setup.read(DEBIAN.parent / "setup.cfg")
    wanted = setup["options"]["install_requires"].split("\n")
    for extra in EXTRAS:
        wanted += setup["options.extras_require"][extra].split("\n")
    pinned = _pinned()
    for requirement in filter(None, wanted):
        name = re.split(r"[\[<>=!~]", requirement)[0].strip().replace("_", "-").lower()
        assert name in pinned, f"{requirement}: run debian/pin"
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", pin) for pin in pinned.values())


def test_the_version_is_the_programs() -> None:
    assert (DEBIAN / "changelog").read_text().startswith(f"vkteams-daemon ({__version__}) ")


def test_packaged_configuration_is_valid(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("1.2.3:4\n")
    text = (DEBIAN / "vkteamsd.toml").read_text().replace("/etc/vkteams/token", str(tmp_path / "token"))
    for name, content in (("as-it-is", text), ("everything-set", re.sub(r"(?m)^#(?=\w)", "", text))):
        (tmp_path / name).write_text(content)
        config = load(tmp_path / name, environ={})
        assert config.api.token == "1.2.3:4"
    assert config.database.url.startswith("postgresql:"), "the commented lines were read"
    readers = tmp_path / "readers.toml"
    readers.write_text(re.sub(r"(?m)^#(?=\w)", "", (DEBIAN / "readers.toml").read_text()))
    assert load(readers, environ={}).database.read_url.startswith("postgresql:")


@pytest.mark.parametrize(
    "script",
    ["vkteams-daemon.vkteamsd.init", "vkteams-daemon.postinst", "vkteams-daemon.prerm", "vkteams-daemon.postrm",
     "make-environment", "build", "pin", "tests/service", "../tests/package/make-root"],
)  # fmt: skip
def test_script_is_plain_shell(script: str) -> None:
    done = subprocess.run(["sh", "-n", DEBIAN / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
