"""`[storage] retention`: what is too old goes by itself, once a day; in a test's thread, and by the real daemon."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.scale import FULL
from tests.harness.talk import Talk
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.config import load
from vkteams_daemon.daemon import retention
from vkteams_daemon.daemon.retention import Retention
from vkteams_daemon.daemon.status import Retention as RetentionStatus
from vkteams_daemon.errors import ConfigError, DatabaseUnavailable
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store.connections import Connection


class Kept:
    """A retention that runs beside the test; `age` and `may` are what the test says they are.

    `early` is the age that a reload sets before the first check.
    """

    def __init__(
        self, connect: Callable[[], Connection], *, age: str = "", early: str | None = None, **options: Any
    ) -> None:
        self.age, self.may, self.connections, self.looked = age, True, 0, 0
        self.deleted: list[datetime] = []
        self._connect = connect
        self._stopping = threading.Event()
        self.status = options.setdefault("status", RetentionStatus())
        run = Retention(
            self.connect, self._asked, lambda: self.may, self.deleted.append, self._stopping, check_interval=0.01,
            **options,
        ).run  # fmt: skip
        self.age = age if early is None else early
        self.thread = threading.Thread(target=run)
        self.thread.start()

    def connect(self) -> Connection:
        self.connections += 1
        return self._connect()

    def looks(self, count: int = 5) -> None:
        """Wait until it has looked so many times more at whether it is time."""
        enough = self.looked + count
        until(lambda: self.looked >= enough, 30, "further looks")

    def _asked(self) -> str:
        self.looked += 1
        return self.age

    def stop(self) -> None:
        self._stopping.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def _no_reprieve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "REPRIEVE", 0.0)


@pytest.fixture
def aged(database_url: str) -> Iterator[Talk]:
    """Messages of 40, 20 and 0 days ago, and twenty more of today."""
    talk = Talk(database_url, datetime.now(UTC) - timedelta(days=40))
    for n in range(20):
        talk.say(f"today {n}", "text", at=40 * 24 * 60 - 1)
    for n, days in enumerate((0, 20, 40)):
        talk.say(f"{n}", "text", at=days * 24 * 60 - 1)
    yield talk
    talk.close()


@pytest.fixture
def kept(aged: Talk) -> Iterator[Kept]:
    running = Kept(aged.connection)
    yield running
    running.stop()


def _left(talk: Talk) -> list[str]:
    return [row[0] for row in talk.rows("SELECT msg_id FROM messages WHERE msg_id NOT LIKE 'today%%' ORDER BY 1")]


def test_nothing_is_erased_without_an_age(aged: Talk, kept: Kept) -> None:
    kept.looks()
    assert (kept.connections, len(_left(aged))) == (0, 3)


def test_erasure_runs_once_a_day_and_after_a_changed_age(
    aged: Talk, kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vkteams_daemon.daemon.retention")
    kept.age = "30d"
    until(lambda: _left(aged) == ["1", "2"], 30, "the oldest erased")
    until(lambda: len(caplog.messages) == 2, 30, "a line in the log")
    assert "what is older than 30d is erased, now 1 messages and 0 events" in caplog.messages[0]
    assert caplog.messages[1].startswith("retention: 1 messages and 0 further events from before ")
    [before] = kept.deleted
    assert timedelta(days=30) < datetime.now(UTC) - before < timedelta(days=31)
    kept.looks()
    assert kept.connections == 2, "to announce it, and to erase"
    kept.age = "1w"
    until(lambda: _left(aged) == ["2"], 30, "the next erased")
    assert kept.connections == 4


@pytest.mark.parametrize(
    ("before", "after", "put_off"), [("", "30d", True), ("60d", "30d", True), ("20d", "30d", False)]
)
def test_age_that_a_reload_sets_or_shortens_erases_nothing_before_the_next_day(
    aged: Talk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    before: str,
    after: str,
    put_off: bool,
) -> None:
    monkeypatch.setattr(retention, "REPRIEVE", retention.DAY)
    caplog.set_level(logging.INFO, "vkteams_daemon.daemon.retention")
    kept = Kept(aged.connection, age=before)
    try:
        if before:
            until(lambda: kept.status.last_run_at, 30, "the erasure after the start")
        left = _left(aged)
        kept.age = "30d"
        kept.looks()
        assert _left(aged) == left
        announced = [message for message in caplog.messages if "what is older than" in message]
        assert len(announced) == put_off
        if put_off:
            assert kept.status.next_run_at
            assert timedelta(hours=23) < kept.status.next_run_at - datetime.now(UTC) <= timedelta(days=1)
            kept.age = before  # the mistake is taken back
            kept.looks()
            assert _left(aged) == left
    finally:
        kept.stop()


def test_reload_before_the_first_check_erases_nothing_before_the_next_day_either(
    aged: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "REPRIEVE", retention.DAY)
    left = _left(aged)
    kept = Kept(aged.connection, age="", early="30d")
    try:
        until(lambda: kept.status.next_run_at, 30, "the time of the first erasure")
        kept.looks()
        assert _left(aged) == left
    finally:
        kept.stop()


def test_erasure_runs_again_after_a_day(aged: Talk, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "DAY", 0.0)
    kept.age = "30d"
    until(lambda: kept.connections > 2, 30, "several days")


def test_standby_does_not_erase(aged: Talk, kept: Kept) -> None:
    kept.age, kept.may = "30d", False
    kept.looks()
    assert kept.connections == 0
    kept.may = True
    until(lambda: len(_left(aged)) == 2, 30, "the oldest erased")


def test_erasure_is_retried_when_the_database_was_down(
    aged: Talk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down() -> Connection:
        raise DatabaseUnavailable("the database cannot be reached: down")

    kept = Kept(down, age="30d")
    try:
        until(lambda: kept.connections == 1, 30, "an attempt")
        kept.looks()
        assert kept.connections == 1
        assert "could not be erased: the database cannot be reached: down" in caplog.text
        monkeypatch.setattr(retention, "RETRY_INTERVAL", 0.0)
        kept.age = "29d"
        until(lambda: kept.connections > 3, 30, "further attempts")
    finally:
        kept.stop()


@pytest.mark.parametrize("days", [500, -500, 3650, -3650, 1.1])
@pytest.mark.parametrize("witness", ["the database", "the Bot API"])
def test_wrong_clock_erases_nothing(aged: Talk, caplog: pytest.LogCaptureFixture, days: float, witness: str) -> None:
    def wrong() -> datetime:
        return datetime.now(UTC) + timedelta(days=days)

    def api_time() -> datetime:
        return datetime.now(UTC)

    # The bundled database has the clock of the host. So where the host's clock is wrong, the API alone can tell.
    if witness == "the Bot API":
        options: dict[str, Any] = {"api_time": lambda: datetime.now(UTC) - timedelta(days=days)}
    else:
        options = {"clock": wrong, "api_time": api_time}
    kept = Kept(aged.connection, **options)
    try:
        kept.age = "30d"
        until(lambda: kept.status.state, 30, "an attempt")
        assert kept.status.state == "refused"
        assert kept.status.last_error
        assert f"{'ahead of' if days > 0 else 'behind'} the clock of {witness}" in kept.status.last_error
        errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert errors == [f"retention: {kept.status.last_error}"]
        assert aged.rows("SELECT count(*), count(text) FROM messages") == [(23, 23)]
        assert aged.rows("SELECT count(*) FROM events WHERE payload IS NULL") == [(0,)]
    finally:
        kept.stop()


def test_more_than_a_fifth_is_erased_by_hand_alone(
    aged: Talk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is wrong everywhere, and the first retention of an old archive."""
    monkeypatch.setattr(retention, "RETRY_INTERVAL", 0.0)
    aged.execute("DELETE FROM messages WHERE msg_id > 'today 14'")
    (total,) = aged.rows("SELECT count(*) FROM messages")[0]
    aged.execute("UPDATE messages SET sent_at = now() - interval '40 days' WHERE msg_id IN ('1', '2')")
    kept = Kept(aged.connection)
    try:
        kept.age = "30d"
        until(lambda: kept.connections > 3, 30, "several attempts")
        assert aged.rows("SELECT count(*) FROM messages") == [(total,)]
        errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
        assert len(errors) == 1, "one line, not one for each attempt"
        assert f"retention: nothing is erased: 3 of {total} messages are from before " in errors[0]
        assert "`vkteamsctl database cleanup --older-than 30d --yes`" in errors[0]
        aged.execute("UPDATE messages SET sent_at = now() WHERE msg_id = '1'")
        until(lambda: aged.rows("SELECT count(*) FROM messages") == [(total - 2,)], 30, "two erased")
        until(lambda: kept.status.state == "ok", 30, "the state")
        assert kept.status.last_error is None
        assert kept.status.last_run_at
    finally:
        kept.stop()


