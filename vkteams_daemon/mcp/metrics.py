"""The metrics and probes of the MCP server over HTTP, at an address of their own (`[mcp] metrics`)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future

from prometheus_client import CollectorRegistry, Histogram

from vkteams_daemon.daemon.metrics.probes import Probe
from vkteams_daemon.daemon.metrics.server import MetricsServer
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.mcp.archive_reader import Reader

_SEARCH = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_START = 5.0  # seconds in which the event loop should begin
_TURN = 2.0  # seconds in which the event loop should come to a callback


class McpEndpoint:
    """Answers for one MCP server.

    Args:
        address: HOST:PORT, as the option has it.
        reader: of the archive; its searches are measured from now on.

    Raises:
        CannotCreate: this process cannot listen on the address.
    """

    def __init__(self, address: str, reader: Reader) -> None:
        registry = CollectorRegistry(auto_describe=False)
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._reader = reader
        self._search = Histogram(
            "vkteams_search_seconds", "From a search's question to its answer.", ["mode"], registry=registry,
            buckets=_SEARCH,
        )  # fmt: skip
        answers = {"/livez": self.live, "/readyz": self.ready}
        self._server = MetricsServer(address, registry, answers, option="mcp.metrics")
        reader.observe = self.observe
        self._server.start()

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that it listens on."""
        return self._server.address

    def observe(self, mode: str, seconds: float) -> None:
        """Count one search."""
        self._search.labels(mode).observe(seconds)

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """The server's event loop runs now."""
        self._loop.set_result(loop)

    def live(self) -> Probe:
        """Whether the event loop turns. A server that starts has a moment to begin: it listens before its loop runs."""
        turned = threading.Event()
        with contextlib.suppress(TimeoutError, RuntimeError):  # not begun; closed
            self._loop.result(_START).call_soon_threadsafe(turned.set)
        alive = turned.wait(_TURN)
        return Probe(alive, "serving" if alive else "stuck", () if alive else ("the event loop does not go on",))

    def ready(self) -> Probe:
        """Whether the archive answers a question."""
        try:
            self._reader.check_archive()
        except VkTeamsError as error:
            return Probe(False, "degraded", (str(error),), {"database": "down"})
        return Probe(True, "serving", (), {"database": "ok"})
