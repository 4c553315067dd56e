"""Failures as a client may read them: one sentence, and nothing of the inside."""

from __future__ import annotations

import logging

from mcp.server.mcpserver.exceptions import ResourceError, ToolError, UnexpectedResourceError, UnexpectedToolError
from pydantic import ValidationError

from vkteams_daemon.errors import ConfigError, StoreError, VkTeamsError
from vkteams_daemon.system.text import visible

_UNFORESEEN = (UnexpectedToolError, UnexpectedResourceError)

log = logging.getLogger(__name__)


def plain(error: Exception, what: str) -> str:
    """The sentence for a failure of the SDK's or its cause; what nobody foresaw goes to the log, with its trace."""
    for cause in reversed(_chain(error)):
        if isinstance(cause, VkTeamsError):
            log.info("%s: %s", what, cause)
            return _sentence(cause)
        if isinstance(cause, ValidationError) and not isinstance(error, _UNFORESEEN):
            return _argument(cause)
        if isinstance(cause, ToolError | ResourceError) and not isinstance(cause, _UNFORESEEN):
            return visible(str(cause))
    log.error("%s failed", what, exc_info=error)
    return f"{visible(what)} failed for a reason that nobody foresaw; the server's log has more"


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and what it was raised from, the first cause last; a cause of ours hides the driver's before it."""
    chain: list[BaseException] = []
    while error is not None and not (chain and isinstance(chain[-1], VkTeamsError)):
        chain.append(error)
        error = error.__cause__
    return chain


def _sentence(error: VkTeamsError) -> str:
    text = str(error)
    if isinstance(error, StoreError | ConfigError):
        # What the database or the configuration says in detail (hosts, names, columns) is for the log.
        text = text.partition(": ")[0]
    return visible(f"{text}. {error.hint}".removesuffix(".") if error.hint else text)


def _argument(error: ValidationError) -> str:
    # The rejected value is not repeated: it may be anything, of any length.
    first = error.errors(include_url=False, include_input=False)[0]
    what = first["msg"].removeprefix("Value error, ")
    name = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    return visible(f"{name}: {what[:1].lower()}{what[1:]}" if name else what)
