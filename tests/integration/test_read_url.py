"""`[database] read_url`: what asks uses it, and what writes is refused where it stands alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.talk import ANNA, OPS, Talk
from vkteams_daemon import options
from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError, StoreError
from vkteams_daemon.options import Database
from vkteams_daemon.search.archive import Archive

READING = (
    ("database", "gaps"), ("database", "hold"), ("database", "erase"), ("database", "quarantine"),
    ("database", "cursor"), ("database", "verify"),
)  # fmt: skip
WRITING = (
    ("database", "gaps", "--dismiss", "1"), ("database", "hold", OPS), ("database", "lift", OPS),
    ("database", "erase", "--user-id", ANNA, "--yes"), ("database", "cleanup", "--older-than", "400d", "--yes"),
    ("database", "replay"), ("database", "maintenance"), ("database", "migrate"), ("database", "init"),
    ("database", "roster"), ("database", "cursor", "--set", "3", "--yes"), ("database", "backup", "/nowhere/x"),
    ("model", "retry"), ("diagnostic", "self"),
)  # fmt: skip


def test_questions_use_the_reading_role_alone(
    talk: Talk, ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.say("1", "found by a reader")
    monkeypatch.delenv("DATABASE_URL")
    file = tmp_path / "d.toml"
    file.write_text(f"{file.read_text()}[database]\nread_url = '{talk.url}'\n")
    assert [hit["msg_id"] for hit in ask("search", "text", "reader")["hits"]] == ["1"]
    for words in READING:
        ask(*words)
    assert ask("diagnostic", "events")["rows"]
    health = ask("diagnostic", "health", code=69)
    assert health["data"]["database"] == "ok"
    assert health["error"] == "daemon: not running", "token and models are closed to readers: the daemon tells of them"
    for words in WRITING:
        assert "this configuration only reads (database.read_url)" in ask(*words, code=78, mode="table"), words
    assert "vkteamsd does not start with it" in ask("daemon", "start", code=78, mode="table")
    (theirs := tmp_path / "readers" / "vkteamsd.toml").parent.mkdir()
    theirs.write_text(file.read_text().partition("[database]")[0].partition("[api]")[0])
    monkeypatch.setattr(options, "SYSTEM_DIRECTORY", tmp_path)
    monkeypatch.setenv("VKTEAMS_BOT_CONFIG", str(theirs))
    for words in WRITING:
        assert f"this configuration only reads ({theirs})" in ask(*words, code=78, mode="table"), words
    assert "vkteamsd does not start with it" in ask("config", "check", mode="table").replace("\n", " ")


def test_the_reading_url_comes_before_the_writers(talk: Talk) -> None:
    config = Config(database=Database(url=talk.url, read_url="postgresql://127.0.0.1:9/no"))
    with Archive(config) as archive, pytest.raises(StoreError):
        archive.existing(None)


def test_an_error_about_the_reading_url_names_it() -> None:
    config = Config(database=Database(url="postgresql://127.0.0.1:9/no", read_url="mysql://anna/b"))
    with pytest.raises(ConfigError, match=r"^database\.read_url: mysql:// is not PostgreSQL$"):
        Archive(config)
