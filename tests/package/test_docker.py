"""Every instruction of the Dockerfile is carried out, on machines in place of images; then the container runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.waiting import until
from tests.package.conftest import PROJECT, ROOT
from tests.package.machine import Machine, machine
from tests.package.service import PORT, TOKEN, Service

_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Stage:
    """One stage of a Dockerfile while it is built.

    Attributes:
        settings: what ENV, USER, HEALTHCHECK, ENTRYPOINT and VOLUME say, by instruction.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.settings: dict[str, str] = {}
        self._directory = "/"

    def run(self, command: str) -> None:
        """RUN: with the network, and with what this machine knows of whom to trust there."""
        if _CERTIFICATES.exists():
            shutil.copy(_CERTIFICATES, self.machine.root / "run" / "certificates.crt")
        trust = "PIP_CERT=/run/certificates.crt" if _CERTIFICATES.exists() else ""
        self.machine.done(f"cd {self._directory} && {command}", env=trust, timeout=900)

    def copy(self, words: list[str], stages: dict[str, Stage]) -> None:
        """COPY of files of the project, or --from another stage."""
        source = PROJECT
        if words[0].startswith("--from="):
            source = stages[words.pop(0).partition("=")[2]].machine.root
        *names, target = words
        place = self.machine.root / f"{self._directory}/{target}".lstrip("/")
        if target.startswith("/"):
            place = self.machine.root / target.lstrip("/")
        for name in names:
            found = source / name.lstrip("/")
            if found.is_dir():
                skip = shutil.ignore_patterns("__pycache__") if source == PROJECT else None
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True, ignore=skip)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, place)

    def workdir(self, path: str) -> None:
        """WORKDIR."""
        self._directory = path
        (self.machine.root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)


def instructions() -> Iterator[tuple[str, str]]:
    """The instructions of the Dockerfile in their order."""
    text = re.sub(r"(?m)^#.*\n", "", (PROJECT / "etc" / "docker" / "Dockerfile").read_text())
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest


@pytest.fixture(scope="module")
def image(needs_package: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Path], dict[str, str]]]:
    """The disks of the last stage, and its settings."""
    place = tmp_path_factory.mktemp("image")
    stages: dict[str, Stage] = {}
    last = None
    try:
        for name, rest in instructions():
            if name == "FROM":
                base, _, called = rest.partition(" AS ")
                assert base == "debian:bookworm-slim", "the machines are Debian 12"
                made = Machine([ROOT], place / str(len(stages)), network=True)
                last = stages[called or "the last"] = Stage(made)
                shutil.copy("/etc/resolv.conf", made.root / "etc" / "resolv.conf")
                continue
            assert last is not None
            if name == "RUN":
                last.run(rest)
            elif name == "COPY":
                last.copy(rest.split(), stages)
            elif name == "WORKDIR":
                last.workdir(rest)
            else:
                assert name in ("ENV", "USER", "VOLUME", "HEALTHCHECK", "ENTRYPOINT"), name
                last.settings[name] = rest
    finally:
        for stage in stages.values():
            stage.machine.close()
    assert last is not None
    yield [last.machine.layer, ROOT], last.settings
    shutil.rmtree(place, ignore_errors=True)


def test_the_container_gets_well_and_stops(image: tuple[list[Path], dict[str, str]], tmp_path: Path) -> None:
    disks, settings = image
    uid = settings["USER"].partition(":")[0]
    with machine(disks, tmp_path / "machine") as made:
        service = Service(made)
        # Volumes and the mounts of /run take the owner of the place in the image.
        made.done(f"install -d -m 750 -o {uid} -g {uid} /run/vkteams")
        made.write("/run/secrets/token", f"{TOKEN}\n")
        service.simulated()
        given = {"VKTEAMS_API_TOKEN_FILE": "/run/secrets/token", "VKTEAMS_BOT_API_URL": f"http://127.0.0.1:{PORT}"}
        environ = " ".join([settings["ENV"], *(f"{name}={value}" for name, value in given.items())])
        user = made.done(f"id -un {uid}").strip()
        entry = shlex.join(json.loads(settings["ENTRYPOINT"]))
        made.spawn(f"env {environ} VKTEAMS_DAEMON_START_TIMEOUT=60 {entry}", user=user)
        health = shlex.join(json.loads(settings["HEALTHCHECK"].partition(" CMD ")[2]))
        until(
            lambda: made.run(health, user=user, env=environ).returncode == 0,
            120.0,
            "the container's health",
            interval=0.5,
        )
        service.say("в контейнере тоже")
        found = f"env {environ} vkteamsctl search text контейнере"
        until(lambda: "контейнере" in made.run(found, user=user).stdout, 60.0, "the message", interval=0.5)
        pid = service.pid()
        assert made.done(f"stat -c %u /proc/{pid}").strip() == uid
        made.done(f"kill -TERM {pid}")
        until(lambda: not made.exists(f"/proc/{pid}"), 20.0, "the end of the container")
        assert made.run(health, user=user, env=environ).returncode != 0


def test_only_the_state_is_a_volume(image: tuple[list[Path], dict[str, str]]) -> None:
    assert json.loads(image[1]["VOLUME"]) == ["/var/lib/vkteams"]
