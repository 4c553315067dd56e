"""A restart that would fail leaves the healthy daemon alone, and a restart forgets nothing that status shows."""

from __future__ import annotations

from collections.abc import Callable

from tests.harness.daemon import TOKEN, DaemonProcess
from tests.harness.oracle import Oracle
from tests.harness.waiting import until
from vkteams_daemon.simulator import Simulator

Make = Callable[..., DaemonProcess]


def test_a_refused_token_does_not_end_the_daemon(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url).started()
    pid = daemon.pid
    daemon.configure(**{"api.token": "001.wrong.wrong:1"})
    refused = daemon.ctl("daemon", "restart")
    assert refused.returncode == 78, refused.stderr
    assert "refused the token" in refused.stderr and "api.token" in refused.stderr
    daemon.configure(**{"api.url": "http://127.0.0.1:9"})
    assert daemon.ctl("daemon", "restart").returncode == 69, "the API answers the daemon that runs"
    daemon.configure(**{"api.url": simulator.url, "api.token": TOKEN, "database.url": "postgresql://127.0.0.1:9/no"})
    unreachable = daemon.ctl("daemon", "restart")
    assert unreachable.returncode == 69 and "the database cannot be reached" in unreachable.stderr, unreachable.stderr
    assert daemon.pid == pid
    assert daemon.wait_state("listening").pid == pid


def test_the_last_event_is_known_after_a_restart(vkteamsd: Make, simulator: Simulator, oracle: Oracle) -> None:
    daemon = vkteamsd(api_url=simulator.url, database_url=oracle.url).started()
    simulator.say("681869378@chat.agent", "a.ivanova@corp.example", "the last")
    oracle.wait()
    daemon.stop()
    daemon.started()
    ((arrived,),) = oracle.rows("SELECT received_at FROM events")
    until(lambda: (status := daemon.status()) and status.events.last_event_at == arrived, 30, "the last event")
