"""A real daemon behind its endpoint: what a scrape and a probe say while it works, fails and ends."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.harness.daemon import DaemonProcess
from tests.harness.postgres import PostgresServer
from tests.harness.simulator import Simulator
from tests.harness.waiting import until

OPS, ANNA = "681869378@chat.agent", "a.ivanova@corp.example"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(text: str) -> dict[str, float]:
    """The values by name; a label's value follows the name."""
    return {
        ":".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_working_daemon_and_one_whose_database_is_away(
    vkteamsd: Callable[..., DaemonProcess],
    simulator: Simulator,
    durable_server: PostgresServer,
    durable_database_url: str,
) -> None:
    port = free_port()
    daemon = vkteamsd(
        api_url=simulator.url, database_url=durable_database_url, quick=True,
        options={"daemon.metrics": f"127.0.0.1:{port}"},
    ).started()  # fmt: skip
    for number in range(3):
        simulator.say(OPS, ANNA, f"сообщение {number}")
    until(lambda: samples(get(port, "/metrics")[1]).get("vkteams_events_total:saved") == 3, 30, "three events saved")
    until(lambda: "vkteams_archive_bytes" in samples(get(port, "/metrics")[1]), 30, "the size of the archive")
    values = samples(get(port, "/metrics")[1])
    assert values["vkteams_state:listening"] == 1
    assert values["vkteams_event_to_row_seconds_count"] >= 1
    assert values["vkteams_poll_seconds_count"] >= 1
    assert values["vkteams_archive_gaps"] == 0
    assert values["vkteams_state_directory_free_bytes"] > 0
    assert get(port, "/readyz")[0] == get(port, "/livez")[0] == 200
    durable_server.stop("immediate")
    until(lambda: get(port, "/readyz")[0] == 503, 30, "a failing probe")
    code, text = get(port, "/readyz")
    assert (code, json.loads(text)["checks"]["database"]) == (503, "down")
    assert json.loads(text)["reasons"]
    assert get(port, "/livez")[0] == 200
    checked = daemon.ctl("daemon", "status", "--check")
    assert checked.returncode == 2
    assert "vkteamsd is degraded" in checked.stdout
    assert daemon.ctl("daemon", "status").returncode == 0
    assert daemon.stop() < 5


def test_a_taken_port_refuses_the_start(vkteamsd: Callable[..., DaemonProcess], simulator: Simulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = vkteamsd(api_url=simulator.url, options={"daemon.metrics": f"127.0.0.1:{port}"})
        done = daemon.start()
    assert done.returncode == 73
    assert f"daemon.metrics: cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr + daemon.log_text()


def test_the_file_of_the_textfile_collector(vkteamsd: Callable[..., DaemonProcess], tmp_path: Path) -> None:
    daemon = vkteamsd(fake="ready").started()
    file = tmp_path / "vkteams.prom"
    assert daemon.ctl("daemon", "metrics", "--file", str(file)).returncode == 0
    assert samples(file.read_text())["vkteams_running"] == 1
    assert file.stat().st_mode & 0o777 == 0o644
    daemon.stop()
    assert daemon.ctl("daemon", "metrics", "--file", str(file)).returncode == 0
    assert samples(file.read_text()) == {"vkteams_running": 0.0}
    assert samples(daemon.ctl("daemon", "metrics").stdout) == {"vkteams_running": 0.0}
    done = daemon.ctl("daemon", "metrics", "--file", "/nowhere/vkteams.prom")
    assert done.returncode == 73
    assert "/nowhere/vkteams.prom: cannot be written: No such file or directory" in done.stderr
