"""The server over streamable HTTP: at `/mcp` of one address, for clients with a token.

Without a tokens file the server listens on loopback addresses only. It refuses a request with a foreign name in `Host`,
or with the `Origin` of another web page, before it reads the body: a web page must not make a browser ask the archive.
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
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import Server

log = logging.getLogger(__name__)

PATH = "/mcp"
_GRACE = 3  # seconds that unfinished answers get when the server ends
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def listen(host: str, port: int, *, tokens: bool) -> socket.socket:
    """A socket that listens on this address.

    Args:
        host: a name or an address, without brackets.
        port: the port; 0 chooses a free one.
        tokens: whether clients need a token.

    Raises:
        UsageError: there is no such host, or other machines could use the server without a token.
        CannotCreate: the port is taken, or this user may not listen on it.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--http: there is no host {host}") from error
    if not tokens and not all(ipaddress.ip_address(info[4][0]).is_loopback for info in addresses):
        raise UsageError(
            f"--http: {host} is not this machine's loopback, and no client would need a token",
            hint="Set mcp.tokens_file (docs/mcp.md), or listen on 127.0.0.1.",
        )
    family, _, _, _, address = addresses[0]
    try:
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise CannotCreate(f"--http: cannot listen on {host}:{port}: {error.strerror}") from error


def url(host: str, listening: socket.socket) -> str:
    """The URL of the server."""
    return f"http://{_bracketed(host)}:{listening.getsockname()[1]}{PATH}"


def serve(server: Server, reader: Reader, host: str, listening: socket.socket, config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then end the process."""
    app = server.streamable_http_app(
        streamable_http_path=PATH, transport_security=security([host, *config.mcp.hosts]), host=host
    )
    # uvicorn raises the signal again after it has ended. This handler ignores it: the signal is no failure.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: None)
    log.info("MCP at %s", url(host, listening))
    uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_GRACE)
    ).run(sockets=[listening])
    reader.close()
    sys.stderr.flush()
    # Threads with answers that were abandoned would keep the process alive.
    os._exit(0)


def security(names: Iterable[str]) -> TransportSecuritySettings:
    """A check of Host and Origin: these names and loopback are accepted, on any port, by HTTP or a proxy's HTTPS."""
    own_names = dict.fromkeys([*_LOOPBACK, *(_bracketed(name) for name in names)])
    hosts = [host for name in own_names for host in (name, f"{name}:*")]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=hosts,
        allowed_origins=[f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts],
    )


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name and not name.startswith("[") else name
