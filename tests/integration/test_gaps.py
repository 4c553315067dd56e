"""A database that went back, and --no-save: what is missing is said until an administrator dismisses it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.harness.batches import CHAT, batch, new
from tests.harness.daemon import DaemonProcess
from tests.harness.postgres import PostgresServer
from tests.harness.waiting import until
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.search.archive_coverage import coverage
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store import gaps
from vkteams_daemon.store.admin import cursors
from vkteams_daemon.store.gaps import RESTARTED, Gap, Missing, Polls
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.schema import migrate
from vkteams_daemon.system.slot_file import SlotFile

BOT = "1000000001"
_LATER = datetime.now(UTC) + timedelta(days=1)


def remembered(file: Path) -> dict[str, Any]:
    """What the file says."""
    content = SlotFile(file, 0o640).read()
    assert content is not None
    decoded = json.loads(content)
    assert isinstance(decoded, dict)
    return decoded


class Host:
    """A host with a state directory, and a writer that sends what it has committed."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.writers: list[Writer] = []
        self.warnings: list[str | None] = []
        self.open()

    def open(self) -> None:
        """A new process on this host."""
        self.close()
        self.acknowledged = AcknowledgedFile(self.directory, BOT, self.warnings.append)
        self.writer = Writer(self.connect, BOT, acknowledged=self.acknowledged)
        self.writers.append(self.writer)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def acquire(self) -> None:
        until(self.writer.acquire, 30, "the bot's lock")
        self.send()

    def send(self) -> None:
        """What the poll loop does before it sends the cursor."""
        assert self.writer.cursor
        self.writer.before_poll(self.writer.cursor)

    def say(self, *ids: int) -> None:
        """Store new messages in one batch and send the cursor."""
        self.writer.store(batch(*(new(n) for n in ids)))
        self.send()

    def execute(self, statement: str) -> None:
        with self.connect() as connection:
            connection.execute(statement.encode())

    def gaps(self) -> list[Gap]:
        with self.connect() as connection:
            return gaps.list_gaps(connection)

    def take_over(self) -> None:
        """Another host takes the lock and ends; it stores nothing."""
        other = Writer(self.connect, BOT)
        until(other.acquire, 30, "the bot's lock")
        other.close()

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


@pytest.fixture
def host(database_url: str, tmp_path: Path) -> Iterator[Host]:
    made = Host(database_url, tmp_path)
    made.acquire()
    for n in range(10, 60, 10):
        made.say(*range(n - 9, n + 1))
    yield made
    made.close()


def _go_back(host: Host, *, moves: bool) -> None:
    """To the cursor 30, two moves ago; or only the cursor, as somebody does it by hand."""
    host.close()
    host.execute("DELETE FROM events WHERE event_id > 30")
    host.execute(f"UPDATE bots SET last_event_id = 30{', moves = moves - 2' if moves else ''}")


def test_a_standby_that_looks_again_and_again_tells_a_restored_backup_once(host: Host, database_url: str) -> None:
    _go_back(host, moves=True)
    with host.connect() as connection, connection.transaction():
        gaps.add_restored(connection, datetime.now(UTC))
    other = Writer(host.connect, BOT)
    until(other.acquire, 30, "the bot's lock")
    try:
        host.open()
        assert not host.writer.acquire() and not host.writer.acquire()
    finally:
        other.close()
    assert [(gap.reason, gap.from_event_id, gap.to_event_id) for gap in host.gaps()] == [(gaps.RESTORED, 31, 50)]


@pytest.mark.parametrize("moves", [True, False])
@pytest.mark.parametrize("restarted", [True, False])
def test_database_that_went_back_is_a_gap_and_an_error_once(
    host: Host, caplog: pytest.LogCaptureFixture, moves: bool, restarted: bool
) -> None:
    _go_back(host, moves=moves)
    if restarted:
        host.open()
    host.acquire()
    (gap,) = host.gaps()
    assert (gap.bot_id, gap.from_event_id, gap.to_event_id, gap.chat_ids) == (BOT, 31, 50, None)
    assert gap.reason == gaps.WENT_BACK
    assert gap.from_time
    assert gap.to_time
    assert gap.from_time < gap.to_time
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert errors[0].startswith(f"events of bot {BOT} up to 50 are missing from the archive: ")
    for _ in range(2):
        host.open()
        host.acquire()
    host.say(51)
    host.open()
    host.acquire()
    assert len(host.gaps()) == 1


def test_process_that_dies_between_the_gap_and_the_file_stores_it_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    _go_back(host, moves=True)
    with monkeypatch.context() as patched:
        patched.setattr(AcknowledgedFile, "_write", lambda self: None)
        host.open()
        host.acquire()
    host.open()
    host.acquire()
    assert len(host.gaps()) == 1


