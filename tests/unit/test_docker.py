"""The container's files: linted, valid, and of one mind with the program."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_spec
import pytest

from vkteams_daemon.ctl import command_line as ctl
from vkteams_daemon.daemon import arguments
from vkteams_daemon.options import options

DOCKER = Path(__file__).parents[2] / "etc" / "docker"


def _compose() -> dict[str, Any]:
    parsed: dict[str, Any] = compose_spec.PyCompose.from_yaml((DOCKER / "compose.yaml").read_text()).to_dict()
    return parsed


def test_the_dockerfile_passes_hadolint() -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert program, "the extra `test` has hadolint"
    done = subprocess.run([program, "--no-color", DOCKER / "Dockerfile"], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_is_valid_and_names_nothing_that_is_not_there() -> None:
    parsed = compose_spec.PyCompose.from_yaml((DOCKER / "compose.yaml").read_text())
    parsed.validate()
    assert set(parsed.service_names()) == {"postgres", "vkteamsd", "mcp"}
    with pytest.raises(ValueError):
        compose_spec.PyCompose.from_yaml("services:\n  x:\n    imagee: y\n")


def test_every_variable_is_an_option_of_the_program() -> None:
    known = {variable for option in options() for variable in option.variables}
    named = set(
        re.findall(r"\bVKTEAMS_\w+", (DOCKER / "Dockerfile").read_text() + (DOCKER / "compose.yaml").read_text())
    )
    assert named and named <= known


def test_secrets_come_by_file_alone() -> None:
    parsed = _compose()
    assert {"token", "database_password", "database_url", "mcp_tokens"} == set(parsed["secrets"])
    assert all(set(secret) == {"file"} for secret in parsed["secrets"].values())
    for service in parsed["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not re.search(r"PASSWORD|TOKEN|SECRET", name) or str(value).startswith("/run/secrets/"), name


def test_container_commands_are_valid_command_lines() -> None:
    file = (DOCKER / "Dockerfile").read_text()
    found = re.search(r"^ENTRYPOINT (.*)$", file, re.MULTILINE)
    assert found
    program, *words = json.loads(found[1])
    assert program == "/usr/sbin/vkteamsd" and arguments.parser().parse_args(words).foreground
    command = _compose()["services"]["mcp"]["entrypoint"]
    assert command[0].endswith("vkteamsctl")
    noun = next(word for word in command if word in ctl.NOUNS)
    ctl.build(noun).parse_args(command[1:])


def test_container_asks_the_probe_that_the_image_opens() -> None:
    file = (DOCKER / "Dockerfile").read_text()
    address = re.search(r"VKTEAMS_DAEMON_METRICS=(\S+)", file)
    health = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", file, re.MULTILINE)
    assert address and health
    assert f"http://{address[1]}/readyz" in json.loads(health[1])[-1]
