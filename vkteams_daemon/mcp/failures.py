"""Failures as a client may read them: one sentence that tells nothing of the inside."""

from __future__ import annotations

import logging
import re

from mcp.server.mcpserver.exceptions import ResourceError, ToolError, UnexpectedResourceError, UnexpectedToolError
from pydantic import ValidationError

from vkteams_daemon.errors import ConfigError, StoreError, VkTeamsError
from vkteams_daemon.system.text import visible

_UNFORESEEN = (UnexpectedToolError, UnexpectedResourceError)

log = logging.getLogger(__name__)


def client_message(error: Exception, what: str) -> str:
    """The sentence that a client gets for a failure. A failure that nobody foresaw goes to the log, with its traceback.

    Args:
        error: the failure, as the SDK raises it.
        what: what the client called.
    """
    for cause in reversed(_chain(error)):
        if isinstance(cause, VkTeamsError):
            log.info("%s: %s", what, cause)
            return _archive_message(cause)
        if isinstance(cause, ValidationError) and not isinstance(error, _UNFORESEEN):
            return _argument_message(cause)
        if isinstance(cause, ToolError | ResourceError) and not isinstance(cause, _UNFORESEEN):
            return _one_line(str(cause))
    log.error("%s failed", what, exc_info=error)
    return f"{_one_line(what)} failed for a reason that nobody foresaw; the server's log has more"


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and its causes, the first cause last.

    The chain ends with an error of ours: the driver's error behind it is not for clients.
    """
    chain: list[BaseException] = []
    while error is not None and not (chain and isinstance(chain[-1], VkTeamsError)):
        chain.append(error)
        error = error.__cause__
    return chain


def _archive_message(error: VkTeamsError) -> str:
    text = str(error)
    if isinstance(error, StoreError | ConfigError):
        # The details of the database and the configuration (hosts, names, columns) are for the log.
        text = text.partition(": ")[0]
    hint = _for_tools(error.hint)
    return _one_line(f"{text}. {hint}".removesuffix(".") if hint else text)


def _one_line(text: str) -> str:
    """The text as it may be shown. A name that the client has given may have line breaks in it."""
    return " ".join(visible(text).split("\n"))


def _for_tools(hint: str) -> str:
    """The hint for a client that has tools and no commands."""
    if "vkteamsctl" not in hint:
        return hint
    if match := re.search(r"context (users|chats)", hint):
        return f"list_{match[1]} names those there are"
    return "That is for the administrator of the archive"


def _argument_message(error: ValidationError) -> str:
    # The message leaves out the rejected value, which may be anything of any length.
    first = error.errors(include_url=False, include_input=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    name = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    return _one_line(f"{name}: {reason[:1].lower()}{reason[1:]}" if name else reason)
