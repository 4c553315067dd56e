"""The sockets under an HTTP session, so that another thread can end whatever waits on them, from the first SYN on."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError


class Sockets:
    """The sockets of one session; `ended` is whether the request in flight has been ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.ended = False

    def begin(self) -> None:
        """A request begins; what `shut` ended before does not concern it."""
        with self._lock:
            self.ended = False

    def add(self, sock: socket.socket) -> None:
        """Know this socket from now on; ConnectionAbortedError where the request has been ended already."""
        with self._lock:
            if self.ended:
                raise ConnectionAbortedError("aborted")
            self._open = {known for known in self._open if known.fileno() >= 0} | {sock}

    def shut(self) -> None:
        """End what waits on any of them, and the request that is about to open one."""
        with self._lock:
            self.ended = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    # The raw shutdown also wakes a thread inside TLS, and one whose connection does not stand yet.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Adapter(HTTPAdapter):
    """An adapter whose connections enter their socket in `Sockets` before they are connected."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        super().__init__(pool_connections=2, pool_maxsize=2)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        self._watch(manager)
        return manager

    def _watch(self, manager: Any) -> None:
        pools = {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}
        manager.pool_classes_by_scheme = {scheme: self._watched(pool) for scheme, pool in pools.items()}

    def _watched(self, pool: Any) -> Any:
        sockets = self._sockets

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            _twin: socket.socket | None = None

            def _new_conn(self) -> socket.socket:
                sock = _connected(self, sockets)
                # TLS takes the descriptor over into an object that nobody can reach until it is agreed on.
                self._twin = sock.dup()
                try:
                    sockets.add(self._twin)
                except ConnectionAbortedError:
                    sock.close()
                    raise
                return sock

            def connect(self) -> None:
                try:
                    super().connect()
                    # TLS to a proxy that carries TLS has its socket inside.
                    sockets.add(self.sock if isinstance(self.sock, socket.socket) else self.sock.socket)
                finally:
                    if self._twin is not None:
                        self._twin.close()

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def _connected(connection: Any, sockets: Sockets) -> socket.socket:
    """A socket to the first address that takes it, as urllib3 does it, but known to `sockets` while it waits.

    Raises:
        ConnectTimeoutError, NewConnectionError: what urllib3 raises in its place.
    """
    failure: OSError | None = None
    try:
        host = connection._dns_host.strip("[]")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, connection.port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                for option in connection.socket_options or ():
                    sock.setsockopt(*option)
                _connect(sock, address, connection.timeout, sockets)
                return sock
            except OSError as error:
                sock.close()
                failure = error
    except OSError as error:
        failure = error
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, "no connection in time") from failure
    raise NewConnectionError(connection, f"no connection: {failure}") from failure


def _connect(sock: socket.socket, address: Any, timeout: float, sockets: Sockets) -> None:
    sock.setblocking(False)
    code = sock.connect_ex(address)
    if code == errno.EINPROGRESS:
        # Only now: the shutdown of a socket that has not begun to connect does nothing.
        sockets.add(sock)
        waiting = select.poll()
        waiting.register(sock, select.POLLOUT)
        if not waiting.poll(timeout * 1000):
            raise TimeoutError("no connection in time")
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
    sock.settimeout(timeout)
