"""The server over streamable HTTP: at `/mcp` of one address, for clients with a token.

Only a loopback address is listened on without a tokens file. Whoever calls the server by a name that is not its own, or
comes from a web page of another origin, is refused before anything is read: a browser must not be talked into asking.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterable

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings

from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotCreate, UsageError
from vkteams_daemon.mcp.reader import Reader
from vkteams_daemon.mcp.server import Server

log = logging.getLogger(__name__)

PATH = "/mcp"
_LAST = 3  # seconds that open answers have when the server is told to end
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def listen(host: str, port: int, *, tokens: bool) -> socket.socket:
    """A socket that listens there.

    Args:
        host: a name or an address, without brackets.
        port: 0 for a free one.
        tokens: whether clients need a token.

    Raises:
        UsageError: there is no such host, or others than this machine could come in without a token.
        CannotCreate: the port is taken, or not for this user.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--http: there is no host {host}") from error
    if not tokens and not all(ipaddress.ip_address(place[4][0]).is_loopback for place in found):
        raise UsageError(
            f"--http: {host} is not this machine's loopback, and no client would need a token",
            hint="Set mcp.tokens_file (docs/mcp.md), or listen on 127.0.0.1.",
        )
    family, _, _, _, address = found[0]
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise CannotCreate(f"--http: cannot listen on {host}:{port}: {error.strerror}") from error


def url(host: str, listening: socket.socket) -> str:
    """Where clients find the server."""
    return f"http://{_bracketed(host)}:{listening.getsockname()[1]}{PATH}"


def serve(server: Server, reader: Reader, host: str, listening: socket.socket, config: Config) -> None:
    """Serve until TERM or INT; the process ends with it."""
    app = server.streamable_http_app(
        streamable_http_path=PATH, transport_security=security([host, *config.mcp.hosts]), host=host
    )
    # uvicorn raises the signal again when it has ended; that it came is no failure.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: None)
    log.info("MCP at %s", url(host, listening))
    uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_LAST)
    ).run(sockets=[listening])
    reader.close()
    sys.stderr.flush()
    # Threads with answers that nobody waits for any more would keep the process.
    os._exit(0)


def security(names: Iterable[str]) -> TransportSecuritySettings:
    """The SDK's check of Host and Origin: the server's own names, on any port, over HTTP or a proxy's HTTPS."""
    known = [*dict.fromkeys([*_LOOPBACK, *(_bracketed(name) for name in names)])]
    hosts = [form for name in known for form in (name, f"{name}:*")]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=hosts,
        allowed_origins=[f"{scheme}://{form}" for scheme in ("http", "https") for form in hosts],
    )


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") else name
