"""The log of a process that serves: lines on standard error, which never block and which no client can fill."""

from __future__ import annotations

import logging
import sys

from vkteams_daemon.config import Config
from vkteams_daemon.serving.log_limit import LogLimit
from vkteams_daemon.serving.standard_error import StandardError
from vkteams_daemon.system.log import Log
from vkteams_daemon.system.redaction import Secrets


def start(config: Config) -> Secrets:
    """Start the log; returns the secrets that no line may hold."""
    sys.stderr = StandardError()
    log = Log(config, foreground=True, program="vkteamsctl")
    # The SDK and its HTTP server would log each call; the audit has a line for it.
    for name in ("mcp", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogLimit())
    return log.secrets
