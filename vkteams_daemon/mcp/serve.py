"""Starts the MCP server: its log, its audit, the access of its clients, and its transport."""

from __future__ import annotations

import logging
import os
import pwd
import sys
from pathlib import Path

from vkteams_daemon.access import Access, Tokens
from vkteams_daemon.config import Config
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.audit import Audit
from vkteams_daemon.mcp.log_limit import LogLimit
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.mcp.standard_error import StandardError
from vkteams_daemon.system.log import Log
from vkteams_daemon.system.redaction import Secrets


def over_stdio(config: Config) -> None:
    """Serve the client on standard input and output. Does not return."""
    from vkteams_daemon.mcp import stdio

    secrets = _log(config)
    reader = Reader(config, Access(f"user {_user()}"))
    stdio.serve(Server(reader, Audit(secrets, "stdio")), reader)


def over_http(config: Config, host: str, port: int) -> None:
    """Serve clients that connect to this address. Does not return.

    Raises:
        UsageError: there is no such host, or the address needs a tokens file and none is configured.
        CannotCreate: the server cannot listen on the address.
        ConfigError, PermissionRefused: the tokens file is wrong, unreadable, or open to other users.
    """
    from vkteams_daemon.mcp import http

    tokens = Tokens(Path(config.mcp.tokens_file)) if config.mcp.tokens_file else None
    listening = http.listen(host, port, tokens=tokens is not None)
    secrets = _log(config)
    reader = Reader(config, Access("anybody on this machine"))
    server = Server(reader, Audit(secrets, "http"), tokens, http.url(host, listening))
    http.serve(server, reader, host, listening, config)


def _log(config: Config) -> Secrets:
    sys.stderr = StandardError()
    log = Log(config, foreground=True, program="vkteamsctl")
    # The SDK and its HTTP server would log each call; the audit has a line for it.
    for name in ("mcp", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogLimit())
    return log.secrets


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
