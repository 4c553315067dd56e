"""The audit in files of its own: a day each, erased by age; nothing that happens to them holds a call up."""

from __future__ import annotations

import io
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.harness.waiting import until
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.options import Access, Config
from vkteams_daemon.serving.audit import Audit, Call
from vkteams_daemon.serving.audit_files import AuditFiles, open_audit
from vkteams_daemon.serving.background_text import BackgroundText
from vkteams_daemon.system.redaction import Secrets


def _names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_day_has_a_file_and_those_older_than_the_retention_are_erased(tmp_path: Path) -> None:
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    directory = tmp_path / "audit"
    files = AuditFiles(directory, timedelta(days=2), clock=lambda: now)
    assert files.put(b"one\n") == 4
    (directory / "audit-notes.jsonl").touch()
    for days in (1, 2, 3):
        now = datetime(2026, 11, 30, 12, tzinfo=UTC) + timedelta(days=days)
        files.put(b"next\n")
    kept = ["audit-2026-12-01.jsonl", "audit-2026-12-02.jsonl", "audit-2026-12-03.jsonl", "audit-notes.jsonl"]
    assert _names(directory) == kept
    assert (directory / "audit-2026-12-01.jsonl").stat().st_mode & 0o777 == 0o600
    now += timedelta(days=2)
    files.erase_old()  # nobody has asked since
    assert _names(directory) == ["audit-2026-12-03.jsonl", "audit-notes.jsonl"]
    files.close()
    AuditFiles(directory, None, clock=lambda: now + timedelta(days=999)).close()
    assert "audit-2026-12-03.jsonl" in _names(directory), "without a retention all are kept"


def test_calls_of_several_processes_are_lines_of_one_file(tmp_path: Path) -> None:
    config = Config(access=Access(audit_dir=str(tmp_path / "audit")))
    for face in ("mcp", "web"):
        audit = Audit(Secrets(), "http", face, open_audit(config))
        audit.write(Call("anna", None, "search", {"query": "почта"}))
        audit.close()
    (file,) = (tmp_path / "audit").iterdir()
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(line["audit"], line["who"]) for line in lines] == [("mcp", "anna"), ("web", "anna")]
    assert open_audit(Config()) is None


def test_idle_processes_erase_too_and_lost_lines_are_counted() -> None:
    idle: list[int] = []
    taken: list[bytes] = []
    full = True

    def put(content: bytes) -> int:
        if full:
            raise OSError(28, os.strerror(28))
        taken.append(content)
        return len(content)

    text = BackgroundText(put, lambda lost: f"lost {lost}\n", "t", idle=lambda: idle.append(1), idle_interval=0.01)
    text.write("a\n")
    text.write("b\n")
    until(lambda: text._lost == 2, what="two lost lines")
    full = False
    text.write("c\n")
    until(lambda: bool(taken) and bool(idle), what="the line and an hour without one")
    assert taken == [b"lost 2\nc\n"]
    text.end()


def test_a_directory_that_takes_nothing_is_refused_at_the_start_and_told_once_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match=r"access\.audit_dir: .*file cannot be written: File exists"):
        AuditFiles(tmp_path / "file", None)
    now = datetime(2026, 11, 30, tzinfo=UTC)
    files = AuditFiles(tmp_path / "audit", None, clock=lambda: now)
    now += timedelta(days=1)
    (tmp_path / "audit/audit-2026-12-01.jsonl").mkdir()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(OSError, match="directory"):
                files.put(b"x")
    assert [record.getMessage() for record in caplog.records] == [
        f"the audit cannot be written to {tmp_path / 'audit'}: Is a directory"
    ]


def test_a_line_that_cannot_be_written_breaks_no_call(caplog: pytest.LogCaptureFixture) -> None:
    closed = io.StringIO()
    closed.close()
    Audit(Secrets(), "stdio", out=closed).write(Call("me", None, "search_text", {"query": "x"}))
    assert "an audit line could not be written" in caplog.text
