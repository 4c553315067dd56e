"""While the database is away, events are acknowledged from the spool; afterwards each is stored once, in its order."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from tests.harness.batches import CHAT, batch, deleted, edited, event, new, rows
from tests.harness.oracle import BOT, Oracle, spooled_ids
from tests.harness.simulator import wait_acknowledged, wait_polled
from tests.harness.traffic import emit_event
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient, BotInfo
from vkteams_daemon.daemon.polling import poller as poller_module
from vkteams_daemon.daemon.polling import spool as module
from vkteams_daemon.daemon.polling.poller import Poller
from vkteams_daemon.daemon.polling.spooler import Spooler
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.errors import DatabaseSlow, DatabaseUnavailable
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store import gaps
from vkteams_daemon.store.admin import cursors
from vkteams_daemon.store.ingest.writer import Writer


class Listening:
    """The poll loop with its writer and its spool, as one process has them; `away` takes its database.

    Args:
        simulator: the Bot API.
        url: the database.
        directory: the state directory.
        spool_after: seconds.
        max_bytes: of the spool.
        there: whether the database is there at the start.
    """

    def __init__(
        self,
        simulator: Simulator,
        url: str,
        directory: Path,
        *,
        spool_after: float = 0.1,
        max_bytes: int = 1 << 20,
        there: bool = True,
        **options: Any,
    ) -> None:
        self.url = url
        self.there = there
        self.status = new_status("0", "listen")
        self._client = BotClient(simulator.url, simulator.token)
        self._erase = options.pop("erase", False)
        self._options = {"write_timeout": 5.0} | options
        self._work = ThreadPoolExecutor(1)
        self.poller = Poller(
            self._client, self._writer, self._work, self.status, poll_time=30, backoff_max=0.5,
            on_change=lambda: None, on_queued=lambda: None, on_end=lambda error: None,
            spooler=Spooler(directory, max_bytes=max_bytes, after=spool_after, status=self.status.spool),
        )  # fmt: skip
        self._thread = threading.Thread(target=self.poller.run)
        self._thread.start()

    def away(self) -> None:
        """The database does not answer any more."""
        self.there = False
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'spooling'"
            )

    def back(self) -> None:
        """It answers again."""
        self.there = True

    def close(self) -> None:
        """End it, as kill -9 would: nothing is tidied up but what the kernel tidies up."""
        self.poller.stop()
        while self._thread.is_alive():
            self.poller.abort()
            self._thread.join(0.05)
        self._client.close()
        self._work.shutdown()
        if self.poller.sink is not None:
            self.poller.sink.close()  # type: ignore[attr-defined]
        self.poller.spooler.close()

    def _writer(self, bot: BotInfo) -> Writer:
        self._connect().close()
        writer = Writer(self._connect, bot.user_id, acknowledged=self.poller.spooler.acknowledged, **self._options)
        writer.erase = self._erase
        return writer

    def _connect(self) -> psycopg.Connection[Any]:
        if not self.there:
            raise DatabaseUnavailable("the database is away")
        return psycopg.connect(self.url, autocommit=True, application_name="spooling")


Make = Callable[..., Listening]


@pytest.fixture
def listening(simulator: Simulator, oracle: Oracle, tmp_path: Path) -> Iterator[Make]:
    """Makes listeners in one state directory, one after the other; the oracle watches all of them."""
    made: list[Listening] = []
    oracle.spool_dir = tmp_path

    def make(**options: Any) -> Listening:
        if made:
            made[-1].close()
        made.append(Listening(simulator, oracle.url, tmp_path, **options))
        return made[-1]

    yield make
    if made:
        made[-1].close()


@pytest.fixture
def away(listening: Make, simulator: Simulator, oracle: Oracle) -> Make:
    """Makes a listener that polls and then loses its database: `away(events, stored=0)`, options as of `Listening`.

    The messages of `stored` came before and are stored. Those of `events` come afterwards and are acknowledged.
    """

    def make(events: int, *, stored: int = 0, **options: Any) -> Listening:
        one = listening(**options)
        for number in range(stored):
            emit_event(simulator, number)
        oracle.wait()
        wait_polled(simulator)
        one.away()
        for number in range(stored, stored + events):
            emit_event(simulator, number)
        wait_acknowledged(simulator, simulator.state()["issued"])
        return one

    return make


def _issue(simulator: Simulator, *events: dict[str, Any]) -> None:
    for one in events:
        simulator.event(one["type"], one["payload"])


def _cursor(url: str) -> tuple[int, int]:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT generation, last_event_id FROM bots").fetchone()
    assert row
    return row[0], row[1]


def test_events_are_acknowledged_from_the_spool_and_stored_in_order(
    away: Make, simulator: Simulator, oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[float] = []

    def collect() -> None:
        """Takes longer than the longest wait for the database, as in a large process on a busy machine."""
        threading.Event().wait(0.6)
        collected.append(time.monotonic())

    monkeypatch.setattr(poller_module, "gc", SimpleNamespace(collect=collect))
    one = away(39, stored=1)
    until(lambda: len(collected) > 2, 20, "what failed attempts leave behind to be collected, or it would pile up")
    last = simulator.state()["issued"]
    assert max(oracle.stored()) == 1
    assert spooled_ids(tmp_path) == list(range(2, last + 1))
    assert one.status.database.state == "down"
    one.back()
    oracle.wait()
    until(lambda: not spooled_ids(tmp_path), 20, "an empty spool")
    assert list(tmp_path.glob("*.spool*")) == []
    emit_event(simulator, 40)
    oracle.wait()
    oracle.check()
    assert one.status.database.state == "ok"
    arrivals = oracle.rows("SELECT received_at FROM events ORDER BY event_id")
    assert arrivals == sorted(arrivals)


def test_a_batch_that_could_not_be_committed_goes_to_the_spool_first(
    listening: Make, simulator: Simulator, oracle: Oracle
) -> None:
    one = listening()
    wait_polled(simulator)
    with psycopg.connect(oracle.url) as blocker:
        blocker.execute("LOCK TABLE events IN EXCLUSIVE MODE")
        emit_event(simulator, 0)
        until(lambda: one.status.events.received > 0, 20, "an event in hand")
        one.away()
        wait_acknowledged(simulator, 1)
        assert oracle.spool_dir
        assert spooled_ids(oracle.spool_dir) == [1]
    one.back()
    oracle.wait()
    oracle.check()


def test_the_patience_comes_first(away: Make, simulator: Simulator, oracle: Oracle) -> None:
    one = away(0, spool_after=3600.0)
    emit_event(simulator, 0)
    until(lambda: one.status.database.state == "down", 20, "a failure")
    one.poller.spooler.after = 0.1
    wait_acknowledged(simulator, 1)
    one.back()
    oracle.wait()
    oracle.check()


@pytest.mark.parametrize("how", ["no spool", "never"])
def test_without_a_spool_nothing_is_acknowledged(
    listening: Make, away: Make, simulator: Simulator, oracle: Oracle, tmp_path: Path, how: str
) -> None:
    """Where another host could listen, and in the first start: nobody knows the cursor then."""
    one = away(0, spool_after=0.0) if how == "never" else listening(there=False)
    emit_event(simulator, 0)
    until(lambda: one.poller._database.backoff.failures > 3, 20, "some failures")
    assert simulator.state()["acknowledged"] == 0
    assert list(tmp_path.glob("*.spool*")) == []
    one.back()
    oracle.wait()
    oracle.check()


def test_a_process_goes_on_with_the_spool_of_the_one_before(
    listening: Make, away: Make, simulator: Simulator, oracle: Oracle, tmp_path: Path
) -> None:
    """The database is still away, and its patience was spent by the first."""
    away(1)
    two = listening(there=False, spool_after=3600.0)
    assert two.poller.ready.result(20).startswith("degraded: the database does not answer")
    emit_event(simulator, 1)
    wait_acknowledged(simulator, 2)
    assert spooled_ids(tmp_path) == [1, 2]
    listening()
    oracle.wait()
    oracle.check()


def test_the_spool_goes_in_where_spooling_is_not_wanted_any_more(listening: Make, away: Make, oracle: Oracle) -> None:
    away(1)
    listening(spool_after=0.0)
    oracle.wait()
    oracle.check()


def test_a_crash_after_the_commit_doubles_nothing(
    listening: Make, away: Make, simulator: Simulator, oracle: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies when some batches are committed and the file still holds them all."""
    monkeypatch.setattr(module, "BATCH", 3)
    one = away(12)
    file = next(tmp_path.glob("*.spool"))
    content = file.read_bytes()
    one.back()
    until(lambda: not file.exists(), 30, "an empty spool")
    one.close()
    file.write_bytes(content)
    two = listening()
    until(lambda: not file.exists(), 30, "an empty spool")
    # The file goes before the counts are brought up to date.
    until(lambda: two.status.events.duplicate >= 12, 20, "duplicates")
    assert two.status.events.saved == 0
    emit_event(simulator, 12)
    oracle.wait()
    oracle.check()


