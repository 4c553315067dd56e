"""kill -9 of the daemon, again and again, and at the points that matter (rows 1 and 2 of the fault table)."""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.locks import locked, wait_blocked
from tests.harness.oracle import Oracle
from tests.harness.proxy import Proxy
from tests.harness.scale import FULL, figure, scaled
from tests.harness.simulator import wait_polled
from tests.harness.traffic import Traffic, emit_event
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]


def _vectors_are_right(oracle: Oracle) -> None:
    """Every message that says something has its vectors exactly once, nothing else has any, and nothing waits."""
    waiting = "SELECT count(*) FROM embedding_queue"
    until(lambda: oracle.rows(waiting)[0][0] == 0, 60, "an empty queue")
    missing = oracle.rows(
        "SELECT m.chat_id, m.msg_id FROM messages m WHERE m.deleted_at IS NULL AND m.text <> '' AND NOT EXISTS"
        " (SELECT FROM embeddings e WHERE e.chat_id = m.chat_id AND e.msg_id = m.msg_id)"
    )
    assert missing == []
    spare = oracle.rows(
        "SELECT m.chat_id, m.msg_id FROM messages m JOIN embeddings e USING (chat_id, msg_id)"
        " WHERE m.deleted_at IS NOT NULL"
    )
    assert spare == []


@pytest.mark.timeout(1800)
def test_kills_at_random_lose_and_double_nothing(
    vkteamsd: Make, simulator: Simulator, durable_oracle: Oracle, models_dir: Path
) -> None:
    oracle = durable_oracle
    count = scaled("kill -9 of the daemon at random", full=200, quick=8)
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options={"embedding.models_dir": str(models_dir)})
    chance = random.Random(8)
    pause = threading.Event()
    starts: list[float] = []
    with Traffic(simulator, rate=50):
        for _ in range(count):
            began = time.monotonic()
            daemon.started()
            starts.append(time.monotonic() - began)
            pause.wait(chance.uniform(0, 0.5))
            daemon.kill9()
        daemon.started()
    oracle.wait(120)
    oracle.check()
    _vectors_are_right(oracle)
    figure("slowest start after a kill, s", max(starts))
    figure("median start after a kill, s", statistics.median(starts))
    assert not FULL or max(starts) <= 5, f"load {os.getloadavg()}: {sorted(starts)[-10:]}"


@pytest.mark.parametrize("answered", [False, True], ids=["inserted, not committed", "committed, not acknowledged"])
def test_kill_around_the_commit(
    vkteamsd: Make,
    simulator: Simulator,
    durable_oracle: Oracle,
    open_proxy: Callable[[int], Proxy],
    answered: bool,
) -> None:
    """The proxy before the database stops everything at the COMMIT, before or after it was passed on."""
    oracle = durable_oracle
    proxy = open_proxy(int(psycopg.conninfo.conninfo_to_dict(oracle.url)["port"]))
    daemon = vkteamsd(api_url=simulator.url, database_url=proxy.before(oracle.url)).started()
    wait_polled(simulator)
    proxy.cut_at(b"COMMIT", keep=answered)
    emit_event(simulator, 1)
    until(lambda: proxy.cuts == 1, 20, "the cut")
    daemon.kill9()
    proxy.heal()
    daemon.started()
    oracle.wait()
    emit_event(simulator, 2)
    oracle.wait()
    oracle.check()


def test_kill_between_the_answer_and_the_insert(
    vkteamsd: Make, simulator: Simulator, durable_oracle: Oracle, durable_server: object
) -> None:
    """The events have come, and the database holds the insert up: the daemon dies with them in its memory."""
    oracle = durable_oracle
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url).started()
    wait_polled(simulator)
    with locked(oracle.url, "events", "EXCLUSIVE"):
        emit_event(simulator, 1)
        wait_blocked(oracle.url, "events")
        daemon.kill9()
    assert oracle.stored() == []
    daemon.started()
    oracle.wait()
    oracle.check()


def test_kill_in_the_middle_of_embedding(
    vkteamsd: Make, simulator: Simulator, durable_oracle: Oracle, models_dir: Path
) -> None:
    oracle = durable_oracle
    daemon = vkteamsd(
        api_url=simulator.url, database_url=oracle.url,
        options={"embedding.models_dir": str(models_dir), "embedding.claim": 5},
    ).started()  # fmt: skip
    for number in range(120):
        emit_event(simulator, number)
    until(lambda: oracle.rows("SELECT count(*) FROM embeddings")[0][0] > 5, 30, "some vectors")
    daemon.kill9()
    daemon.started()
    oracle.wait()
    oracle.check()
    _vectors_are_right(oracle)


def test_kill_in_the_middle_of_the_first_migration(
    vkteamsd: Make, simulator: Simulator, empty_database_url: str
) -> None:
    oracle = Oracle(simulator, empty_database_url)
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url)
    with locked(oracle.url, "pg_ts_config"):  # the first script makes the configuration of text search
        starter = daemon.spawn()
        wait_blocked(oracle.url, "pg_ts_config")
        daemon.kill9()
        starter.communicate(timeout=60)
        assert starter.returncode == 70
    daemon.started()
    emit_event(simulator, 1)
    oracle.wait()
    oracle.check()
    oracle.close()
