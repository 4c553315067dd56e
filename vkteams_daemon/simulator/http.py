"""Serves the simulator over HTTP/1.1, one thread a connection, and plays the faults of the transport."""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import socket
import socketserver
import struct
import threading
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from vkteams_daemon.errors import CannotCreate
from vkteams_daemon.simulator import api, control, methods
from vkteams_daemon.simulator.bot import TOKEN, SimulatedBot
from vkteams_daemon.simulator.event_log import ClientGone
from vkteams_daemon.simulator.parameters import Refused, parse_request, whole_number
from vkteams_daemon.simulator.response import Response, html_page, refusal

_BASE = "/bot/v1/"
_MAX_BODY = 256 * 2**20  # bytes of a request's body


class Simulator(SimulatedBot):
    """A Bot API with one bot. It is a context manager that starts and stops it.

    Args:
        host, port: the address to listen on. Port 0 takes a free one.
        token: see SimulatedBot.
        **quirks: see quirks.py.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, token: str = TOKEN, **quirks: Any) -> None:
        super().__init__(token=token, **quirks)
        self.host, self.port = host, port
        self._server: Server | None = None

    def start(self) -> Self:
        """Listen. After `stop`, it starts again on the same port and has kept its state.

        Raises:
            CannotCreate: this process cannot listen on the address.
        """
        self.open()
        self._server = Server(self, self.host, self.port)
        self.port = self._server.server_port
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"http://{host}:{self.port}"
        self._server.start()
        return self

    def stop(self) -> None:
        """End every connection and listen no more. The log stays readable."""
        self.close()
        if self._server:
            self._server.stop()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Server(http.server.ThreadingHTTPServer):
    """Listens as soon as it is created, and answers between `start` and `stop`."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, simulator: SimulatedBot, host: str, port: int) -> None:
        self.simulator = simulator
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(None,), name="simulator", daemon=True)
        try:
            super().__init__((host, port), Connection)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise CannotCreate(f"cannot listen on {host}:{port}: {reason}") from error

    def server_bind(self) -> None:
        """Bind without the look-up of the host's own name that http.server does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def start(self) -> None:
        """Answer, in threads of the server."""
        self._thread.start()

    def stop(self) -> None:
        """End every connection and listen no more."""
        # The accepting thread waits without a timeout, so that it uses no CPU. The shutdown of its socket wakes it.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Register the connection, so that `stop` can end it."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)


class Connection(http.server.BaseHTTPRequestHandler):
    """One connection; it answers its requests one after the other."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def version_string(self) -> str:
        """The value of the header Server."""
        return "vkteams-simulator"

    def handle(self) -> None:
        """Answer requests until one side closes the connection."""
        with contextlib.suppress(ClientGone, ConnectionError, TimeoutError):
            super().handle()

    def do_GET(self) -> None:
        """Answer one request."""
        self._answer()

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing: the simulator keeps its own log."""

    def _answer(self) -> None:
        length = whole_number(self.headers.get("Content-Length", "0"))
        if length is None or not 0 <= length <= _MAX_BODY or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            self._send(html_page(HTTPStatus.LENGTH_REQUIRED))
            return
        body = self.rfile.read(length)
        self._send(self._respond(body))

    def _respond(self, body: bytes) -> Response:
        simulator = self.server.simulator
        try:
            target = urlsplit(self.path)
        except ValueError:
            return html_page(HTTPStatus.BAD_REQUEST)
        controlling = target.path == "/simulator" or target.path.startswith("/simulator/")
        if controlling and not _is_local(self.client_address[0]):
            return refusal("only from this machine", HTTPStatus.FORBIDDEN)
        try:
            content_type = "" if controlling else self.headers.get("Content-Type", "")
            parameters = parse_request(target.query, content_type, body)
        except Refused as refused:
            return refusal(str(refused))
        if controlling:
            return control.respond(simulator, self.command, target.path, parameters, body)
        method = target.path.removeprefix(_BASE)
        if self.command in ("GET", "POST") and target.path.startswith(_BASE) and methods.is_method(method):
            return api.respond(simulator, method, parameters, self.connection)
        upload = simulator.world.files.get(unquote(target.path.removeprefix("/files/")))
        return Response(body=upload.content, type=upload.type) if upload else html_page(HTTPStatus.NOT_FOUND)

    def _send(self, response: Response) -> None:
        if response.delay:
            self.server.simulator.events.hold(response.delay, self.connection)
        if response.disconnect:
            self._disconnect(response.disconnect)
            return
        length = len(response.body) if response.content_length is None else response.content_length
        self.send_response(response.status)
        headers = {"Content-Type": response.type, "Content-Length": str(length), **response.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        if response.content_length is not None:
            self.close_connection = True
        self.end_headers()
        if response.pace is None:
            self.wfile.write(response.body)
            return
        octets, pause = response.pace
        for start in range(0, len(response.body), octets):
            self.wfile.write(response.body[start : start + octets])
            self.server.simulator.events.hold(pause, self.connection)

    def _disconnect(self, how: str) -> None:
        self.close_connection = True
        if how == "reset":
            # close() with a linger time of zero sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _is_local(address: str) -> bool:
    """Whether a client with that address is on this machine."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    # On an IPv6 socket, 127.0.0.1 appears as ::ffff:127.0.0.1, which Python does not take for a loopback address.
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
