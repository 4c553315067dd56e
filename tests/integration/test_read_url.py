"""`[database] read_url`: what asks uses it, and what writes is refused where it stands alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.talk import Talk
from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError, StoreError
from vkteams_daemon.options import Database
from vkteams_daemon.search.archive import Archive


def test_questions_use_the_reading_role_alone(
    talk: Talk, ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk.say("1", "found by a reader")
    monkeypatch.delenv("DATABASE_URL")
    file = tmp_path / "d.toml"
    file.write_text(f"{file.read_text()}[database]\nread_url = '{talk.url}'\n")
    assert [hit["msg_id"] for hit in ask("search", "text", "reader")["hits"]] == ["1"]
    assert "only reads (database.read_url)" in ask("database", "replay", "--all", "--yes", code=78)["error"]


def test_the_reading_url_comes_before_the_writers(talk: Talk) -> None:
    config = Config(database=Database(url=talk.url, read_url="postgresql://127.0.0.1:9/no"))
    with Archive(config) as archive, pytest.raises(StoreError):
        archive.existing(None)


def test_an_error_about_the_reading_url_names_it() -> None:
    config = Config(database=Database(url="postgresql://127.0.0.1:9/no", read_url="mysql://anna/b"))
    with pytest.raises(ConfigError, match=r"^database\.read_url: mysql:// is not PostgreSQL$"):
        Archive(config)