def test_host_that_finds_the_lock_taken_after_a_failover_says_what_is_missing(host: Host, tmp_path: Path) -> None:
    """The standby got the lock first. It has sent nothing of what is missing, so it cannot know."""
    _go_back(host, moves=True)
    other = tmp_path / "other"
    other.mkdir()
    standby = Host(host.url, other)
    standby.acquire()
    assert host.gaps() == []
    host.open()
    for _ in range(3):
        assert not host.writer.acquire()
    assert [(g.from_event_id, g.to_event_id) for g in host.gaps()] == [(31, 50)]
    standby.close()


_LOWERED: dict[str, Callable[[Host], object]] = {
    "cursor --set": lambda host: (host.close(), cursors.set_cursor(host.connect, BOT, 5)),
    "cursor --restart": lambda host: (host.close(), cursors.restart_cursor(host.connect, BOT)),
    "late events": lambda host: (
        host.execute("DELETE FROM events WHERE event_id = 20"), host.writer.store(batch(new(20)))
    ),
    "id restart": lambda host: host.writer.store(batch(new(3, "other"))),
    "take-over by another host": lambda host: (host.close(), host.take_over()),
    "nothing": lambda host: None,
}  # fmt: skip


@pytest.mark.parametrize("how", _LOWERED)
def test_cursor_that_is_lowered_rightly_is_no_gap(host: Host, how: str) -> None:
    """Even if the process dies before it remembers the lower cursor."""
    _LOWERED[how](host)
    host.open()
    host.acquire()
    assert [gap for gap in host.gaps() if gap.reason != RESTARTED] == []


def test_another_archive_is_no_gap(host: Host, empty_database_url: str) -> None:
    migrate(empty_database_url)
    new_archive = Host(empty_database_url, host.directory)
    new_archive.acquire()
    now = datetime.now(UTC)
    host.acknowledged.note_polls(Polls(now, now))
    new_archive.open()
    new_archive.acquire()
    new_archive.say(60)
    assert new_archive.gaps() == []
    assert new_archive.acknowledged.polls is None, "what was polled for the first archive is missing in this one"
    new_archive.close()
    _go_back(host, moves=True)
    host.open()
    host.acquire()
    assert len(host.gaps()) == 1, "what the file says of the first archive stays"


@pytest.mark.parametrize("content", [b"", b"{", b'{"archives": 5}', b"\xff"])
def test_file_that_cannot_be_read_stops_nothing(host: Host, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    host.acknowledged.path.write_bytes(content)
    host.open()
    host.acquire()
    host.say(60)
    assert "cannot be read, so a database that went back is not noticed" in caplog.text
    assert remembered(host.acknowledged.path)


def test_file_that_cannot_be_written_is_a_warning_until_it_is_written_and_stops_nothing(host: Host) -> None:
    host.acknowledged._file.path = host.directory / "gone" / "file"
    for n in range(60, 65):
        host.say(n)
    [warning] = host.warnings
    assert warning and warning.endswith(
        "cannot be written: No such file or directory; a database that goes back is not noticed"
    )
    (host.directory / "gone").mkdir()
    host.send()
    assert host.warnings == [warning, None]
    assert remembered(host.acknowledged.path)


def test_file_is_written_before_a_cursor_is_sent_and_not_at_idle_polls(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, database_url: str
) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url, options={"api.poll_time": 1})
    file = daemon.directory / "state" / f"{BOT}.acknowledged"
    behind: list[tuple[int, int]] = []
    inodes: list[int] = []

    def polled(last_event_id: int) -> None:
        ((_, position),) = remembered(file)["archives"].items()
        inodes.append(file.stat().st_ino)
        if position["last_event_id"] < last_event_id:
            behind.append((position["last_event_id"], last_event_id))

    simulator.on_poll = polled
    daemon.started()
    for n in range(20):
        simulator.say(CHAT, "a.ivanova@corp.example", f"text {n}")
        until(lambda n=n: simulator.state()["acknowledged"] > n, 30, "the acknowledgement")
    polls = len(inodes)
    until(lambda: len(inodes) >= polls + 3, 30, "idle polls")
    simulator.on_poll = None
    assert behind == []
    assert len(set(inodes[polls:])) == 1, "an idle poll writes nothing"


