"""The promise, whatever happens between two steps: an acknowledged event is safe, and in the end it is stored once.

A state machine drives the poll loop with its writer, its spool and a real database. The database goes away, the process
dies in the middle of a step, the power fails, another process takes over, and events are erased.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.harness.oracle import BOT, ids_in_spool
from tests.harness.reference import ReferenceArchive, Stored, wire
from tests.harness.scale import FULL, scaled
from vkteams_daemon.botapi import events as api_events
from vkteams_daemon.botapi.client import BotInfo
from vkteams_daemon.daemon.polling import poller as poller_module
from vkteams_daemon.daemon.polling import spool as spool_module
from vkteams_daemon.daemon.polling import spooler as spooler_module
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.daemon.polling.poller import Poller
from vkteams_daemon.daemon.polling.spooler import Spooler
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.errors import ApiUnreachable, DatabaseUnavailable
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import erasure, replay

SENT = 1_764_000_000
SPOOL_AFTER = 60.0
TABLES = ("message_versions", "messages", "events", "chats", "users", "chat_members", "bots", "gaps")


KINDS = st.lists(st.sampled_from(["new", "edit", "delete", "join", "unreadable"]), min_size=1, max_size=5)
MESSAGES = st.integers(1, 3)


class Killed(BaseException):
    """The process is gone: nothing more of it runs."""


class Api:
    """The Bot API in its strict mode: what was acknowledged never comes again.

    Attributes:
        issued: the events by their ids.
        acknowledged: the highest lastEventId that came.
        size: events of one answer at most.
        descending: whether an answer has the newest event first.
        failing: how each of the next polls fails: "never" (the request does not arrive), or "lost" (the request
            arrives, the answer does not).
        on_poll: called with every lastEventId.
    """

    def __init__(self, on_poll: Callable[[int], None]) -> None:
        self.issued: dict[int, dict[str, Any]] = {}
        self.acknowledged = 0
        self.size = 100
        self.descending = False
        self.failing: list[str] = []
        self.on_poll = on_poll

    def emit(self, kind: str, **payload: Any) -> None:
        number = len(self.issued) + 1
        says = {"chat": {"chatId": "c1", "type": "group"}, "from": {"userId": "u", "firstName": f"U{number}"}}
        self.issued[number] = {"eventId": number, "type": kind, "payload": says | {"timestamp": SENT} | payload}

    def poll(self, last_event_id: int, poll_time: int = 0) -> bytes:
        how = self.failing.pop() if self.failing else "well"
        if how == "never":
            raise ApiUnreachable("away")
        self.on_poll(last_event_id)
        self.acknowledged = max(self.acknowledged, last_event_id)
        if how == "lost":
            raise ApiUnreachable("the answer was lost")
        unread = [event for number, event in self.issued.items() if number > self.acknowledged][: self.size]
        return b'{"events":[' + b",".join(map(wire, unread[::-1] if self.descending else unread)) + b"]}"

    def self_get(self) -> BotInfo:
        return BotInfo(BOT, None, None)

    def poll_limit(self, poll_time: int) -> float:
        return 1000.0


class Disk:
    """The disk below the spool: it knows what would be there after a power cut.

    It stands in the place of the modules `os`, `files` and `plain_file` in the module of the spool.

    Attributes:
        durable: the bytes of each file that would certainly be there.
        full: whether nothing more can be written.
    """

    def __init__(self, directory: Path, point: Callable[[], None]) -> None:
        self.directory = directory
        self.durable: dict[str, bytes] = {}
        self.full = False
        self._descriptors: set[int] = set()
        self._synced: dict[str, bytes] = {}  # files whose bytes are on the disk, but perhaps not their names
        self._point = point

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        self._descriptors.add(descriptor)
        return descriptor

    def open_plain(self, path: Path, flags: int) -> int:
        return self.open(path, flags)

    def close(self, descriptor: int) -> None:
        self._descriptors.discard(descriptor)
        os.close(descriptor)

    def close_all(self) -> None:
        """What the kernel does for a process that is gone."""
        for descriptor in [*self._descriptors]:
            self.close(descriptor)

    def pwrite(self, descriptor: int, data: bytes, at: int) -> int:
        self._point()
        if self.full:
            raise OSError(28, "No space left on device")
        if len(data) > 20:
            data = data[: len(data) // 2]  # the other half comes with the next call
        return os.pwrite(descriptor, data, at)

    def fsync(self, descriptor: int) -> None:
        self._point()
        os.fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.exists():
            self._synced[path.name] = path.read_bytes()
            if path.name in self.durable:
                self.durable[path.name] = self._synced[path.name]
        self._point()

    def fsync_path(self, path: Path) -> None:
        self._point()
        there = {file.name for file in self.directory.glob("*.spool*")}
        for name in there - self.durable.keys():
            self.durable[name] = self._synced.get(name, self.durable.get(name.partition(".aside")[0], b""))
        for name in self.durable.keys() - there:
            del self.durable[name]
        self._point()

    def cut_power(self, kept: int) -> None:
        """What is not certainly on the disk is gone, but `kept` bytes of it."""
        for file in self.directory.glob("*.spool*"):
            if file.name not in self.durable:
                file.unlink()
        for name, content in self.durable.items():
            file = self.directory / name
            torn = file.read_bytes()[len(content) :] if file.exists() else b""
            file.write_bytes(content + torn[:kept])


class Inline(Executor):
    """Runs everything at once, in the calling thread; a `Killed` goes on upwards."""

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*arguments, **named))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        return future


class Listener:
    """The parts of one process that take events in."""

    def __init__(self, machine: Promise) -> None:
        self._machine = machine
        self._connections: list[Any] = []
        self.poller = Poller(
            machine.api, self._open, Inline(), new_status("0", "listen"), poll_time=30, backoff_max=5.0,
            on_change=lambda: None, on_queued=lambda: None, on_end=self._ended,
            spooler=Spooler(machine.directory, max_bytes=1 << 20, after=SPOOL_AFTER),
        )  # type: ignore[arg-type]  # fmt: skip

    def die(self) -> None:
        """What the kernel does for a process that is gone."""
        for connection in self._connections:
            connection.close()
        self._machine.disk.close_all()

    @staticmethod
    def _ended(error: Exception) -> None:
        raise AssertionError(f"the loop has ended: {error}")

    def _open(self, bot: BotInfo) -> Writer:
        self._connect().close()
        return _Writer(self._machine, self._connect, bot.user_id, acknowledged=self.poller.spooler.acknowledged)

    def _connect(self) -> Any:
        if not self._machine.database:
            raise DatabaseUnavailable("the database is away")
        connection = psycopg.connect(self._machine.url, autocommit=True, application_name="listening")
        self._connections.append(connection)
        return connection


class _Writer(Writer):
    """A writer that can be killed before and after its commit, and whose connection can break after it."""

    def __init__(self, machine: Promise, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._machine = machine

    def _commit(self, *arguments: Any, **named: Any) -> Any:
        self._machine.point()
        committed = super()._commit(*arguments, **named)
        self._after_commit()
        return committed

    def store_late(self, *arguments: Any, **named: Any) -> Any:
        self._machine.point()
        committed = super().store_late(*arguments, **named)
        self._after_commit()
        return committed

    def _after_commit(self) -> None:
        self._machine.point()
        if self._machine.breaks_after_commit:
            self._machine.breaks_after_commit = False
            raise DatabaseUnavailable("the outcome of the commit is unknown")


class Promise(RuleBasedStateMachine):
    """The machine. What it does to the process, it does between two of the points at which a real process could die."""

    url: str
    home: Path
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).runs += 1
        self.directory = self.home / str(self.runs)
        self.directory.mkdir()
        self.admin = psycopg.connect(self.url, autocommit=True)
        for table in TABLES:
            self.admin.execute(f"DELETE FROM {table}".encode())
        self.api = Api(self._polled)
        self.disk = Disk(self.directory, self.point)
        self.database = True
        self.breaks_after_commit = False
        self.now = 1000.0
        self.points: int | None = None
        self.erased = self.taken_over = False
        self.other: Writer | None = None
        self._patch = pytest.MonkeyPatch()
        for module in (poller_module, spooler_module):
            self._patch.setattr(module, "time", types.SimpleNamespace(monotonic=lambda: self.now))
        self._patch.setattr(spool_module, "os", self.disk)
        self._patch.setattr(spool_module, "files", self.disk)
        self._patch.setattr(spool_module, "plain_file", self.disk)
        self.process: Listener | None = None

    # What the machine itself is asked

    def point(self) -> None:
        """A point at which a real process could die."""
        if self.points is not None:
            self.points -= 1
            if self.points < 0:
                self.points = None
                raise Killed

    def _polled(self, last_event_id: int) -> None:
        """Everything that is acknowledged must be committed, or on the disk of the spool."""
        safe = {row[0] for row in self.admin.execute("SELECT event_id FROM events")}
        for name, content in self.disk.durable.items():
            if name.endswith(".spool"):
                safe.update(ids_in_spool(content))
        lost = {number for number in self.api.issued if number <= last_event_id} - safe
        assert not lost, f"{last_event_id} was acknowledged; neither committed nor spooled: {sorted(lost)}"
        if self.other is None:
            assert self._remembered() >= last_event_id, f"{last_event_id} is acknowledged and not remembered"

    def _remembered(self) -> int:
        """The highest id of which the host remembers outside database and spool that it was acknowledged."""
        row = self.admin.execute("SELECT archive_id::text FROM archive_identity").fetchone()
        assert row
        file = AcknowledgedFile(self.directory, BOT)
        position, spooled = file.position(row[0]), file.spooled
        return max(position.last_event_id if position else 0, (spooled and spooled.to_event_id) or 0)

    # The Bot API

    @rule(kinds=KINDS, message=MESSAGES)
    def something_happens(self, kinds: list[str], message: int) -> None:
        for kind in kinds:
            key = {"msgId": f"m{message}"}
            number = len(self.api.issued)
            if kind == "new":
                self.api.emit("newMessage", text="said", **key)
            elif kind == "edit":
                self.api.emit("editedMessage", text=f"e{number}", editedTimestamp=SENT + number, **key)
            elif kind == "delete":
                self.api.emit("deletedMessage", **key)
            elif kind == "join":
                self.api.emit("newChatMembers", newMembers=[{"userId": "v"}])
            else:
                self.api.emit("newMessage", text="without a msgId")

    @rule(size=st.sampled_from([1, 2, 100]), descending=st.booleans())
    def answers_change(self, size: int, descending: bool) -> None:
        self.api.size, self.api.descending = size, descending

    @rule(how=st.sampled_from(["never", "lost"]), polls=st.integers(1, 3))
    def api_fails(self, how: str, polls: int) -> None:
        self.api.failing = [how] * polls

    # The process

    @rule(turns=st.integers(1, 5))
    def goes_on(self, turns: int) -> None:
        for _ in range(turns):
            self._turn()

    @rule(seconds=st.sampled_from([1.0, 15.0, SPOOL_AFTER + 1]), turns=st.integers(1, 3))
    def time_passes(self, seconds: float, turns: int) -> None:
        for _ in range(turns):
            self.now += seconds
            self._turn()

    @rule(points=st.integers(0, 14), power=st.booleans(), kept=st.integers(0, 200))
    def is_killed_in_a_turn(self, points: int, power: bool, kept: int) -> None:
        self.points = points
        self._turn()
        self.points = None
        self._die(power, kept)

    def _turn(self) -> None:
        if self.process is None:
            self.process = Listener(self)
        try:
            assert self.process.poller._turn() is not None
        except Killed:
            self._die(False, 0)
            return
        assert self.process.poller._pulse.fault() is None, self.process.poller.last_error

    def _die(self, power: bool, kept: int) -> None:
        if self.process is not None:
            self.process.die()
            self.process = None
        if power:
            self.disk.cut_power(kept)

    # The database and the disk

    @rule(kinds=KINDS, message=MESSAGES, then=st.sampled_from(["nothing", "nothing", "full disk", "kill", "power cut"]))
    def database_is_away_for_long(self, kinds: list[str], message: int, then: str) -> None:
        """The patience passes without the database, and something happens: that goes to the spool."""
        self.goes_on(2)
        self.database_changes("away")
        self._turn()
        self.something_happens(kinds, message)
        self.now += SPOOL_AFTER + 1
        self.disk.full = then == "full disk"
        for _ in range(4):
            self._turn()
        self.disk.full = False
        if then in ("kill", "power cut"):
            self._die(then == "power cut", 0)

    @rule(how=st.sampled_from(["away", "back", "back", "sessions break", "a commit will be uncertain"]))
    def database_changes(self, how: str) -> None:
        self.database = how == "back" or (self.database and how != "away")
        self.breaks_after_commit = self.breaks_after_commit or how == "a commit will be uncertain"
        if how in ("away", "sessions break"):
            self._end_sessions()

    def _end_sessions(self) -> None:
        ended = self.admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'listening'"
        ).fetchall()
        assert all(row[0] for row in ended)

    @rule(how=st.sampled_from(["erases", "replays", "replays"]))
    def an_administrator(self, how: str) -> None:
        if how == "erases":
            self.erased = True
            erasure.erase(self.admin, datetime.now(UTC))
        else:
            replay.everything(self.admin, erase=False)

    # Another process

    @rule(polls=st.integers(0, 3), stays=st.booleans())
    def another_process_takes_over(self, polls: int, stays: bool) -> None:
        if self.other is None:
            self._end_sessions()
            self.other = Writer(lambda: psycopg.connect(self.url, autocommit=True), BOT)
            assert self.other.acquire()
            self.taken_over = True
        self.api.failing = []
        for _ in range(polls):
            cursor = self.other.cursor
            assert cursor is not None
            if events := api_events.read(self.api.poll(cursor.last_event_id), datetime.now(UTC)):
                self.other.store(events)
        if not stays:
            self._end_other()

    def _end_other(self) -> None:
        if self.other is not None:
            self.other.close()
            self.other = None

    # What always holds

    @invariant()
    def no_gap_is_seen(self) -> None:
        assert self.admin.execute("SELECT reason FROM gaps").fetchall() == []

    def teardown(self) -> None:
        try:
            self._end_well()
        finally:
            self._die(False, 0)
            self._end_other()
            self._patch.undo()
            self.admin.close()

    def _end_well(self) -> None:
        """Everything is as it should be again: in the end each event is stored once, and the rows follow from them."""
        self._end_other()
        self.database, self.points = True, None
        self.api.failing, self.api.size, self.breaks_after_commit = [], 100, False
        for _ in range(40):
            self.now += 15.0
            self._turn()
            if self.api.acknowledged == len(self.api.issued) == self._stored():
                break
        stored = [row[0] for row in self.admin.execute("SELECT event_id FROM events ORDER BY event_id")]
        assert stored == sorted(self.api.issued)
        assert self.api.acknowledged == len(stored)
        # What was late in the spool, because another process went on, has lowered no cursor and begun no generation.
        assert self.admin.execute("SELECT generation, last_event_id FROM bots").fetchall() == [(1, len(stored))]
        assert list(self.directory.glob("*.spool*")) == []
        if not self.erased:
            self._compare()

    def _stored(self) -> int:
        row = self.admin.execute("SELECT count(*) FROM events").fetchone()
        assert row
        return int(row[0])

    def _compare(self) -> None:
        """The rows follow from the events, in the order of their arrival."""
        expected = ReferenceArchive(api_events.hashed_id)
        columns = "bot_id, generation, event_id, type, chat_id, user_id, subject, occurred_at, received_at, payload"
        rows = self.admin.execute(
            f"SELECT {columns}, error IS NOT NULL FROM events ORDER BY received_at, event_id".encode()
        ).fetchall()
        expected.stored = [Stored(*row[:10], b"", row[10], False) for row in rows]
        if not self.taken_over:
            self._compare_rows(expected)  # otherwise the events were not committed in the order of their arrival
        replay.everything(self.admin, erase=False)
        self._compare_rows(expected)

    def _compare_rows(self, expected: ReferenceArchive) -> None:
        names = ("user_id", "edited_at", "deleted_at", "version", "text", "received_at")
        rows = self.admin.execute(f"SELECT chat_id, msg_id, {', '.join(names)} FROM messages".encode()).fetchall()
        messages = {row[:2]: dict(zip(names, row[2:], strict=True)) for row in rows}
        assert messages == {key: {name: row[name] for name in names} for key, row in expected.messages().items()}
        texts = self.admin.execute("SELECT chat_id, msg_id, version, text FROM message_versions").fetchall()
        assert {row[:3]: row[3] for row in texts} == {key: row["text"] for key, row in expected.versions().items()}
        users = self.admin.execute("SELECT user_id, first_name, seen_at FROM users").fetchall()
        assert {row[0]: row[1:] for row in users} == {key: (row[0], row[4]) for key, row in expected.users().items()}
        members = self.admin.execute(
            "SELECT chat_id, user_id, joined_at, left_at, added_by, removed_by FROM chat_members"
        )
        assert {row[:2]: row[2:] for row in members.fetchall()} == expected.members()


@pytest.mark.timeout(20_000 if FULL else 120)
def test_acknowledged_events_are_safe_and_end_stored_once(database_url: str, tmp_path: Path) -> None:
    machine = type("Machine", (Promise,), {"url": database_url, "home": tmp_path})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=scaled("courses of the machine that tries the promise", full=2_000, quick=10),
            stateful_step_count=scaled("steps of each course", full=50, quick=15), derandomize=not FULL,
            print_blob=True,
            deadline=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
        ),
    )  # fmt: skip
