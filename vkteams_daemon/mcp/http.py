"""The server over streamable HTTP: at `/mcp` of one address, for clients with a token.

Without a tokens file the server listens on loopback addresses only. It refuses a request with a foreign name in `Host`,
or with the `Origin` of another web page: a web page must not make a browser ask the archive.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

import uvicorn
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotCreate, UsageError, VkTeamsError
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.connection_limits import limited_protocol, max_connections
from vkteams_daemon.mcp.refusals import Refusals, TellRefusals
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.mcp.standard_error import end_process

log = logging.getLogger(__name__)

PATH = "/mcp"
SESSION_IDLE = 600.0  # seconds after which a session ends that nobody uses
_MAX_SESSIONS = 1000
_MAX_BODY = 256 * 1024  # bytes; the longest arguments that the tools take are some 10 KB
_ACCEPTED = 16  # connections in one turn of the loop, before one of them can be closed
_WAITING = 1024  # connections that the kernel keeps until then
_DEAD_AFTER = 60  # seconds without a sign of the client's machine
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
        listening = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise CannotCreate(f"--http: cannot listen on {host}:{port}: {error.strerror}") from error
    # Its connections inherit them: a client whose machine is gone does not keep its connection, and so its session.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _DEAD_AFTER // 2)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_AFTER * 1000)
    return listening


def url(host: str, listening: socket.socket) -> str:
    """The URL of the server."""
    return f"http://{_bracketed(host)}:{listening.getsockname()[1]}{PATH}"


class _HttpServer(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(_WAITING)  # the loop took the number that it accepts for the kernel's, too


def serve(server: Server, reader: Reader, host: str, listening: socket.socket, config: Config) -> None:
    """Serve until SIGTERM or SIGINT, then end the process. If the server ends without them, the exit code says so."""
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=security([host, *config.mcp.hosts]),
        host=host,
        session_idle_timeout=SESSION_IDLE,
        max_sessions=_MAX_SESSIONS,
        max_request_body_size=_MAX_BODY,
    )
    refusals = Refusals(server.audit)
    app.add_middleware(TellRefusals, path=PATH, refusals=refusals)
    running = _HttpServer(
        uvicorn.Config(
            app, http=limited_protocol(max_connections(), refusals.count), ws="none", lifespan="on", backlog=_ACCEPTED,
            log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_GRACE,
        )
    )  # fmt: skip
    signals: list[int] = []

    def end(signum: int, _: object) -> None:
        signals.append(signum)
        running.should_exit = True

    # uvicorn takes the signals over, and raises them again after it has ended.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, end)
    sessions = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Any]:
        try:
            async with sessions(app) as state:
                yield state
        finally:
            running.should_exit = True  # uvicorn would go on without the sessions, and every request would fail

    app.router.lifespan_context = lifespan
    log.info("MCP at %s", url(host, listening))
    try:
        running.run(sockets=[listening])
    except (Exception, SystemExit) as error:
        log.error("the MCP server failed: %s", error, exc_info=error)
    refusals.flush()
    reader.close()
    if not signals:
        log.critical("the MCP server has ended, and nobody told it to")
    end_process(0 if signals else VkTeamsError.exit_code)


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