def test_client_counts_on_from_the_date_of_the_api(simulator: Simulator) -> None:
    client = BotClient(simulator.url, simulator.token)
    assert client.api_time() is None
    client.self_get()
    at = client.api_time()
    assert at
    assert abs((at - datetime.now(UTC)).total_seconds()) < 60
    client.close()


@pytest.mark.parametrize("age", ["365d", "52w", "1d", ""])
def test_valid_ages(age: str) -> None:
    assert load(environ={"VKTEAMS_BOT_CONFIG": "/dev/null"}, flags={"storage.retention": age}).storage.retention == age


@pytest.mark.parametrize("age", ["365", "0d", "12h", "1y", "d", "-1d", "1d 2d", "1d\n"])
def test_invalid_ages(age: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(environ={"VKTEAMS_BOT_CONFIG": "/dev/null"}, flags={"storage.retention": age})
    assert str(raised.value) == f"storage.retention: {age!r} is not days or weeks, such as 365d (command line)"


@pytest.mark.skipif(FULL, reason="the real daemon erases nothing before the next day")
def test_daemon_erases_after_a_reload(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, oracle: Oracle
) -> None:
    for text in ("old", "new", "new", "new", "new"):
        simulator.say("681869378@chat.agent", "a.ivanova@corp.example", text)
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, quick=True).started()
    oracle.wait()
    with psycopg.connect(oracle.url, autocommit=True) as connection:
        connection.execute("UPDATE messages SET sent_at = now() - interval '400 days' WHERE text = 'old'")
        connection.execute("UPDATE events SET received_at = now() - interval '400 days' WHERE event_id = 1")
    daemon.configure(**{"storage.retention": "365d"})
    assert daemon.answer("daemon", "reload")["will_erase"]["messages"] == 1
    daemon.wait_log("what is older than 365d is erased, now 1 messages and 1 events", 60)
    daemon.wait_log("retention: 1 messages and 0 further events from before", 60)
    assert oracle.rows("SELECT count(*) FROM messages") == [(4,)]
    assert oracle.rows("SELECT count(*), count(payload) FROM events") == [(5, 4)]
    with psycopg.connect(oracle.url, autocommit=True) as connection:
        connection.execute("UPDATE messages SET sent_at = now() - interval '30 days'")
    daemon.configure(**{"storage.retention": "7d"})
    daemon.signal(signal.SIGHUP)
    until(lambda: (s := daemon.status()) and s.retention.state == "refused", 60, "the refusal in the status")
    health = daemon.ask("diagnostic", "health")
    assert health["retention"] == "refused"
    assert any("4 of 4 messages are from before" in problem for problem in health["problems"])
    assert daemon.ask("database", "cleanup", "--older-than", "7d", "--yes")["done"]["messages"] == 4
    assert daemon.stop() < 5
