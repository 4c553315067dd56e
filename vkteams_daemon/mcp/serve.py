"""Starts the MCP server: its log, its audit, the access of its clients, and its transport."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.errors import ConfigError
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.mcp.tokens import Tokens
from vkteams_daemon.serving import serving_log
from vkteams_daemon.serving.audit import Audit
from vkteams_daemon.serving.audit_files import open_audit
from vkteams_daemon.serving.beside import Beside
from vkteams_daemon.serving.questions import Questions
from vkteams_daemon.serving.refusals import Refusals

if TYPE_CHECKING:
    from vkteams_daemon.mcp.issuer_tokens import IssuerTokens
    from vkteams_daemon.mcp.metrics import McpEndpoint
    from vkteams_daemon.search.archive import Archive

METADATA = "/.well-known/oauth-protected-resource"
_OPEN = (
    "no client would need a token",
    "Set mcp.tokens_file, or mcp.url and oidc.issuer (docs/mcp.md), or listen on 127.0.0.1.",
)


def over_stdio(config: Config) -> None:
    """Serve the client on standard input and output. Does not return."""
    from vkteams_daemon.mcp import stdio

    secrets = serving_log.start(config)
    reader = Reader(config, Access(f"user {_user()}"))
    stdio.serve(Server(reader, Audit(secrets, "stdio", out=open_audit(config))), reader)


def over_http(config: Config, host: str, port: int) -> None:
    """Serve clients that connect to this address. Does not return.

    Raises:
        UsageError: there is no such host, or the address needs a tokens file and none is configured.
        CannotCreate: the server cannot listen on the address, or on that of its metrics.
        ConfigError, PermissionRefused: the tokens file is wrong, unreadable, or open to other users.
    """
    from vkteams_daemon.mcp import http
    from vkteams_daemon.serving.listening import listen

    clients = _Clients(config)
    with listen(host, port, refusal=None if clients.verifier else _OPEN) as listening:
        audit = Audit(serving_log.start(config), "http", out=open_audit(config))
        reader, server = clients.server(audit, http.url(host, listening))
        http.serve(server, reader, host, listening, config, _endpoint(config, reader))


def beside(
    config: Config, host: str, url: str, audit: Audit, end: Callable[[], None], questions: Questions[Archive]
) -> Beside:
    """The server over HTTP as a part of another server, such as that of the page.

    Args:
        config: the whole configuration.
        host: the name on which the other server listens.
        url: its address.
        audit: writes a line for every call.
        end: ends the other server.
        questions: asks the archive, which the other server closes.

    Raises:
        ConfigError, PermissionRefused: clients would need no token, or an option or a file of it is wrong. A proxy in
            front of the page would otherwise open the whole archive to everybody.
    """
    from vkteams_daemon.mcp import http

    clients = _Clients(config)
    if clients.verifier is None:
        raise ConfigError(
            "beside the page, the MCP server needs to know its clients",
            hint="Set mcp.tokens_file, or mcp.url and oidc.issuer (docs/mcp.md).",
        )
    reader, server = clients.server(audit, f"{url}{http.PATH}", questions)
    refusals = Refusals(audit)
    app = http.make_app(server, host, config, refusals)
    http.end_with_sessions(app, end, _endpoint(config, reader))
    return Beside(app, (http.PATH, METADATA), (refusals.flush,))


class _Clients:
    """The clients over HTTP, by the tokens of the file and of the issuer."""

    def __init__(self, config: Config) -> None:
        file = Tokens(Path(config.mcp.tokens_file)) if config.mcp.tokens_file else None
        by_issuer = _issuer_tokens(config, file)
        self._config = config
        self._issuer = (config.oidc.issuer, config.mcp.url) if by_issuer else None
        self.verifier = by_issuer or file

    def server(self, audit: Audit, url: str, questions: Questions[Archive] | None = None) -> tuple[Reader, Server]:
        """The server at this address, and its reader of the archive."""
        reader = Reader(self._config, Access("anybody on this machine"), questions)
        return reader, Server(reader, audit, self.verifier, url, issuer=self._issuer)


def _issuer_tokens(config: Config, file: Tokens | None) -> IssuerTokens | None:
    """The verifier of the issuer's tokens, if some are taken; only then its libraries are loaded."""
    if not config.mcp.url:
        return None
    try:
        from vkteams_daemon.mcp.issuer_tokens import open_issuer_tokens
    except ModuleNotFoundError as error:
        if error.name != "joserfc":
            raise
        raise ConfigError(
            "mcp.url needs the Python package joserfc", hint='Install it, or set mcp.url to "".'
        ) from error
    return open_issuer_tokens(config, file)


def _endpoint(config: Config, reader: Reader) -> McpEndpoint | None:
    """The metrics and probes, if an address is configured for them."""
    if not config.mcp.metrics:
        return None
    try:
        from vkteams_daemon.mcp.metrics import McpEndpoint
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise ConfigError(
            "mcp.metrics needs the Python package prometheus_client", hint='Install it, or set mcp.metrics to "".'
        ) from error
    return McpEndpoint(config.mcp.metrics, reader)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
