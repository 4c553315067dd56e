"""HTTP/1.1 with a thread for each connection; sends answers, and every way in which an answer can fail to come."""

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
from vkteams_daemon.simulator.answer import Answer, page, refused
from vkteams_daemon.simulator.bot import TOKEN, SimulatedBot
from vkteams_daemon.simulator.event_log import Gone
from vkteams_daemon.simulator.parameters import Refused, read, whole_number

_BASE = "/bot/v1/"
_LARGEST = 256 * 2**20  # bytes of a request's body


class Simulator(SimulatedBot):
    """A Bot API of its own, with one bot; a context manager that starts and stops it.

    Args:
        host, port: where to listen; port 0 takes a free one.
        token: see SimulatedBot.
        **quirks: see quirks.py.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, token: str = TOKEN, **quirks: Any) -> None:
        super().__init__(token=token, **quirks)
        self.host, self.port = host, port
        self._server: Server | None = None

    def start(self) -> Self:
        """Listen; once stopped it starts again on the same port, and knows all that it knew.

        Raises:
            CannotCreate: the address cannot be had.
        """
        self.open()
        self._server = Server(self, self.host, self.port)
        self.port = self._server.server_port
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.address = f"http://{host}:{self.port}"
        self._server.start()
        return self

    def stop(self) -> None:
        """Break off every connection and listen no more; the log stays readable."""
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
    """Listens as soon as it is made; answers between `start` and `stop`."""

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
            super().__init__((host, port), Exchange)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise CannotCreate(f"{host}:{port} cannot be listened on: {reason}") from error

    def server_bind(self) -> None:
        """Bind without asking the name service who we are, which http.server does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def start(self) -> None:
        """Answer, in threads of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Break off every connection and listen no more."""
        # The accepting thread waits without a limit, so that it uses no CPU: the shutdown of its socket wakes it.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Enter the connection, so that `stop` can end it."""
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Strike the connection off."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)


class Exchange(http.server.BaseHTTPRequestHandler):
    """One connection: its requests, one after the other."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def version_string(self) -> str:
        """What the header Server says."""
        return "vkteams-simulator"

    def handle(self) -> None:
        """Answer until either side is through."""
        with contextlib.suppress(Gone, ConnectionError, TimeoutError):
            super().handle()

    def do_GET(self) -> None:
        """Any method of the API."""
        self._exchange()

    do_POST = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """The log is the simulator's own."""

    def _exchange(self) -> None:
        length = whole_number(self.headers.get("Content-Length", "0"))
        if length is None or not 0 <= length <= _LARGEST or self.headers.get("Transfer-Encoding"):
            self.close_connection = True
            self._send(page(HTTPStatus.LENGTH_REQUIRED))
            return
        body = self.rfile.read(length)
        self._send(self._answer(body))

    def _answer(self, body: bytes) -> Answer:
        simulator = self.server.simulator
        try:
            target = urlsplit(self.path)
        except ValueError:
            return page(HTTPStatus.BAD_REQUEST)
        steering = target.path == "/simulator" or target.path.startswith("/simulator/")
        if steering and not _is_here(self.client_address[0]):
            return refused("only from this machine", HTTPStatus.FORBIDDEN)
        try:
            content_type = "" if steering else self.headers.get("Content-Type", "")
            given = read(target.query, content_type, body)
        except Refused as refusal:
            return refused(str(refusal))
        if steering:
            return control.answer(simulator, self.command, target.path, given, body)
        method = target.path.removeprefix(_BASE)
        if self.command in ("GET", "POST") and target.path.startswith(_BASE) and methods.known(method):
            return api.answer(simulator, method, given, self.connection)
        upload = simulator.world.files.get(unquote(target.path.removeprefix("/files/")))
        return Answer(body=upload.content, type=upload.type) if upload else page(HTTPStatus.NOT_FOUND)

    def _send(self, answer: Answer) -> None:
        if answer.after:
            self.server.simulator.events.hold(answer.after, self.connection)
        if answer.broken:
            self._break(answer.broken)
            return
        length = len(answer.body) if answer.promised is None else answer.promised
        self.send_response(answer.status)
        for name, value in {"Content-Type": answer.type, "Content-Length": str(length), **answer.headers}.items():
            self.send_header(name, value)
        if answer.promised is not None:
            self.close_connection = True
        self.end_headers()
        if answer.pace is None:
            self.wfile.write(answer.body)
            return
        octets, pause = answer.pace
        for start in range(0, len(answer.body), octets):
            self.wfile.write(answer.body[start : start + octets])
            self.server.simulator.events.hold(pause, self.connection)

    def _break(self, how: str) -> None:
        self.close_connection = True
        if how == "reset":
            # Closing with a linger time of zero sends RST in place of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


def _is_here(address: str) -> bool:
    """Whether a client of that address is on this machine."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    # Where IPv6 is listened on, 127.0.0.1 comes as ::ffff:127.0.0.1, which Python takes for an address from elsewhere.
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback
