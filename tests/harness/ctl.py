"""vkteamsctl in the test's own process: a process of its own would take most of its time to import what it needs.

`ask`   runs a command on the test's database and returns its output, or its error if `code` is the exit code expected
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from vkteams_daemon.ctl.main import main

KEYS = ["success", "data", "error", "timestamp", "command"]


def answer_of(config_file: Path, environ: Mapping[str, str], *words: str) -> Any:
    """`data` of what vkteamsctl answers as JSON with this configuration and these variables."""
    out = io.StringIO()
    with mock.patch.dict(os.environ, environ, clear=True), contextlib.redirect_stdout(out):
        code = main(["--config", str(config_file), "--output", "json", *words])
    data = json.loads(out.getvalue())["data"]
    assert data is not None, f"{words}: exit code {code}: {out.getvalue()}"
    return data


@pytest.fixture
def ask(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run a command in this process on the test's database."""
    for name in [name for name in os.environ if name.startswith("VKTEAMS_")]:
        monkeypatch.delenv(name)
    (tmp_path / "d.toml").write_text(
        f"[daemon]\nstate_dir = '{tmp_path}/state'\nruntime_dir = '{tmp_path}/run'\nallow_root = true\n[api]\nurl = 'http://127.0.0.1:9'\n"
    )
    monkeypatch.setenv("VKTEAMS_BOT_CONFIG", str(tmp_path / "d.toml"))
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*words: str, code: int = 0, mode: str = "json") -> Any:
        capsys.readouterr()
        assert main(["--output", mode, *words]) == code, capsys.readouterr().err
        out, err = capsys.readouterr()
        if code:
            assert err.startswith("vkteamsctl: ")
            assert err.count("\n") == 1
        if mode != "json":
            return out if not code else err
        answer = json.loads(out)
        assert list(answer) == KEYS
        assert answer["success"] is (code == 0)
        return answer["data"] if not code else answer

    return run
