"""Debian's own Prometheus reads the alerts, scrapes a daemon, and answers every query of the dashboard."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.test_metrics import ANNA, OPS, free_port, get
from tests.harness.daemon import DaemonProcess
from tests.harness.simulator import Simulator
from tests.harness.waiting import until

PROJECT = Path(__file__).parents[2]
PROGRAMS = PROJECT / "build" / "package" / "programs" / "usr" / "bin"
ALERTS = PROJECT / "etc" / "prometheus" / "alerts.yml"
DASHBOARD = PROJECT / "etc" / "grafana" / "dashboard.json"
# Samples that a daemon without a model, without a spool and without retention does not have.
ABSENT = ("row_to_vector", "spool_oldest", "queue")

pytestmark = pytest.mark.skipif(
    not (PROGRAMS / "prometheus").exists(), reason="`make package-test` unpacks Prometheus and runs this"
)


def test_promtool_finds_no_mistake_in_the_alerts() -> None:
    done = subprocess.run(
        [PROGRAMS / "promtool", "check", "rules", ALERTS], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_real_prometheus_answers_every_query_of_the_dashboard(
    vkteamsd: Callable[..., DaemonProcess], simulator: Simulator, database_url: str, tmp_path: Path
) -> None:
    port, web = free_port(), free_port()
    vkteamsd(
        api_url=simulator.url, database_url=database_url, quick=True, options={"daemon.metrics": f"127.0.0.1:{port}"}
    ).started()
    configuration = tmp_path / "prometheus.yml"
    configuration.write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: ['{ALERTS}']\n"
        f"scrape_configs: [{{job_name: vkteams, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
    )
    with (tmp_path / "log").open("w") as log, subprocess.Popen(
        [
            PROGRAMS / "prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{web}",
        ],
        stdout=log, stderr=subprocess.STDOUT,
    ) as prometheus:  # fmt: skip
        try:
            until(lambda: _query(web, "vkteams_running == 1"), 60, "a scrape")  # a rate needs a value from before
            for number in range(3):
                simulator.say(OPS, ANNA, f"сообщение {number}")
            until(lambda: _query(web, 'rate(vkteams_events_total{outcome="saved"}[5m]) > 0'), 60, "a rate of events")
            scraped = get(port, "/metrics")[1]  # with values of everything that an event gives one
            done = subprocess.run(
                [PROGRAMS / "promtool", "check", "metrics"], input=scraped, text=True, capture_output=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
            unanswered = [query for query in _queries() if not _query(web, query)]
            assert [query for query in unanswered if not any(name in query for name in ABSENT)] == []
            state = _get(web, "/api/v1/rules")["data"]["groups"][0]["rules"]
            assert {rule["health"] for rule in state} == {"ok"}
        finally:
            prometheus.terminate()


def _queries() -> list[str]:
    """The queries of every panel, for every instance."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"].replace("$instance", ".*") for panel in panels for target in panel["targets"]]


def _query(port: int, query: str) -> list[object]:
    answer = _get(port, "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
    result: list[object] = answer["data"]["result"] if answer else []
    return result


def _get(port: int, path: str) -> Any:
    """The answer; empty while Prometheus starts."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        assert error.code == 503, error.read()
    except urllib.error.URLError as error:
        assert isinstance(error.reason, ConnectionRefusedError), error
    return {}
