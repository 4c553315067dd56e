"""An answer that takes the database too long gets in all the same: in parts."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg

from tests.harness.batches import batch, new
from tests.harness.waiting import until
from vkteams_daemon.botapi.client import BotClient
from vkteams_daemon.botapi.simulator import Simulator
from vkteams_daemon.daemon.held import FEWEST, Held
from vkteams_daemon.daemon.poller import Poller
from vkteams_daemon.daemon.status import new as new_status
from vkteams_daemon.store.writing import Writer


def held(*ids: int) -> Held:
    return Held(batch(*map(new, ids)), generation=1, arrived=0.0)


def test_parts_are_the_whole_in_its_order() -> None:
    whole, taken = held(*range(1, 4001)), []
    assert whole.part() is whole
    left: Held | None = whole.halved().halved()
    while left is not None:
        part = left.part()
        taken.append([event.event_id for event in part.events])
        left = left.after(part)
    assert [len(part) for part in taken] == [1000] * 4
    assert list(itertools.chain(*taken)) == list(range(1, 4001))


def test_no_part_is_so_small_that_there_are_thousands() -> None:
    small = held(*range(1, 4001))
    for _ in range(20):
        small = small.halved()
    assert len(small.part().events) == FEWEST


def test_ids_that_do_not_ascend_stay_together() -> None:
    whole = held(*range(1000, 1800), *range(1, 800))
    assert whole.halved().part().events == whole.events


def test_a_slow_database_gets_an_answer_in_parts(simulator: Simulator, database_url: str) -> None:
    for n in range(1200):
        simulator.say("1@chat.agent", "anna", f"message {n}")
    simulator.say("1@chat.agent", "anna", "the last")

    def writer(bot_id: str) -> Writer:
        return Writer(lambda: psycopg.connect(database_url, autocommit=True), bot_id, write_timeout=3.0)

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION overwhelmed() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF (SELECT count(*) FROM added) > 700 THEN PERFORM pg_sleep(600); END IF; RETURN NULL; END';"
            "CREATE TRIGGER overwhelmed AFTER INSERT ON events REFERENCING NEW TABLE AS added"
            " FOR EACH STATEMENT EXECUTE FUNCTION overwhelmed()"
        )
        client, status = BotClient(simulator.url, simulator.token), new_status("0", "listen")
        with ThreadPoolExecutor(1) as work:
            poller = Poller(
                client, lambda bot: writer(bot.user_id), work, status,
                poll_time=30, backoff_max=0.5, changed=lambda: None, queued=lambda: None, ended=lambda error: None,
            )  # fmt: skip
            thread = threading.Thread(target=poller.run)
            thread.start()
            try:
                until(lambda: status.events.saved == 1201, 120, "everything stored")
            finally:
                poller.stop()
                client.abort()
                thread.join(30)
                client.close()
                if poller.sink is not None:
                    poller.sink.close()
        rows = connection.execute("SELECT count(*), count(DISTINCT event_id), count(DISTINCT xmin::text) FROM events")
        stored, different, transactions = rows.fetchone() or (0, 0, 0)
    assert (stored, different) == (1201, 1201)
    assert transactions == 3, "600, 600 and the last"
