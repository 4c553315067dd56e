"""The server over streamable HTTP: at `/mcp` of one address, for clients with a token.

Without a tokens file the server listens on loopback addresses only. It refuses a request with a foreign name in `Host`,
or with the `Origin` of another web page: a web page must not make a browser ask the archive.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette

from vkteams_daemon.config import Config
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.jsonrpc import MendedBodies
from vkteams_daemon.mcp.refusals import TellRefusals
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.mcp.sessions import BoundedSessions
from vkteams_daemon.serving.connection_limits import MAX_CONNECTIONS
from vkteams_daemon.serving.listening import LimitedServer, bracketed
from vkteams_daemon.serving.refusals import Refusals

if TYPE_CHECKING:
    from vkteams_daemon.mcp.metrics import McpEndpoint

log = logging.getLogger(__name__)

PATH = "/mcp"
SESSION_IDLE = 600.0  # seconds after which a session ends that nobody uses
MAX_SESSIONS = 1000
MAX_SESSIONS_OF_ONE = 100  # by token, or by address if there are no tokens
_MAX_BODY = 256 * 1024  # bytes; the longest arguments that the tools take are some 10 KB
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def url(host: str, listening: socket.socket) -> str:
    """The URL of the server."""
    return f"http://{bracketed(host)}:{listening.getsockname()[1]}{PATH}"


def make_app(server: Server, host: str, config: Config, refusals: Refusals) -> Starlette:
    """The application of the server, with its limits."""
    names = [host, *config.mcp.hosts, *filter(None, [urlsplit(config.mcp.url).hostname])]
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        transport_security=security(names),
        host=host,
        session_idle_timeout=SESSION_IDLE,
        max_sessions=MAX_SESSIONS + MAX_CONNECTIONS,  # those that are being opened count as well
        max_request_body_size=_MAX_BODY,
    )
    by_token = bool(config.mcp.tokens_file or config.mcp.url)
    app.add_middleware(MendedBodies, most=_MAX_BODY)
    app.add_middleware(BoundedSessions, tokens=by_token, most=MAX_SESSIONS, most_of_one=MAX_SESSIONS_OF_ONE)
    app.add_middleware(TellRefusals, path=PATH, refusals=refusals)
    return app


def serve(
    server: Server,
    reader: Reader,
    host: str,
    listening: socket.socket,
    config: Config,
    endpoint: McpEndpoint | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then end the process. If the server ends without them, the exit code says so."""
    refusals = Refusals(server.audit)
    app = make_app(server, host, config, refusals)
    running = LimitedServer(app, refusals.count, lifespan=True)
    running.take_signals()
    end_with_sessions(app, running.end, endpoint)
    log.info("MCP at %s", url(host, listening))
    running.run_to_the_end("the MCP server", listening, (refusals.flush, server.audit.close, reader.close))


def end_with_sessions(app: Starlette, end: Callable[[], None], endpoint: McpEndpoint | None) -> None:
    """Let the server end with the sessions of the application: without them every request would fail."""
    sessions = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Any]:
        if endpoint:
            endpoint.begin(asyncio.get_running_loop())
        try:
            async with sessions(app) as state:
                yield state
        finally:
            end()

    app.router.lifespan_context = lifespan


def security(names: Iterable[str]) -> TransportSecuritySettings:
    """A check of Host and Origin: these names and loopback are accepted, on any port, by HTTP or a proxy's HTTPS."""
    own_names = dict.fromkeys([*_LOOPBACK, *(bracketed(name) for name in names)])
    hosts = [host for name in own_names for host in (name, f"{name}:*")]
    return TransportSecuritySettings(
        enable_dns_rebinding_protection=True,
        allowed_hosts=hosts,
        allowed_origins=[f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts],
    )
