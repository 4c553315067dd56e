"""Histograms of how long the daemon's steps take. Only a running daemon has them; they start with the process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

from vkteams_daemon.daemon.status import Step

_POLL = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 120, 300)  # a poll may be held
_ROW = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_VECTOR = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)


class Durations:
    """One histogram for each step, in seconds.

    Args:
        registry: where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        steps: tuple[tuple[Step, str, tuple[float, ...]], ...] = (
            ("poll", "From a poll's request to its answer.", _POLL),
            ("event_to_row", "From an answer's arrival to the commit of its events.", _ROW),
            ("row_to_vector", "From a committed row to its vector.", _VECTOR),
        )
        self._histograms = {
            step: Histogram(f"vkteams_{step}_seconds", help_text, registry=registry, buckets=buckets)
            for step, help_text, buckets in steps
        }

    def observe(self, step: Step, seconds: float) -> None:
        """Count one step."""
        self._histograms[step].observe(seconds)
