"""An answer that takes the database too long gets in all the same: in parts."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.harness.batches import CHAT, batch, derived_rows, edited, members, new, rows
from tests.harness.postgres import PostgresServer
from tests.harness.scale import drawn
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient, BotInfo
from vkteams_daemon.botapi.events import Event
from vkteams_daemon.daemon.polling.pending_batch import MIN_PART, PendingBatch
from vkteams_daemon.daemon.polling.poller import Poller
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store.ingest.writer import Writer


def held(*ids: int) -> PendingBatch:
    return PendingBatch(batch(*map(new, ids)), generation=1, arrived=0.0)


def test_parts_keep_the_order_of_events() -> None:
    whole, taken = held(*range(1, 4001)), []
    assert whole.first_part() is whole
    left: PendingBatch | None = whole.halved().halved()
    while left is not None:
        part = left.first_part()
        taken.append([event.event_id for event in part.events])
        left = left.after(part)
    assert [len(part) for part in taken] == [1000] * 4
    assert list(itertools.chain(*taken)) == list(range(1, 4001))


def test_halving_stops_at_the_smallest_part() -> None:
    small = held(*range(1, 4001))
    for _ in range(20):
        small = small.halved()
    assert len(small.first_part().events) == MIN_PART


def test_ids_that_do_not_ascend_stay_together_and_get_a_limit() -> None:
    whole = held(*range(1000, 1800), *range(1, 801))
    assert whole.limit is None
    half = whole.halved()
    assert half.first_part().events == whole.events
    assert (half.first_part().limit, half.halved().first_part().limit) == (800, 400)
    assert held(*range(1, 801)).halved().first_part().limit is None, "these are cut"


@pytest.mark.parametrize("same", [None, 7], ids=["no id", "one id"])
def test_events_that_one_cursor_covers_get_a_limit(same: int | None) -> None:
    ids = [*range(1, 7), *[same] * 1000, *range(8, 400)]
    left: PendingBatch | None = PendingBatch(
        batch(*(new(n, f"m{place}") for place, n in enumerate(ids))), generation=1, arrived=0.0
    ).halved()
    parts = []
    while left is not None:
        part = left.first_part()
        parts.append((len(part.events), part.limit))
        left = left.after(part)
    assert parts == [(1006, 699), (392, None)]


def test_events_of_one_id_stay_in_one_part() -> None:
    """The cursor that covers the first would cover the second, stored or not."""
    ids: list[int | None] = [*range(1, 1001), None, 1000, *range(1001, 2001)]
    whole = PendingBatch(batch(*(new(n, f"m{place}") for place, n in enumerate(ids))), generation=1, arrived=0.0)
    part = whole.halved().first_part()
    assert len(part.events) == 1002
    rest = whole.after(part)
    assert rest is not None
    assert [event.event_id for event in rest.events] == list(range(1001, 2001))


@contextmanager
def polling(simulator: Simulator, database_url: str, write_timeout: float) -> Iterator[tuple[Status, list[str | None]]]:
    """The loop and its writer; the status, and the states of the database so far."""
    states: list[str | None] = []
    client, status = BotClient(simulator.url, simulator.token), new_status("0", "listen")

    def writer(bot: BotInfo) -> Writer:
        return Writer(lambda: psycopg.connect(database_url, autocommit=True), bot.user_id, write_timeout=write_timeout)

    with ThreadPoolExecutor(1) as work:
        poller = Poller(
            client, writer, work, status, poll_time=30, backoff_max=0.5,
            on_change=lambda: states.append(status.database.state), on_queued=lambda: None, on_end=lambda error: None,
        )  # fmt: skip
        thread = threading.Thread(target=poller.run)
        thread.start()
        try:
            yield status, states
        finally:
            poller.stop()
            client.abort()
            thread.join(30)
            client.close()
            if poller.sink is not None:
                poller.sink.close()


def test_a_slow_database_gets_an_answer_in_parts(simulator: Simulator, database_url: str) -> None:
    for n in range(1200):
        simulator.say("1@chat.agent", "anna", f"message {n}")
    simulator.say("1@chat.agent", "anna", "the last")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION overwhelmed() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF (SELECT count(*) FROM added) > 700 THEN PERFORM pg_sleep(600); END IF; RETURN NULL; END';"
            "CREATE TRIGGER overwhelmed AFTER INSERT ON events REFERENCING NEW TABLE AS added"
            " FOR EACH STATEMENT EXECUTE FUNCTION overwhelmed()"
        )
        with polling(simulator, database_url, 3.0) as (status, _):
            until(lambda: status.events.saved == 1201, 120, "everything stored")
        rows = connection.execute("SELECT count(*), count(DISTINCT event_id), count(DISTINCT xmin::text) FROM events")
        assert rows.fetchone() == (1201, 1201, 3), "600, 600 and the last"


def test_a_slow_database_gets_an_answer_out_of_order_in_parts_and_the_cursor_last(
    simulator: Simulator, database_url: str
) -> None:
    """Its ids do not ascend, so only the whole of it may be acknowledged."""
    simulator.faults("out_of_order", 1)
    for n in range(1200):
        simulator.say("1@chat.agent", "anna", f"message {n}")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION overwhelmed() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF (SELECT count(*) FROM added) > 400 THEN PERFORM pg_sleep(600); END IF; RETURN NULL; END';"
            "CREATE TRIGGER overwhelmed AFTER INSERT ON events REFERENCING NEW TABLE AS added"
            " FOR EACH STATEMENT EXECUTE FUNCTION overwhelmed();"
            "CREATE TABLE moves AS SELECT 0::bigint AS stored, b.* FROM bots b;"
            "CREATE FUNCTION moved() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN INSERT INTO moves SELECT (SELECT count(*) FROM events), NEW.*; RETURN NULL; END';"
            "CREATE TRIGGER moved AFTER UPDATE OF last_event_id ON bots FOR EACH ROW"
            " WHEN (OLD.last_event_id <> NEW.last_event_id) EXECUTE FUNCTION moved()"
        )
        with polling(simulator, database_url, 3.0) as (status, _):
            until(lambda: status.events.last_event_id == 1200, 120, "the cursor at the end")
            assert (status.events.saved, status.events.duplicate) == (1200, 0)
        rows = connection.execute("SELECT count(*), count(DISTINCT event_id), count(DISTINCT xmin::text) FROM events")
        assert rows.fetchone() == (1200, 1200, 4), "four times 300"
        assert connection.execute("SELECT stored, last_event_id FROM moves").fetchall() == [(1200, 1200)]


def test_a_database_that_connects_and_does_not_store_is_down(simulator: Simulator, database_url: str) -> None:
    with psycopg.connect(database_url) as blocker, psycopg.connect(database_url, autocommit=True) as watcher:
        blocker.execute("LOCK TABLE events IN SHARE MODE")
        for n in range(3):
            simulator.say("1@chat.agent", "anna", f"message {n}")

        def epoch() -> int:
            return int((watcher.execute("SELECT max(epoch) FROM bots").fetchone() or (0,))[0] or 0)

        with polling(simulator, database_url, 1.0) as (status, states):
            until(lambda: epoch() >= 3, 60, "two more sessions that could not store either")
            assert "ok" not in states[states.index("down") :]
            assert (status.database.state, status.events.failed) == ("down", 3)
            blocker.rollback()
            until(lambda: status.events.saved == 3, 60, "everything stored")
            until(lambda: status.database.state == "ok", 30, "state ok")
            assert status.events.failed == 0


def _titled(number: int, title: str, *joined: str) -> dict[str, Any]:
    """An event that says something about its chat, and about a member."""
    said = new(number)
    said["payload"]["chat"] = {"chatId": CHAT, "type": "group", "title": title}
    return members(number, "newChatMembers", *joined) if joined else said


@functools.cache
def _batches() -> dict[str, list[list[Event]]]:
    """What is stored before, and an answer whose ids do not ascend."""
    left = members(7, "leftChatMembers", "petr")
    return {
        "late": [
            batch(*(new(n) for n in range(20, 31))),
            batch(new(32), new(31), _titled(5, "first"), members(6, "newChatMembers", "petr"), left,
                  new(9, "m9"), edited(8, "m9", "edited"), _titled(10, "last"), new(33), new(11)),
        ],
        "restart": [
            batch(*(new(n) for n in range(1, 21))),
            batch(*(new(n) for n in range(21, 26)), *(new(n, f"again {n}") for n in range(1, 12))),
        ],
        "restart in the middle": [
            batch(*(new(n) for n in range(1, 21))),
            batch(new(22), new(3, "again 3"), new(2, "again 2"), new(40), new(2, "twin"), new(1, "again 1"), new(23)),
        ],
        "filtered": [
            batch(*(new(n) for n in range(1, 21))),
            batch(new(22), new(3, "other", chat="9@chat.agent"), new(23), new(21), new(24)),
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> dict[str, object]:
    """What each answer leads to that is stored in one part."""
    return {}


@drawn("sizes of the parts of an answer", "123", quick=1)
@pytest.mark.parametrize("crash", [False, True], ids=["", "crashes"])
@pytest.mark.parametrize("case", list(_batches()))
def test_parts_lead_to_the_rows_and_the_cursor_of_the_whole(
    postgres_server: PostgresServer, whole: dict[str, object], case: str, crash: bool, name: str
) -> None:
    """Also if the process dies after each part, and the answer comes again."""
    if case not in whole:
        whole[case] = _rows_and_cursor(postgres_server, case, None, crash=False)
    assert _rows_and_cursor(postgres_server, case, int(name), crash=crash) == whole[case]


def _rows_and_cursor(server: PostgresServer, case: str, limit: int | None, *, crash: bool) -> object:
    first, answer = _batches()[case]
    with server.fresh() as url:

        def make() -> Writer:
            writer = Writer(lambda: psycopg.connect(url, autocommit=True), "1", chat_ids=[CHAT])
            until(writer.acquire, 20, "the lock")
            return writer

        writer = make()
        writer.store(first)
        before = writer.cursor
        assert before
        while writer.store(answer, limit).partial:
            assert writer.cursor == before, "nothing is acknowledged before all of it is stored"
            if crash:
                writer.close()
                writer = make()
                before = writer.cursor
        cursor = writer.cursor
        assert cursor
        assert writer.store(answer).saved == 0
        events = rows(url, "events", "generation, event_id, subject")
        writer.close()
        return events, derived_rows(url), cursor.generation, cursor.last_event_id
