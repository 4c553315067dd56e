"""Starts the MCP server: its log, its audit, the access of its clients, and its transport."""

from __future__ import annotations

import os
import pwd
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

if TYPE_CHECKING:
    from vkteams_daemon.mcp.metrics import McpEndpoint

_OPEN = ("no client would need a token", "Set mcp.tokens_file (docs/mcp.md), or listen on 127.0.0.1.")


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

    tokens = Tokens(Path(config.mcp.tokens_file)) if config.mcp.tokens_file else None
    listening = listen(host, port, refusal=None if tokens else _OPEN)
    secrets = serving_log.start(config)
    reader = Reader(config, Access("anybody on this machine"))
    server = Server(reader, Audit(secrets, "http", out=open_audit(config)), tokens, http.url(host, listening))
    http.serve(server, reader, host, listening, config, _endpoint(config, reader))


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