def test_ids_that_do_not_ascend_wait_for_the_database(
    away: Make, simulator: Simulator, oracle: Oracle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The server starts its ids over meanwhile: what that means is for the database to say."""
    one = away(1, stored=5)
    oracle.close()  # the same ids mean other events from now on
    issued = simulator.state()["issued"]
    simulator.restart_ids()
    emit_event(simulator, 6)
    until(lambda: "do not ascend" in caplog.text, 20, "a refusal")
    assert caplog.text.count("do not ascend") == 1
    one.back()
    until(lambda: len(oracle.stored()) == issued + 1, 20, "all of them")
    until(lambda: not spooled_ids(tmp_path), 20, "an empty spool")
    assert _cursor(oracle.url)[0] == 2


def test_a_full_spool_stops_polling(
    away: Make, simulator: Simulator, oracle: Oracle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = away(0, max_bytes=3000)
    for number in range(20):
        emit_event(simulator, number)
        until(lambda: simulator.state()["issued"] <= one.status.events.received or one.status.spool.last_error, 20)
    until(lambda: one.status.spool.last_error, 20, "a full spool")
    assert "is full" in str(one.status.spool.last_error)
    polls = _polls(simulator)
    until(lambda: one.poller._database.backoff.failures > 9, 30, "more failures")
    assert _polls(simulator) == polls
    assert [r.levelno for r in caplog.records if "is full" in r.getMessage()] == [logging.ERROR]
    assert max(spooled_ids(tmp_path)) == simulator.state()["acknowledged"] or one.status.events.failed
    one.back()
    oracle.wait()
    oracle.check()
    until(lambda: one.status.spool.last_error is None, 20, "no error")


def _polls(simulator: Simulator) -> int:
    return sum(entry.kind == "poll" for entry in simulator.log())


def test_an_api_that_is_away_too_is_asked_with_patience(away: Make, simulator: Simulator, oracle: Oracle) -> None:
    one = away(1)
    simulator.faults("reset", None, "events/get")
    failures = one.poller._api.backoff.failures
    until(lambda: one.poller._api.backoff.failures >= failures + 4, 30, "failures of the API")
    moments = [entry.at for entry in simulator.log() if entry.kind == "poll"][-3:]
    assert moments[-1] - moments[0] >= 0.9
    simulator.clear_faults()
    one.back()
    oracle.wait()
    oracle.check()


def test_a_takeover_meanwhile_loses_nothing(listening: Make, away: Make, oracle: Oracle) -> None:
    """It should not be possible: another process has moved the cursor past what waits in the spool."""
    away(2).close()
    other = Writer(lambda: psycopg.connect(oracle.url, autocommit=True), BOT)
    assert until(other.acquire, 20)
    other.store(batch(new(7), new(8)))
    other.close()
    listening()
    until(lambda: oracle.stored() == [1, 2, 7, 8], 20, "late events")
    assert _cursor(oracle.url) == (1, 8)


def test_a_generation_that_began_meanwhile_loses_nothing(listening: Make, away: Make, oracle: Oracle) -> None:
    """The events of the spool go into the generation they were polled under."""
    away(1, stored=1).close()
    cursors.restart_cursor(lambda: psycopg.connect(oracle.url, autocommit=True), BOT)
    listening()
    until(lambda: len(oracle.stored()) == 2, 20, "both events")
    assert oracle.rows("SELECT generation, event_id FROM events ORDER BY 1, 2") == [(1, 1), (1, 2)]
    assert _cursor(oracle.url)[0] == 2


def _files(oracle: Oracle) -> list[Path]:
    """The spool and what was put aside."""
    assert oracle.spool_dir
    return list(oracle.spool_dir.glob("*.spool*"))


def _gaps(oracle: Oracle) -> list[tuple[Any, ...]]:
    return oracle.rows("SELECT from_event_id, to_event_id, reason, from_time <= to_time FROM gaps")


@pytest.mark.parametrize("loss", ["removed", "cut", "overwritten"])
def test_a_spool_that_was_lost_is_a_gap(
    listening: Make,
    away: Make,
    simulator: Simulator,
    oracle: Oracle,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    loss: str,
) -> None:
    one = away(2, stored=2)
    emit_event(simulator, 4)  # a record of its own
    wait_acknowledged(simulator, simulator.state()["issued"])
    one.close()
    stored, spooled = oracle.stored(), spooled_ids(tmp_path)
    (spool,) = _files(oracle)
    if loss == "removed":
        spool.unlink()
    elif loss == "cut":
        content = spool.read_bytes()
        os.truncate(spool, content.rindex(b"\x89vks"))
    else:
        spool.write_bytes(b"something else")
    left = spooled_ids(tmp_path)
    assert len(left) < len(spooled)
    listening()
    first = max([*stored, *left]) + 1
    assert until(lambda: _gaps(oracle), 20, "a gap") == [(first, max(spooled), gaps.SPOOL_LOST, True)]
    sentence = f"events of bot {BOT} up to {max(spooled)} are missing from the archive"
    until(lambda: sentence in caplog.text, 20, "an error in the log")
    simulator.event("newMessage", {"msgId": "new", "chat": {"chatId": CHAT}})
    until(lambda: max(oracle.stored()) > max(spooled), 20, "the next event")
    assert oracle.stored() == [*stored, *left, max(spooled) + 1]
    listening()
    wait_polled(simulator)
    assert len(_gaps(oracle)) == 1


def test_a_damaged_record_of_the_spool_is_a_gap(
    listening: Make, away: Make, simulator: Simulator, oracle: Oracle, tmp_path: Path
) -> None:
    one = away(2, stored=2)
    emit_event(simulator, 4)  # a record of its own
    wait_acknowledged(simulator, simulator.state()["issued"])
    one.close()
    stored, spooled = oracle.stored(), spooled_ids(tmp_path)
    (spool,) = _files(oracle)
    content = bytearray(spool.read_bytes())
    content[content.rindex(b"\x89vks") - 9] ^= 1
    spool.write_bytes(content)
    listening()
    # The same process tells it, without a new take-over.
    assert until(lambda: _gaps(oracle), 20, "a gap") == [(max(stored) + 1, max(spooled), gaps.SPOOL_LOST, True)]


def test_a_spool_that_was_stored_is_no_gap(listening: Make, away: Make, oracle: Oracle) -> None:
    """The file may come back: after a crash between the last commit and its removal, or by a power cut."""
    one = away(3, stored=2)
    (spool,) = _files(oracle)
    content = spool.read_bytes()
    one.back()
    oracle.wait()
    until(lambda: not _files(oracle), 20, "no file of the spool")
    one.close()
    spool.write_bytes(content)
    listening()
    until(lambda: not _files(oracle), 20, "no file of the spool")
    assert _gaps(oracle) == []


def test_a_standby_leaves_the_spool_alone(
    listening: Make, away: Make, simulator: Simulator, oracle: Oracle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    away(1).close()
    other = Writer(lambda: psycopg.connect(oracle.url, autocommit=True), BOT)
    assert until(other.acquire, 20)
    try:
        two = listening()
        told = "1 events wait in the spool until this process listens again"
        until(lambda: other.ping() or told in caplog.text, 20, "a standby that tells it")
        assert two.poller.standby
        two.away()
        emit_event(simulator, 1)
        until(lambda: other.ping() or two.poller._database.backoff.failures > 2, 20, "failures")
        assert simulator.state()["acknowledged"] == 1
        assert spooled_ids(tmp_path) == [1]
    finally:
        other.close()
    two.back()
    oracle.wait()
    oracle.check()


def test_a_deletion_in_the_spool_leaves_no_text_behind(listening: Make, simulator: Simulator, oracle: Oracle) -> None:
    """on_delete = "erase": said, edited and deleted while the database was away."""
    one = listening(erase=True)
    _issue(simulator, new(1, "before", "secret before"))
    oracle.wait()
    wait_polled(simulator)
    one.away()
    _issue(
        simulator, new(2, "m", "secret one"), edited(3, "m", "secret two"), deleted(4, "m"),
        deleted(5, "before"), new(6, "kept", "public"),
    )  # fmt: skip
    wait_acknowledged(simulator, 6)
    one.back()
    oracle.wait()
    until(lambda: not _files(oracle), 20, "no file of the spool")
    everything = [rows(oracle.url, table) for table in ("events", "messages", "message_versions")]
    assert "secret" not in str(everything)
    assert "public" in str(everything)


def test_only_the_chats_that_are_kept_come_out_of_the_spool(away: Make, simulator: Simulator, oracle: Oracle) -> None:
    one = away(0, chat_ids=[CHAT])
    _issue(simulator, new(1), new(2, chat="9@chat.agent"), new(3))
    wait_acknowledged(simulator, 3)
    one.back()
    until(lambda: oracle.stored() == [1, 3], 20, "the chat's events")
    until(lambda: _cursor(oracle.url) == (1, 3), 20, "the cursor")
    until(lambda: one.status.events.filtered == 1, 20, "the count of what was filtered")


class Bot(Writer):
    """A writer that holds its lock."""

    def __init__(self, url: str) -> None:
        super().__init__(lambda: psycopg.connect(url, autocommit=True), BOT)
        until(self.acquire, 20)


def test_late_events_that_are_stored_in_any_generation_are_duplicates(database_url: str) -> None:
    """A crash between the commit and the removal of the spool brings them again, whatever the first time has led to."""
    writer = Bot(database_url)
    writer.store(batch(new(1), new(2)))
    writer.store(batch(new(1, "other"), new(2, "others")))
    assert writer.cursor
    assert (writer.cursor.generation, writer.cursor.last_event_id) == (2, 2)
    for again in (batch(new(1), new(2)), batch(new(1, "other"), new(2, "others"))):
        stored = writer.store_late(again, 1)
        assert (stored.saved, stored.duplicate) == (0, 2)
    assert (writer.cursor.generation, writer.cursor.last_event_id) == (2, 2)
    writer.close()


def test_a_late_event_whose_id_is_taken_has_a_key_of_its_own(database_url: str) -> None:
    writer = Bot(database_url)
    writer.store(batch(new(1), new(2)))
    late = batch(new(2, "another"), event("none", "newMessage", msgId="x"))
    assert writer.store_late(late, 1).saved == 2
    assert writer.store_late(late, 1).duplicate == 2
    assert len(rows(database_url, "events")) == 4
    assert sorted(rows(database_url, "messages", "msg_id")) == [("(another)",), ("(m1)",), ("(m2)",)]
    assert writer.cursor
    assert (writer.cursor.generation, writer.cursor.last_event_id) == (1, 2)
    assert writer.store(batch(new(3))).saved == 1
    writer.close()


def test_late_events_that_take_the_database_too_long_are_stored_in_parts(database_url: str) -> None:
    """Events without a usable id cannot be cut: a limit says how many of them one transaction stores."""
    writer = Bot(database_url)
    writer.store(batch(new(99)))
    late = batch(*(event("none", "newMessage", msgId=f"x{n}", chat={"chatId": CHAT}) for n in range(25)), new(7))
    parts = []
    while not parts or parts[-1].partial:
        parts.append(writer.store_late(late, 1, limit=10))
    assert [(part.saved, part.duplicate, part.partial) for part in parts] == [
        (10, 0, True),
        (10, 0, True),
        (6, 20, False),
    ]
    assert len(rows(database_url, "messages")) == 27
    writer.close()


def test_a_slow_database_gets_the_late_events_of_the_spool_in_parts(
    listening: Make, away: Make, simulator: Simulator, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = away(0)
    nameless = json.dumps({"type": "newMessage", "payload": {"msgId": "$", "chat": {"chatId": CHAT}}})
    numbered = nameless.replace('{"type"', '{"eventId": $eventId, "type"')
    simulator.raw(",".join([*(nameless.replace("$", f"x{n}") for n in range(30)), numbered]))
    wait_acknowledged(simulator, 1)
    one.close()
    other = Writer(lambda: psycopg.connect(oracle.url, autocommit=True), BOT)
    assert until(other.acquire, 20)
    other.store(batch(new(70), new(80)))
    other.close()
    limits: list[Any] = []
    store_late = Writer.store_late

    def slow(self: Writer, events: Any, generation: int, limit: int | None = None) -> Any:
        limits.append(limit)
        if len(limits) == 1:
            raise DatabaseSlow("too long")
        return store_late(self, events, generation, limit)

    monkeypatch.setattr(Writer, "store_late", slow)
    listening()
    until(lambda: len(oracle.rows("SELECT FROM events")) == 33, 20, "every event")
    assert limits[0] is None
    assert set(limits[1:]) == {15, None}


def test_late_events_are_fenced(database_url: str) -> None:
    from vkteams_daemon.errors import FenceLost

    writer = Bot(database_url)
    writer._session.close()
    other = Bot(database_url)
    with pytest.raises((FenceLost, DatabaseUnavailable)):
        writer.store_late(batch(new(1)), 1)
    assert rows(database_url, "events") == []
    other.close()
