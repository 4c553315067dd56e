from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vkteams_daemon.config import Config
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.daemon.health import GRACE, read_health
from vkteams_daemon.daemon.process.pidfile import PidFile
from vkteams_daemon.errors import CannotCreate, PermissionRefused, VkTeamsError


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return msgspec.convert({"daemon": {"runtime_dir": str(tmp_path), "status_interval": 5.0}}, Config)


@pytest.fixture
def held(config: Config) -> Iterator[ExitStack]:
    """The PID file is held by this process until the stack is closed."""
    with ExitStack() as stack:
        stack.enter_context(PidFile(config.pid_file))
        yield stack


def _write(config: Config, *, age: float = 0.0, **changes: Any) -> None:
    """A status file of this process, written `age` seconds ago."""
    status = status_file.new("0.1.0", "all")
    for name, value in changes.items():
        setattr(status, name, value)
    status_file.write(status, config.status_file)
    if age:
        status.updated_at = datetime.now(UTC) - timedelta(seconds=age)
        config.status_file.write_bytes(msgspec.json.encode(status))


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ("listening", "running"), ("embedding", "running"), ("starting", "starting"), ("standby", "standby"),
        ("degraded", "degraded"), ("stopping", "stopping"),
    ],
)  # fmt: skip
def test_health_of_each_state(config: Config, held: ExitStack, state: str, word: str) -> None:
    _write(config, state=state)
    health = read_health(config)
    assert (health.state, health.exit_code, health.pid, health.alive) == (word, 0, os.getpid(), True)
    assert health.uptime is not None


def test_gap_names_events_that_wait_in_the_spool(config: Config) -> None:
    assert status_file.read_backlog(config.status_file) is None, "no file"
    config.status_file.write_bytes(b"{")
    assert status_file.read_backlog(config.status_file) is None, "no status file"
    _write(config)
    assert status_file.read_backlog(config.status_file) is None
    _write(config, spool=status_file.Spool(events=1))
    assert status_file.read_backlog(config.status_file) == "1 event waits in the daemon's spool and cannot be found yet"
    assert status_file.read_backlog(config.status_file, restricted=True) is None


def test_without_files_the_daemon_is_not_running(config: Config) -> None:
    health = read_health(config)
    assert (health.state, health.exit_code, health.pid, health.uptime) == ("not running", 3, None, None)


def test_after_a_clean_exit_the_last_file_is_still_shown(config: Config, held: ExitStack) -> None:
    _write(config, state="stopping")
    held.close()
    health = read_health(config)
    assert (health.state, health.exit_code) == ("not running", 3)
    assert health.status is not None
    assert health.uptime is None


def test_unlocked_pid_file_means_dead(config: Config) -> None:
    config.pid_file.write_text(f"{os.getppid()}\n")
    _write(config, state="listening")
    health = read_health(config)
    assert (health.state, health.exit_code, health.pid) == ("dead", 1, None)


def test_starting_daemon_is_not_dead(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config.pid_file.touch()
    with ExitStack() as stack:
        monkeypatch.setattr(time, "sleep", lambda _: stack.enter_context(PidFile(config.pid_file)))
        assert read_health(config).state == "starting"


def test_status_of_an_earlier_process_is_ignored(config: Config, held: ExitStack) -> None:
    _write(config, state="listening", pid=os.getpid() + 1)
    health = read_health(config)
    assert (health.state, health.status) == ("starting", None)


def test_lock_without_status_file_becomes_stale(config: Config, held: ExitStack) -> None:
    assert read_health(config).state == "starting"
    old = time.time() - 15 - GRACE - 1
    os.utime(config.pid_file, (old, old))
    assert (read_health(config).state, read_health(config).exit_code) == ("stale", 4)


def test_old_status_file_is_stale(config: Config, held: ExitStack) -> None:
    _write(config, state="listening", age=3 * 5 + GRACE - 2)
    assert read_health(config).state == "running"
    _write(config, state="listening", age=3 * 5 + GRACE + 2)
    health = read_health(config)
    assert (health.state, health.exit_code) == ("stale", 4)
    assert health.age is not None
    assert health.age > 30
    _write(config, state="listening", age=-3600)  # the clock was set back
    assert read_health(config).state == "running"


def test_a_broken_status_file_is_unknown(config: Config, held: ExitStack) -> None:
    config.status_file.write_text("{")
    health = read_health(config)
    assert (health.state, health.exit_code) == ("unknown", 4)
    assert health.error is not None
    assert "not a readable status file" in health.error
    held.close()
    assert read_health(config).state == "not running"


def test_unreadable_directory_is_unknown(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: object) -> None:
        raise PermissionRefused("x: this user may not look there")

    monkeypatch.setattr("vkteams_daemon.daemon.health.find_holder", closed)
    health = read_health(config)
    assert (health.state, health.exit_code, health.error) == ("unknown", 4, "x: this user may not look there")


def test_summary_counts_events_and_last_activity(config: Config, held: ExitStack) -> None:
    moment = datetime(2026, 11, 24, 12, tzinfo=UTC)
    events = status_file.Events(saved=5, duplicate=2, filtered=1, quarantined=1, last_event_at=moment)
    api = status_file.Api(state="ok", last_poll_at=moment + timedelta(seconds=30))
    _write(config, state="listening", events=events, api=api)
    health = read_health(config)
    assert health.events_processed == 8
    assert health.last_activity == moment + timedelta(seconds=30)
    assert health.summary().keys() == {"status", "uptime", "events_processed", "last_activity"}


def test_the_status_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    (tmp_path / ".s.json.new").write_text("left by a killed daemon")
    before = os.umask(0)
    try:
        status_file.write(status_file.new("1", "all"), path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]
    assert status_file.read(tmp_path / "none") is None


def test_a_status_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.json"
    status_file.write(status_file.new("1", "all"), path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotCreate, match="No space left"):
        status_file.write(status_file.new("2", "all"), path)
    status = status_file.read(path)
    assert status is not None
    assert status.version == "1"
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


def test_the_status_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / ".s.json.new").symlink_to(tmp_path / "victim")
    status_file.write(status_file.new("1", "all"), tmp_path / "s.json")
    assert not (tmp_path / "victim").exists()
    with pytest.raises(VkTeamsError):
        status_file.read(tmp_path)
