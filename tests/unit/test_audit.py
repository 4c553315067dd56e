"""`make audit` looks up the pinned releases. A known vulnerability fails, a service that does not answer does not."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.daemon import ROOT
from tests.harness.listener import Listener, answer

PROGRAM = ROOT / ".ci" / "audit.py"
Audit = Callable[..., subprocess.CompletedProcess[str]]
HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "it leaks", "fixed_in": ["2.1"], "withdrawn": None}


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Audit]:
    """Audits two pinned releases against a service that has these answers; None is a 404."""
    made: list[Listener] = []

    def run(**answers: list[dict[str, Any]] | None) -> subprocess.CompletedProcess[str]:
        def speak(socket: Any) -> None:
            name = re.findall(r"GET /pypi/([\w-]+)/", listener.requests[-1])[0]
            found = answers[name.replace("-", "_")]
            socket.sendall(
                answer("", "404 Not Found") if found is None else answer(json.dumps({"vulnerabilities": found}))
            )

        listener = Listener(speak)
        made.append(listener)
        file = tmp_path / "requirements.txt"
        file.write_text(
            "one==1.0 \\\n    --hash=sha256:aa\ntwo-b[extra]==2.0 ; python_version > '3' \\\n    --hash=x\n"
        )
        command = [sys.executable, PROGRAM, "--service", f"{listener.url}/pypi", file]
        return subprocess.run(command, text=True, capture_output=True, check=False)

    yield run
    for listener in made:
        listener.close()


def test_vulnerability_fails_and_is_named(audit: Audit) -> None:
    done = audit(one=[], two_b=[HOLE])
    assert done.returncode == 1, done.stderr
    assert "two-b 2.0: PYSEC-1: it leaks; fixed in 2.1" in done.stdout
    assert "2 of 2 releases looked up, 1 found" in done.stdout


def test_withdrawn_vulnerability_is_none(audit: Audit) -> None:
    done = audit(one=[HOLE | {"withdrawn": "2026-01-01T00:00:00Z"}], two_b=[])
    assert (done.returncode, done.stdout) == (0, "vulnerabilities: 2 of 2 releases looked up, 0 found\n"), done.stderr


def test_index_without_the_service_is_said_and_does_not_fail(audit: Audit) -> None:
    done = audit(one=None, two_b=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("vulnerabilities: not looked up: no service answered (one 1.0: HTTP Error 404")


def test_release_that_cannot_be_looked_up_hides_no_other(audit: Audit) -> None:
    done = audit(one=None, two_b=[HOLE])
    assert done.returncode == 1
    assert "not looked up: one 1.0" in done.stdout and "PYSEC-1" in done.stdout


def test_every_pin_of_the_package_is_read() -> None:
    text = (ROOT / "debian" / "requirements.txt").read_text(encoding="utf-8")
    pins = runpy.run_path(str(PROGRAM))["pins"](text)
    assert len(pins) == text.count("==") > 20
    assert ("requests", re.findall(r"(?m)^requests==([\d.]+)", text)[0]) in pins
