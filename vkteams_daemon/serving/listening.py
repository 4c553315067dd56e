"""The HTTP server of the page and of MCP: it listens on one address, and ends when it is told to.

uvicorn with limits of its own; see `connection_limits`.
"""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import uvicorn

from vkteams_daemon.errors import CannotCreate, UsageError, VkTeamsError
from vkteams_daemon.serving.connection_limits import Refuse, limited_protocol, max_connections
from vkteams_daemon.serving.standard_error import end_process

log = logging.getLogger(__name__)

_ACCEPTED = 16  # connections in one turn of the loop, before one of them can be closed
_WAITING = 1024  # connections that the kernel keeps until then
_DEAD_AFTER = 60  # seconds without a sign of the client's machine
_GRACE = 3  # seconds that unfinished answers get when the server ends


def listen(host: str, port: int, *, refusal: tuple[str, str] | None) -> socket.socket:
    """A socket that listens on this address.

    Args:
        host: a name or an address, without brackets.
        port: the port; 0 chooses a free one.
        refusal: why only loopback will do, and the hint; None if any address will.

    Raises:
        UsageError: there is no such host, or only loopback will do.
        CannotCreate: the port is taken, or this user may not listen on it.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--http: there is no host {host}") from error
    if refusal and not all(ipaddress.ip_address(info[4][0]).is_loopback for info in addresses):
        raise UsageError(f"--http: {host} is not this machine's loopback, and {refusal[0]}", hint=refusal[1])
    family, _, _, _, address = addresses[0]
    try:
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise CannotCreate(f"--http: cannot listen on {host}:{port}: {error.strerror}") from error
    # The connections inherit these options. If a client's machine is gone, its connection ends, and so its session.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _DEAD_AFTER // 2)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER * 1000)
    return listening


class LimitedServer(uvicorn.Server):
    """uvicorn with our limits.

    Args:
        app: the application.
        refuse: counts a connection that was closed.
        lifespan: whether the application has one.
        forwarded: whether the client's address is the one that a proxy on this machine names.
        ending: called when the server begins to end, to end the answers that would not end by themselves.
    """

    def __init__(
        self, app: Any, refuse: Refuse, *, lifespan: bool, forwarded: bool = True,
        ending: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        super().__init__(
            uvicorn.Config(
                app, http=limited_protocol(max_connections(), refuse), ws="none",
                lifespan="on" if lifespan else "off", backlog=_ACCEPTED, log_config=None, access_log=False,
                proxy_headers=forwarded, server_header=False, timeout_graceful_shutdown=_GRACE,
            )
        )  # fmt: skip
        self._told_to_end = False
        self._ending = ending

    def take_signals(self) -> None:
        """End on SIGTERM and SIGINT. uvicorn takes the signals over, and raises them again after it has ended."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._end)

    def run_to_the_end(self, name: str, listening: socket.socket, close: Iterable[Callable[[], None]]) -> NoReturn:
        """Serve until a signal, then end the process. If the server ends without one, the exit code says so.

        Args:
            name: what serves, for the log.
            listening: the socket.
            close: called at the end.
        """
        try:
            self.run(sockets=[listening])
        except (Exception, SystemExit) as error:
            log.error("%s failed: %s", name, error, exc_info=error)
        for each in close:
            each()
        if not self._told_to_end:
            log.critical("%s has ended, and nobody told it to", name)
        end_process(0 if self._told_to_end else VkTeamsError.exit_code)

    def end(self) -> None:
        """End soon, without having been told to by a signal."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_WAITING)  # asyncio has given the kernel `_ACCEPTED`, too

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending()
        await super().shutdown(sockets)

    def _end(self, signum: int, _: object) -> None:
        self._told_to_end = self.should_exit = True


def bracketed(name: str) -> str:
    """The name as it stands in a URL: an IPv6 address in brackets."""
    return f"[{name}]" if ":" in name and not name.startswith("[") else name
