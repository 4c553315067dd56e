"""An erasure beside the real daemon: no word of the person is left in a row, the log, a spool or the status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.harness.daemon import DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

OPS = "681869378@chat.agent"
ANNA, PETR = "a.ivanova@corp.example", "p.petrov@corp.example"


def _files_with(directory: Path, word: str) -> list[Path]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return [path for path in files if word.encode() in path.read_bytes()]


def test_nothing_is_left_of_a_person(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, oracle: Oracle, models_dir: Path, open_tmp: Path
) -> None:
    daemon = vkteamsd(
        api_url=simulator.url, database_url=oracle.url, options={"embedding.models_dir": str(models_dir)}
    ).started()
    simulator.say(OPS, ANNA, "rosebud is hers")
    simulator.say(OPS, PETR, "his")
    oracle.wait()
    vectors = "SELECT count(*) FROM embeddings"
    until(lambda: oracle.rows(vectors) == [(2,)], 30, "two vectors")
    done = daemon.ask("database", "erase", "--user-id", ANNA.title(), "--ignore", "--yes")["done"]
    assert (done["messages"], done["vectors"]) == (1, 1)
    simulator.say(OPS, ANNA, "rosebud again")
    simulator.say(OPS, PETR, "his again")
    daemon.ask("database", "hold", OPS.upper())
    simulator.say(OPS, PETR, "held")
    oracle.wait()
    assert sorted(oracle.stored()) == sorted(oracle.issued()) and oracle.ahead == []
    tables = oracle.rows(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r'"
        " AND c.relnamespace = current_schema::regnamespace"
    )
    for (table,) in tables:
        assert not [row for row in oracle.rows(f"SELECT t::text FROM {table} t") if "rosebud" in row[0]], table
    daemon.wait_log(f"holds the chat {OPS}: nothing of it is erased")
    daemon.wait_log(f"what {ANNA} has said is erased, by hand")
    assert _files_with(open_tmp, "rosebud") == []
    assert daemon.stop() < 5
