"""The daemon's status as Prometheus metrics.

The same metrics go to a scrape of the running daemon and to the file of `vkteamsctl daemon metrics`. docs/metrics.md
describes each of them. A value that is not known has no sample: a missing sample is not a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, StateSetMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vkteams_daemon.daemon.status import ApiState, Archive, EmbeddingState, Percentiles, RetentionState, State, Status

OUTCOMES = ("saved", "duplicate", "filtered", "quarantined")


class StatusCollector(Collector):
    """Collects the metrics of a status, for a registry.

    Args:
        status: the present one; None if the daemon has none yet.
        running: whether a daemon runs.
    """

    def __init__(self, status: Callable[[], Status | None], *, running: bool = True) -> None:
        self._status = status
        self._running = running

    def collect(self) -> Iterator[Metric]:
        """The metrics now."""
        return families(self._status(), running=self._running)


def families(status: Status | None, *, running: bool = True) -> Iterator[Metric]:
    """The metrics of a status.

    Args:
        status: the daemon's; None if it has none yet.
        running: whether a daemon runs. If none runs, that is the only metric.
    """
    yield _gauge("vkteams_running", "Whether the daemon runs.", running)
    if status is None or not running:
        return
    yield InfoMetricFamily("vkteams_build", "The version.", {"version": status.version, "role": status.role})
    yield _states("vkteams_state", "What the daemon does.", get_args(State), status.state)
    yield _gauge("vkteams_start_time_seconds", "When the daemon started.", status.started_at)
    yield _gauge("vkteams_status_time_seconds", "When these values were taken.", status.updated_at)
    yield _gauge("vkteams_resident_memory_bytes", "Resident memory of the daemon.", status.rss_bytes)
    yield _gauge("vkteams_warnings", "Warnings that are in force.", len(status.warnings))
    yield from _polling(status)
    yield from _spool(status)
    yield from _embedding(status)
    yield from _archive(status.archive)
    retention = status.retention
    yield _states("vkteams_retention_state", "The erasure by age.", get_args(RetentionState), retention.state)
    yield _gauge("vkteams_retention_last_run_time_seconds", "When it ran last.", retention.last_run_at)
    yield _gauge("vkteams_retention_next_run_time_seconds", "When it runs next.", retention.next_run_at)
    yield _latencies({"poll_to_row": status.latency_ms.poll_to_row, "row_to_vector": status.latency_ms.row_to_vector})


def _polling(status: Status) -> Iterator[Metric]:
    api, database, events = status.api, status.database, status.events
    yield _states("vkteams_api_state", "The long poll.", get_args(ApiState), api.state)
    yield _gauge("vkteams_api_last_poll_time_seconds", "When the API answered last.", api.last_poll_at)
    yield _gauge("vkteams_api_consecutive_failures", "Failed polls since the last answer.", api.consecutive_failures)
    up = None if database.state is None else database.state == "ok"
    yield _gauge("vkteams_database_up", "Whether the writer has its connection.", up)
    yield _gauge("vkteams_database_blocked", "Whether a foreign session blocks.", database.blocked_by is not None)
    yield CounterMetricFamily("vkteams_events_received", "Events that the API has handed out.", events.received)
    outcomes = CounterMetricFamily("vkteams_events", "Events by what became of them.", labels=["outcome"])
    for outcome in OUTCOMES:
        outcomes.add_metric([outcome], getattr(events, outcome))
    yield outcomes
    yield _gauge("vkteams_events_pending", "Events of a batch that the database has not taken yet.", events.failed)
    yield _gauge("vkteams_last_event_time_seconds", "When the last event came.", events.last_event_at)


def _spool(status: Status) -> Iterator[Metric]:
    spool = status.spool
    yield _gauge("vkteams_spool_events", "Events that wait in the spool.", spool.events)
    yield _gauge("vkteams_spool_bytes", "Size of the spool.", spool.bytes)
    yield _gauge("vkteams_spool_oldest_time_seconds", "Since when events wait in the spool.", spool.since)


def _embedding(status: Status) -> Iterator[Metric]:
    embedding = status.embedding
    yield _states("vkteams_embedding_state", "The embedding workers.", get_args(EmbeddingState), embedding.state)
    yield _gauge("vkteams_embedding_queue_messages", "Messages that wait for vectors.", embedding.queued)
    yield CounterMetricFamily("vkteams_embedded_messages", "Messages with new vectors.", embedding.embedded)
    yield CounterMetricFamily("vkteams_embedding_failures", "Failed attempts to embed a message.", embedding.failed)


def _archive(archive: Archive) -> Iterator[Metric]:
    yield _gauge("vkteams_archive_time_seconds", "When the archive was measured.", archive.measured_at)
    yield _gauge("vkteams_archive_bytes", "Size of the database.", archive.bytes)
    yield _gauge("vkteams_archive_gaps", "Gaps that nobody has dismissed.", archive.gaps)
    yield _gauge("vkteams_archive_quarantined_events", "Events in quarantine.", archive.quarantined)
    yield _gauge(
        "vkteams_embedding_queue_oldest_time_seconds", "Since when the oldest message waits.", archive.queued_since
    )
    yield _gauge("vkteams_state_directory_free_bytes", "Free space below the state directory.", archive.free_bytes)


def _latencies(steps: dict[str, Percentiles]) -> Metric:
    help_text = "Over the last thousand measurements, by nearest rank."  # `quantile` is a label of summaries alone
    family = GaugeMetricFamily("vkteams_latency_seconds", help_text, labels=["step", "percentile"])
    for step, percentiles in steps.items():
        for percentile, milliseconds in (("50", percentiles.p50), ("99", percentiles.p99)):
            if milliseconds is not None:
                family.add_metric([step, percentile], milliseconds / 1000)
    return family


def _gauge(name: str, help_text: str, value: float | bool | datetime | None) -> Metric:
    """A gauge; a time as seconds since 1970. Without a value it has no sample."""
    family = GaugeMetricFamily(name, help_text)
    if value is not None:
        family.add_metric([], value.timestamp() if isinstance(value, datetime) else float(value))
    return family


def _states(name: str, help_text: str, states: tuple[str, ...], state: str | None) -> Metric:
    """One sample for each state, which is 1 for the present one; none while the state is not known."""
    family = StateSetMetricFamily(name, help_text)
    if state is not None:
        family.add_metric([], {known: known == state for known in states})
    return family
