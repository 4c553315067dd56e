"""`vkteamsctl database replay`, as people and programs call it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.batches import batch, edited, event, new
from tests.harness.fork_server import python
from vkteams_daemon.store.ingest.writer import Writer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def archive(database_url: str) -> str:
    writer = Writer(lambda: psycopg.connect(database_url, autocommit=True), "bot")
    assert writer.acquire()
    writer.store(batch(new(1, "m"), edited(2, "m", "two"), event(3, "newMessage", msgId="hopeless")))
    writer.close()
    return database_url


def _run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VKTEAMS_")}
    return subprocess.run(
        python(str(ROOT / "bin" / "vkteamsctl"), "database", "replay", *arguments),
        cwd=ROOT, env=environment | {"DATABASE_URL": url, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip


def _data(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["success"]
    return answer["data"]  # type: ignore[no-any-return]


def test_everything_is_rebuilt_only_with_yes(archive: str) -> None:
    with psycopg.connect(archive, autocommit=True) as connection:
        connection.execute("DELETE FROM messages")
        refused = _run(archive, "--all")
        assert refused.returncode == 64
        assert "Add --yes" in refused.stderr
        assert connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)
        assert _data(_run(archive, "--all", "--yes", "--output", "json"))["messages"] == 1
        assert connection.execute("SELECT text, version FROM messages").fetchall() == [("two", 2)]


def test_quarantine_is_read_again_without_asking(archive: str) -> None:
    data = _data(_run(archive, "--output", "json"))
    assert (data["events"], data["readable"], data["unreadable"]) == (1, 0, 1)


def test_output_in_a_pipe_is_sentences_without_progress(archive: str) -> None:
    ended = _run(archive)
    assert ended.stdout.startswith("0 of 1 quarantined events were read and derived\n1 events cannot be read")
    assert ended.stderr == ""
