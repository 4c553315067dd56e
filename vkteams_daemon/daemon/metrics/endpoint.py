"""The daemon's own endpoint: its metrics, its probes and its histograms behind one address."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from vkteams_daemon.daemon.metrics import probes
from vkteams_daemon.daemon.metrics.durations import Durations
from vkteams_daemon.daemon.metrics.families import StatusCollector
from vkteams_daemon.daemon.metrics.server import MetricsServer
from vkteams_daemon.daemon.status import Status


class Endpoint:
    """Answers for one daemon from its start to its end.

    Args:
        address: HOST:PORT, as the option has it.
        status: the daemon's, up to date.
        alive: whether every loop goes on.

    Attributes:
        durations: what the daemon's loops report to.

    Raises:
        CannotCreate: this process cannot listen on the address.
    """

    def __init__(self, address: str, status: Callable[[], Status], alive: Callable[[], bool]) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(StatusCollector(status))
        self.durations = Durations(registry)
        self._server = MetricsServer(address, registry, {
            "/livez": lambda: probes.live(status(), alive=alive()),
            "/readyz": lambda: probes.ready(status()),
        })  # fmt: skip
        self._server.start()

    def stop(self) -> None:
        """Answer no more."""
        self._server.stop()
