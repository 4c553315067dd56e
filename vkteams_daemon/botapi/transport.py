"""The sockets of an HTTP session. Another thread can end every wait on them, from the first SYN on.

What the server sends for one request is bounded in bytes: the HTTP library bounds neither a body nor its trailers.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import threading
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from vkteams_daemon.errors import ApiProtocolError


class Sockets:
    """The open sockets of one session.

    Attributes:
        ended: whether `shut` has ended the request in flight.
        max_answer: bytes that the server may send for the request in flight.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.ended = False
        self.max_answer = 0

    def begin(self, max_answer: int) -> None:
        """Begin a request whose answer has at most this many bytes. An earlier `shut` does not concern it."""
        with self._lock:
            self.ended = False
            self.max_answer = max_answer

    def add(self, sock: socket.socket) -> None:
        """Register a socket, so that `shut` ends it too.

        Raises:
            ConnectionAbortedError: the request has been ended already.
        """
        with self._lock:
            if self.ended:
                raise ConnectionAbortedError("aborted")
            self._open = {other for other in self._open if other.fileno() >= 0} | {sock}

    def shut(self) -> None:
        """End every wait on these sockets, and a request that is about to open one."""
        with self._lock:
            self.ended = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    # shutdown() of the raw socket also wakes a thread in a TLS handshake or in connect().
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _BoundedReader(io.RawIOBase):
    """Reads from a socket's file, and raises ApiProtocolError after more than `limit` bytes."""

    def __init__(self, file: io.RawIOBase, limit: int) -> None:
        self._file = file
        self._limit = self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        size: int | None = self._file.readinto(buffer)
        self._left -= size or 0
        if self._left < 0:
            raise ApiProtocolError(f"the answer takes more than {self._limit >> 20} MiB on the wire")
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


class Adapter(HTTPAdapter):
    """An adapter whose connections register their sockets before they connect them."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        super().__init__(pool_connections=2, pool_maxsize=2)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._use_registered_connections(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        self._use_registered_connections(manager)
        return manager

    def _use_registered_connections(self, manager: Any) -> None:
        pools = {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}
        manager.pool_classes_by_scheme = {scheme: _registered(pool, self._sockets) for scheme, pool in pools.items()}


def _registered(pool: Any, sockets: Sockets) -> Any:
    """This class of pools, with connections that register their sockets in `sockets`."""

    class Response(http.client.HTTPResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.fp = io.BufferedReader(_BoundedReader(self.fp.detach(), sockets.max_answer))

    class Connection(pool.ConnectionCls):  # type: ignore[misc]
        response_class = Response
        # TLS moves the descriptor into an object that is out of reach during the handshake.
        _duplicate: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            try:
                return self._first_connected()
            except TimeoutError as error:
                raise ConnectTimeoutError(self, "no connection in time") from error
            except OSError as error:
                raise NewConnectionError(self, f"no connection: {error}") from error

        def _first_connected(self) -> socket.socket:
            """A socket to the first address that accepts, as urllib3 does it; the last address's OSError otherwise."""
            failure = OSError("the name has no address")
            host = self._dns_host.strip("[]")
            for family, kind, protocol, _, address in socket.getaddrinfo(host, self.port, type=socket.SOCK_STREAM):
                sock = socket.socket(family, kind, protocol)
                self._duplicate = sock.dup()
                try:
                    for option in self.socket_options or ():
                        sock.setsockopt(*option)
                    sock.settimeout(self.timeout)
                    sockets.add(self._duplicate)
                    sock.connect(address)
                    # Once more: ending a socket that has not begun to connect does nothing.
                    sockets.add(self._duplicate)
                    return sock
                except OSError as error:
                    sock.close()
                    self._duplicate.close()
                    failure = error
            raise failure

        def connect(self) -> None:
            try:
                super().connect()
                # For TLS inside TLS (to the proxy, then to the server), urllib3 keeps the socket in a wrapper.
                sockets.add(self.sock if isinstance(self.sock, socket.socket) else self.sock.socket)
            finally:
                if self._duplicate is not None:
                    self._duplicate.close()

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})
