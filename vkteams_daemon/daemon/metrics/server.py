"""Serves /metrics, /livez and /readyz over HTTP. It holds no secret and changes nothing."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from vkteams_daemon.daemon.metrics.probes import Probe
from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.system.deadlines import DEADLINES

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 16  # at once; one more is closed without an answer
CONNECTION_LIMIT = 10.0  # seconds from the connection to the end of its answer


class MetricsServer:
    """The server, in threads of its own: one that listens, and one for each connection.

    Args:
        address: HOST:PORT, as the option has it. Port 0 takes a free one.
        registry: the metrics.
        probes: the answer of each path of a probe.
        option: the option that named the address, for the error.

    Raises:
        CannotCreate: this process cannot listen on the address.
    """

    def __init__(
        self,
        address: str,
        registry: CollectorRegistry,
        probes: dict[str, Callable[[], Probe]],
        *,
        option: str = "daemon.metrics",
    ) -> None:
        self._metrics = make_wsgi_app(registry)
        self._probes = probes
        host, _, port = address.rpartition(":")
        try:
            self._server = _Server(host.removeprefix("[").removesuffix("]"), int(port))
        except OSError as error:
            raise CannotCreate(
                f"{option}: cannot listen on {address}: {error.strerror}",
                hint=f'Set {option} to a free address of this machine, or to "".',
            ) from error
        self._server.set_app(self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.5,), name="metrics", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """The host and port that it listens on."""
        host, port = self._server.socket.getsockname()[:2]
        return host, port

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        log.info("metrics at http://%s:%d/metrics", *self.address)

    def stop(self) -> None:
        """Listen no more. Connections that are open end with the process."""
        if self._thread.is_alive():
            with contextlib.suppress(OSError):
                self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, so that `shutdown` does not wait
            self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, method = request["PATH_INFO"], request["REQUEST_METHOD"]
        probe = self._probes.get(path)
        if method not in ("GET", "HEAD"):
            status, answer = "405 Method Not Allowed", {"error": "only GET and HEAD are answered"}
        elif path == "/metrics":
            page: Iterable[bytes] = self._metrics(request, start_response)
            return page
        elif probe is None:
            status, answer = "404 Not Found", {"error": f"answered are /metrics, {', '.join(self._probes)}"}
        else:
            result = probe()
            status, answer = "200 OK" if result.passed else "503 Service Unavailable", asdict(result)
        body = json.dumps(answer, ensure_ascii=False).encode() + b"\n"
        start_response(
            status, [("Content-Type", "application/json; charset=utf-8"), ("Content-Length", str(len(body)))]
        )
        return [body] if method != "HEAD" else []


class _Handler(WSGIRequestHandler):
    timeout = CONNECTION_LIMIT

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("metrics: %s", format % args)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64  # a longer wait in the kernel's queue costs the client a second
    block_on_close = False

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        # The base class asks the name service for the host's name, which may take seconds and is not used.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        def end() -> None:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

        try:
            with DEADLINES.limit(CONNECTION_LIMIT, end):
                super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("metrics: a connection failed: %s", sys.exc_info()[1])
