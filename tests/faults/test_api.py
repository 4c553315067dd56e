"""A Bot API that fails in every way it can (row 7): nothing is lost, and nothing is asked in a hot loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.harness.daemon import TOKEN, DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.scale import scaled
from tests.harness.simulator import wait_polled
from tests.harness.traffic import Traffic, emit_event
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.simulator.faults import FAULTS

Make = Callable[..., DaemonProcess]
OPTIONS = {"api.backoff_max": 2.0, "api.poll_time": 2, "api.read_margin": 2.0, "api.connect_timeout": 2.0}

TIMES = scaled("times that each fault of the API is played", full=3, quick=2)
# How each of the simulator's faults is played here; one that is added there fails a test until it is named here.
PLAYED: dict[str, dict[str, Any]] = {name: {} for name in FAULTS} | {
    "answer": {"body": '{"ok": true, "events": "none"}'},
    "deaf": {"seconds": 6},
    "refused": {"description": "Server error: id=0x7f"},
    "revoked": {},
    "slow_body": {"octets": 200, "pause": 0.01},
}
# These give an answer that is right, only unusual.
_HARMLESS = {"replayed", "out_of_order", "without_ok", "slow_body"}


# One daemon meets several faults, one after the other; at full size each has a daemon of its own.
ALONE = scaled("daemons whose API fails", full=len(FAULTS), quick=5)


@pytest.mark.parametrize("faults", [list(FAULTS)[n::ALONE] for n in range(ALONE)], ids=", ".join)
def test_nothing_is_lost_when_the_api_fails(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle, faults: list[str]
) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=OPTIONS).started()
    failures = 0
    with Traffic(simulator, rate=20):
        until(lambda: simulator.state()["acknowledged"] > 10, 30, "some traffic")
        for number, fault in enumerate(faults, 1):
            simulator.faults(fault, TIMES, "events/get", **PLAYED[fault])
            until(
                lambda played=number * TIMES: sum(f["played"] for f in simulator.fault_list.to_json()) == played,
                60, f"each time of {fault}",
            )  # fmt: skip
            seen = simulator.state()["acknowledged"]
            until(lambda seen=seen: simulator.state()["acknowledged"] > seen, 60, "acknowledgements afterwards")
            failures += 0 if fault in _HARMLESS else TIMES
    daemon.wait_state("listening")
    oracle.wait()
    oracle.check()
    text = daemon.log_text()
    assert "Traceback" not in text
    assert text.count("the Bot API fails") <= failures, text
    assert TOKEN not in text


def test_retry_after_is_honoured(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=OPTIONS).started()
    wait_polled(simulator)
    simulator.faults("rate_limit", 1, "events/get", retry_after=4)
    waiting = daemon.wait_state("degraded")
    assert waiting.api.waits_until is not None
    assert 2 < (waiting.api.waits_until - waiting.updated_at).total_seconds() <= 4
    emit_event(simulator, 1)
    oracle.wait()
    entries = simulator.log()
    limited = next(entry.at for entry in entries if entry.kind == "fault")
    after = [entry.at for entry in entries if entry.kind == "poll" and entry.at > limited]
    assert after[0] - limited >= 4
    oracle.check()


def test_revoked_token_is_logged_and_retried_with_back_off(
    vkteamsd: Make, simulator: Simulator, oracle: Oracle
) -> None:
    options = OPTIONS | {"api.backoff_max": 60.0}
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=options).started()
    wait_polled(simulator)
    before = len(simulator.log())
    simulator.faults("revoked", None)
    until(lambda: (s := daemon.status()) and s.api.state == "unauthorized", 20, "state unauthorized")
    assert "ERROR daemon.polling.availability: the Bot API fails: the Bot API refused the token" in daemon.log_text()
    until(lambda: (s := daemon.status()) and s.api.consecutive_failures >= 3, 60, "three failures")
    asked = sum(entry.kind in ("poll", "fault", "call") for entry in simulator.log()[before:])
    assert asked <= 2 * 4, "one request a back-off (and its line of the log)"
    simulator.clear_faults()
    emit_event(simulator, 1)
    oracle.wait(90)
    oracle.check()
    daemon.wait_state("listening")


def test_ids_that_start_over_open_a_new_generation(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    """A server that lost its state: its old ids mean other events now. `database cursor --restart` is for the rest."""
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url, options=OPTIONS).started()
    for number in range(5):
        emit_event(simulator, number)
    oracle.wait()
    daemon.stop()
    simulator.restart_ids()
    done = daemon.ctl("database", "cursor", "--restart", "--yes")
    assert done.returncode == 0, done.stderr
    daemon.started()
    emit_event(simulator, 100)
    until(lambda: oracle.rows("SELECT count(*) FROM events WHERE generation = 2")[0][0] == 1, 30, "its event")
    assert oracle.rows("SELECT generation, last_event_id FROM bots") == [(2, 1)]
    assert oracle.rows("SELECT count(*) FROM events WHERE generation = 1") == [(6,)]


@pytest.mark.parametrize("trait", ["lenient", "gap", "batch"])
def test_both_readings_of_undocumented_api_behaviour(
    vkteamsd: Make, make_simulator: Callable[..., Simulator], database_url: str, trait: str
) -> None:
    """Events that come again, ids with gaps, answers of two events at most."""
    settings: dict[str, Any] = {"lenient": {"lenient": True}, "gap": {"gap": 1000}, "batch": {"batch": 2}}[trait]
    simulator = make_simulator(**settings)
    oracle = Oracle(simulator, database_url)
    for number in range(10):
        emit_event(simulator, number)
    daemon = vkteamsd(api_url=simulator.url, database_url=database_url, options=OPTIONS).started()
    oracle.wait()
    daemon.kill9()
    daemon.started()
    emit_event(simulator, 11)
    oracle.wait()
    oracle.check()
    oracle.close()