def test_restored_backup_is_told_by_log_health_search_and_ctl_until_it_is_dismissed(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, postgres_server: PostgresServer, database_url: str
) -> None:
    def say(count: int, text: str) -> None:
        for _ in range(count):
            simulator.say(CHAT, "a.ivanova@corp.example", text)
        issued = simulator.state()["issued"]
        until(lambda: simulator.state()["acknowledged"] == issued, 30, "the acknowledgement")

    daemon = vkteamsd(api_url=simulator.url, database_url=database_url).started()
    say(3, "before the backup")
    daemon.stop()
    backup = postgres_server.create_database(template=database_url.rpartition("/")[2])
    try:
        daemon.started()
        say(2, "after the backup")
        daemon.kill9()
        daemon.configure(**{"database.url": postgres_server.url(backup)})
        daemon.started()
        daemon.wait_log("ERROR")
        assert f"events of bot {BOT} up to 5 are missing from the archive" in daemon.log_text()
        (gap,) = daemon.ask("database", "gaps")["rows"]
        assert (gap["from_event_id"], gap["to_event_id"], gap["reason"]) == (4, 5, gaps.WENT_BACK)
        health = daemon.ask("diagnostic", "health")
        assert health["gaps"] == 1
        assert any("see `vkteamsctl database gaps`" in problem for problem in health["problems"])
        told = daemon.ask("search", "text", "backup")["coverage"]["gaps"]
        assert any(sentence.endswith(f"may be missing: {gaps.WENT_BACK}") for sentence in told)
        assert "4–5" in daemon.ctl("database", "gaps").stdout
        assert daemon.ask("database", "gaps", "--dismiss", str(gap["gap_id"]))["rows"] == []
        assert daemon.ask("diagnostic", "health")["gaps"] == 0
        assert not daemon.ask("search", "text", "backup")["coverage"].get("gaps")
        (gap,) = daemon.ask("database", "gaps", "--all")["rows"]
        assert gap["dismissed_by"]
        assert "no gap is known" in daemon.ctl("database", "gaps").stdout
        assert daemon.ctl("database", "gaps", "--dismiss", "77").returncode == 69
    finally:
        daemon.close()
        postgres_server.drop_database(backup)


def test_what_no_save_has_acknowledged_becomes_a_gap_at_the_next_start(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, database_url: str
) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url)
    printing = daemon.spawn("--foreground", "--no-save")
    for n, chat in enumerate((CHAT, CHAT, "second@chat.agent"), 1):
        simulator.say(chat, "a.ivanova@corp.example", "lost")
        until(lambda n=n: simulator.state()["acknowledged"] >= n, 60, "the acknowledgement")
    printing.kill()
    printing.communicate()
    daemon.started()
    daemon.wait_log("are missing from the archive: the events were acknowledged with --no-save")
    (gap,) = daemon.ask("database", "gaps")["rows"]
    assert (gap["from_event_id"], gap["to_event_id"]) == (1, 3)
    assert gap["chat_ids"] == sorted([CHAT, "second@chat.agent"])
    daemon.stop()
    daemon.started()
    assert len(daemon.ask("database", "gaps")["rows"]) == 1
    simulator.say(CHAT, "a.ivanova@corp.example", "kept")
    simulator.say("third@chat.agent", "a.ivanova@corp.example", "kept")
    until(lambda: len(daemon.ask("search", "text", "kept")["hits"]) == 2, 60, "the messages")
    for chat, lines in ((CHAT, 1), ("third@chat.agent", 0)):
        told = daemon.ask("search", "text", "kept", "--chat-id", chat)["coverage"]
        assert len(told.get("gaps", [])) == lines


@pytest.mark.parametrize(
    ("missing", "chats", "told"),
    [
        (None, [CHAT], True),
        ((CHAT,), [CHAT], True),
        ((CHAT, "secret"), [CHAT], True),
        (("secret",), [CHAT], False),
        (("secret",), None, True),
        ((), [CHAT], False),
    ],
)
def test_coverage_of_a_scope_tells_only_times(
    database_url: str, missing: tuple[str, ...] | None, chats: list[str] | None, told: bool
) -> None:
    noon = datetime(2026, 11, 1, 12, tzinfo=UTC)
    entry = Missing(gaps.WENT_BACK, 31, 50, noon, noon + timedelta(hours=1), missing)
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert gaps._insert(connection, BOT, entry)
        span = "between Sun 2026-11-01 12:00:00 UTC and Sun 2026-11-01 13:00:00 UTC"
        sentence = f"messages {span} may be missing: {entry.reason}"
        assert coverage(connection, Scope(chats)).gaps == ((sentence,) if told else ())
        if told:
            later = coverage(connection, Scope(chats, since=noon + timedelta(minutes=30))).gaps
            assert later == (sentence.replace("12:00:00", "12:30:00"),)
            assert coverage(connection, Scope(chats, since=noon + timedelta(hours=2))).gaps == ()
            assert coverage(connection, Scope(chats, until=noon - timedelta(hours=2))).gaps == ()
            assert coverage(connection, Scope(chats, until=noon + timedelta(hours=2))).gaps == (sentence,)
