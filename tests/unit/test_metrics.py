"""The metrics: all are documented, alerts and dashboard use no other, and the server answers or refuses in time."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.harness.waiting import until
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.daemon.metrics import probes, server
from vkteams_daemon.daemon.metrics.durations import Durations
from vkteams_daemon.daemon.metrics.families import StatusCollector
from vkteams_daemon.daemon.metrics.server import MetricsServer
from vkteams_daemon.daemon.status import Archive, Percentiles, Status
from vkteams_daemon.errors import CannotCreate

ROOT = Path(__file__).parents[2]
_NAME = re.compile(r"\bvkteams_[a-z_]+\b")
_LABELS = {"vkteams_state", "vkteams_api_state", "vkteams_embedding_state", "vkteams_retention_state"}


@pytest.fixture
def full_status() -> Status:
    """A status in which no value is unknown."""
    now = datetime.now(UTC)
    status = status_file.new("1.2", "all")
    status.state, status.api.state, status.database.state = "listening", "ok", "ok"
    status.api.last_poll_at = status.events.last_event_at = status.retention.last_run_at = (
        status.retention.next_run_at
    ) = now
    status.spool.since = now
    status.embedding.state, status.embedding.queued = "ok", 3
    status.retention.state = "ok"
    status.latency_ms.poll_to_row = status.latency_ms.row_to_vector = Percentiles(p50=1.0, p99=2.0)
    status.archive = Archive(
        measured_at=now, bytes=1 << 30, free_bytes=1 << 33, quarantined=0, gaps=1, queued_since=now
    )
    return status


def registry_of(status: Status | None, *, running: bool = True) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(lambda: status, running=running))
    return registry


def test_labels_are_those_that_the_type_may_have(full_status: Status) -> None:
    """`promtool check metrics` refuses the others."""
    own = {"quantile": "summary", "le": "histogram"}
    for family in registry_of(full_status).collect():
        for sample in family.samples:
            assert [label for label in sample.labels if own.get(label, family.type) != family.type] == [], sample


def sample_names(registry: CollectorRegistry) -> set[str]:
    return {sample.name for family in registry.collect() for sample in family.samples}


def documented() -> list[str]:
    return re.findall(r"^\| `(vkteams_[a-z_]+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)


def test_every_metric_has_its_row_and_every_row_its_metric(full_status: Status) -> None:
    registry = registry_of(full_status)
    Durations(registry)
    names = {re.sub("_(bucket|sum|count|created)$", "", name) for name in sample_names(registry)}
    rows = documented()
    assert sorted(rows) == sorted(set(rows)) == sorted(names)


def test_everything_in_the_status_file_is_told(full_status: Status) -> None:
    """A new field of the status gets a metric, or a place in this list."""
    import msgspec

    told = {
        "version", "role", "pid", "state", "started_at", "updated_at", "uptime_seconds", "rss_bytes", "warnings",
        "bot.id", "bot.nick", "api.waits_until", "events.per_second", "events.last_event_id", "embedding.models",
        "embedding.texts_per_second",
    }  # fmt: skip
    before = generate_latest(registry_of(full_status))

    def leaves(prefix: str, value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from leaves(f"{prefix}.{name}" if prefix else name, inner)
        else:
            yield prefix

    for leaf in leaves("", msgspec.to_builtins(full_status)):
        if leaf in told or leaf.endswith("last_error"):
            continue
        *path, field = leaf.split(".")
        holder: object = full_status
        for name in path:
            holder = getattr(holder, name)
        value = getattr(holder, field)
        other = {int: 77, float: 77.5, datetime: datetime(2001, 1, 1, tzinfo=UTC), str: "off", type(None): "somebody"}
        setattr(holder, field, other[type(value)])
        assert generate_latest(registry_of(full_status)) != before, f"{leaf} is in no metric"
        setattr(holder, field, value)


def test_a_value_that_is_not_known_has_no_sample() -> None:
    names = sample_names(registry_of(status_file.new("1", "all")))
    assert "vkteams_last_event_time_seconds" not in names
    assert "vkteams_database_up" not in names
    assert "vkteams_events_received_total" in names


def test_of_an_ended_daemon_only_its_end_is_told(full_status: Status) -> None:
    assert sample_names(registry_of(full_status, running=False)) == {"vkteams_running"}


@pytest.mark.parametrize("file", ["etc/prometheus/alerts.yml", "etc/grafana/dashboard.json"])
def test_alerts_and_dashboard_use_documented_metrics_alone(file: str) -> None:
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in _NAME.findall((ROOT / file).read_text())}
    assert len(names) > 10
    assert names <= set(documented())


@pytest.fixture
def serve(full_status: Status) -> Iterator[Callable[..., MetricsServer]]:
    """Starts servers of metrics whose daemon is alive or not."""
    servers: list[MetricsServer] = []

    def start(*, alive: bool = True, status: Status = full_status) -> MetricsServer:
        answers = {"/livez": lambda: probes.live(status, alive=alive), "/readyz": lambda: probes.ready(status)}
        servers.append(MetricsServer("127.0.0.1:0", registry_of(status), answers))
        servers[-1].start()
        return servers[-1]

    yield start
    for one in servers:
        one.stop()


def get(server: MetricsServer, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    connection = HTTPConnection(*server.address, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_a_scrape_in_both_formats(serve: Callable[..., MetricsServer]) -> None:
    server = serve()
    code, text = get(server, "/metrics")
    assert code == 200
    assert any(family.name == "vkteams_archive_gaps" for family in text_string_to_metric_families(text))
    code, text = get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert code == 200
    assert any(family.type == "stateset" for family in parse_openmetrics(text))


def test_a_probe_says_why_it_has_not_passed(serve: Callable[..., MetricsServer], full_status: Status) -> None:
    assert get(serve(), "/livez")[0] == get(serve(), "/readyz")[0] == 200
    full_status.state, full_status.database.state = "degraded", "down"
    full_status.database.last_error = "the database does not answer"
    full_status.warnings = ["the loop longpoll has not gone on for 70 s"]
    server = serve(alive=False)
    code, text = get(server, "/readyz")
    assert code == 503
    assert json.loads(text)["reasons"] == ["the database does not answer", full_status.warnings[0]]
    assert json.loads(text)["checks"]["database"] == "down"
    code, text = get(server, "/livez")
    assert (code, json.loads(text)["reasons"]) == (503, full_status.warnings)


def test_a_standby_is_ready(serve: Callable[..., MetricsServer], full_status: Status) -> None:
    full_status.state = "standby"
    code, text = get(serve(), "/readyz")
    assert (code, json.loads(text)["checks"]["lock"]) == (200, "held by another process")


@pytest.mark.parametrize(
    ("method", "path", "code"), [("POST", "/metrics", 405), ("GET", "/", 404), ("HEAD", "/livez", 200)]
)
def test_other_requests_are_refused(serve: Callable[..., MetricsServer], method: str, path: str, code: int) -> None:
    assert get(serve(), path, method)[0] == code


def test_connections_that_send_nothing_end_and_shut_nobody_out(
    serve: Callable[..., MetricsServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "CONNECTION_LIMIT", 0.5)
    one = serve()
    silent = [socket.create_connection(one.address, timeout=10) for _ in range(server.MAX_CONNECTIONS)]
    for connection in silent:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    with socket.create_connection(one.address, timeout=10) as late:
        assert late.recv(100) == b"", "one more than the limit is closed without an answer"
    for connection in silent:
        while connection.recv(1000):  # until the server ends it
            pass
        connection.close()

    def answers() -> bool:
        with contextlib.suppress(OSError):  # the last connection's place becomes free a moment after its end
            return get(one, "/livez")[0] == 200
        return False

    until(answers, 10, "an answer")


def test_a_taken_port_names_the_option(serve: Callable[..., MetricsServer]) -> None:
    host, port = serve().address
    with pytest.raises(CannotCreate, match=rf"daemon.metrics: cannot listen on {host}:{port}: Address already in use"):
        MetricsServer(f"{host}:{port}", registry_of(None), {})
