"""A bad network before the Bot API and before the database (row 5)."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.harness.daemon import DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.proxy import Proxy
from tests.harness.traffic import Traffic, emit_event
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]
OPTIONS = {
    "api.backoff_max": 1.0, "api.poll_time": 2, "api.read_margin": 2.0, "api.connect_timeout": 2.0,
    "database.connect_timeout": 2, "database.write_timeout": 2.0,
}  # fmt: skip


def _gone(proxy: Proxy) -> None:
    proxy.stop()
    proxy.reset()


FAULTS: dict[str, Callable[[Proxy], None]] = {
    "reset": Proxy.reset,
    "black hole": Proxy.black_hole,
    "one byte a second": Proxy.slow,
    "a second late": Proxy.delay,
    "refused": _gone,
    "cut in mid-answer": lambda proxy: proxy.cut_after(40),
}


def _port(url: str) -> int:
    return int(psycopg.conninfo.conninfo_to_dict(url)["port"])


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["the API", "the database"])
def test_bad_network(
    vkteamsd: Make,
    simulator: Simulator,
    oracle: Oracle,
    open_proxy: Callable[[int], Proxy],
    place: str,
    fault: str,
) -> None:
    """It is noticed, nothing is lost, the daemon goes on when it has passed, and stops in time while it lasts."""
    before_api, before_database = open_proxy(simulator.port), open_proxy(_port(oracle.url))
    proxy = before_api if place == "the API" else before_database
    daemon = vkteamsd(
        api_url=f"http://127.0.0.1:{before_api.port}", database_url=before_database.before(oracle.url), options=OPTIONS
    ).started()
    pid = daemon.pid
    with Traffic(simulator, rate=10):
        until(lambda: simulator.state()["acknowledged"] > 5, 30, "some traffic")
        FAULTS[fault](proxy)
        if fault in ("black hole", "one byte a second", "refused"):
            daemon.wait_state("degraded", timeout=30)
        seen = simulator.state()["acknowledged"]
        proxy.heal()
        until(lambda: simulator.state()["acknowledged"] > seen, 60, "acknowledgements afterwards")
        daemon.wait_state("listening", timeout=30)
    oracle.wait()
    oracle.check()
    FAULTS[fault](proxy)
    emit_event(simulator, 1)
    assert daemon.pid == pid
    assert daemon.stop() < 5
    assert "Traceback" not in daemon.log_text()
