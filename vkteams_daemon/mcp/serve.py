"""Starts the MCP server: its log, its audit, its access, and the transport that was asked for."""

from __future__ import annotations

import logging
import os
import pwd
from pathlib import Path

from vkteams_daemon.access import Access, Tokens
from vkteams_daemon.config import Config
from vkteams_daemon.mcp.audit import Audit
from vkteams_daemon.mcp.reader import Reader
from vkteams_daemon.mcp.server import Server
from vkteams_daemon.system.log import Log
from vkteams_daemon.system.redaction import Secrets


def over_stdio(config: Config) -> None:
    """Serve the client on standard input and output; does not return."""
    from vkteams_daemon.mcp import stdio

    secrets = _log(config)
    reader = Reader(config, Access(f"user {_user()}"))
    stdio.serve(Server(reader, Audit(secrets, "stdio")), reader)


def over_http(config: Config, host: str, port: int) -> None:
    """Serve clients that come to this address; does not return.

    Raises:
        UsageError: the address is none, or needs a tokens file and there is none.
        CannotCreate: it cannot be listened on.
        ConfigError, PermissionRefused: the tokens file cannot be used as it is.
    """
    from vkteams_daemon.mcp import http

    tokens = Tokens(Path(config.mcp.tokens_file)) if config.mcp.tokens_file else None
    listening = http.listen(host, port, tokens=tokens is not None)
    secrets = _log(config)
    reader = Reader(config, Access("anybody on this machine"))
    server = Server(reader, Audit(secrets, "http"), tokens, http.url(host, listening))
    http.serve(server, reader, host, listening, config)


def _log(config: Config) -> Secrets:
    log = Log(config, foreground=True, program="vkteamsctl")
    # What the SDK and its HTTP server have to say of each call, the audit says.
    for name in ("mcp", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return log.secrets


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
