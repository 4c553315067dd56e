"""Starts the MCP server: its log, its audit, its access, and the transport that was asked for."""

from __future__ import annotations

import logging
import os
import pwd

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.log import Log
from vkteams_daemon.daemon.redaction import Secrets
from vkteams_daemon.mcp import stdio
from vkteams_daemon.mcp.access import Access
from vkteams_daemon.mcp.audit import Audit
from vkteams_daemon.mcp.reader import Reader
from vkteams_daemon.mcp.server import Server


def over_stdio(config: Config) -> None:
    """Serve the client on standard input and output; does not return."""
    secrets = _log(config)
    reader = Reader(config, Access(f"user {_user()}"))
    stdio.serve(Server(reader, Audit(secrets, "stdio")), reader)


def _log(config: Config) -> Secrets:
    log = Log(config, foreground=True)
    # What the SDK has to say of each call, the audit says.
    logging.getLogger("mcp").setLevel(logging.WARNING)
    return log.secrets


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
