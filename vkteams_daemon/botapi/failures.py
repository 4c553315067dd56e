"""Why a request failed, in words of our own.

The HTTP library's texts hold the URL, and the URL holds the token. An `ok: false` gives a description alone, so it is
matched by its known texts.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import requests

from vkteams_daemon.errors import (
    ApiError,
    ApiProtocolError,
    ApiRefused,
    ApiUnreachable,
    ConfigError,
    RateLimited,
    Unauthorised,
    VkTeamsError,
)
from vkteams_daemon.system.text import printable


def failure(url: str, method: str, error: Exception) -> VkTeamsError:
    """The error of ours for a request of `method` at `url` that ended with this one of the library's."""
    problems = requests.exceptions
    if isinstance(error, problems.InvalidProxyURL):
        return ConfigError("api.proxy: it is not a URL of a proxy", hint="Write http://HOST:PORT.")
    if isinstance(error, problems.InvalidURL | problems.InvalidSchema | problems.MissingSchema | UnicodeError):
        return ConfigError(f"api.url: {url!r} is not a URL that can be asked")
    if isinstance(error, problems.SSLError):
        if re.search("certificate|doesn't match", str(error), re.IGNORECASE):
            return ApiUnreachable(
                f"{url}: its certificate cannot be verified",
                hint="Set api.ca_file to the PEM file of your authority.",
            )
        return ApiUnreachable(f"{url}: TLS cannot be agreed on", hint="Check api.url: is it http:// there?")
    if isinstance(error, problems.ContentDecodingError | ValueError) and not isinstance(error, problems.Timeout):
        return ApiProtocolError(f"{method}: the answer cannot be decoded")
    return ApiUnreachable(f"{url}: {reason(error)}", hint="Check api.url and the network.")


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words that hold no URL."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke in mid-answer"
    text = re.sub(r"\S*(?:token=|\?)\S*", "…", str(error))
    for known, words in _KNOWN_REASONS:
        if known in text:
            return words
    return type(error).__name__


def refusal(description: Any, retry_after: float | None = None) -> ApiError:
    """The error for an answer that says `ok: false` with this description (any value: it came from outside)."""
    text = description if isinstance(description, str) else ""
    known = text.lower()
    if "invalid token" in known or "parameter 'token'" in known:
        return Unauthorised("the Bot API refused the token", hint="Ask @metabot for the bot's token and set api.token.")
    if "ratelimit" in known.replace(" ", "").replace("_", ""):
        return RateLimited("the Bot API asks to slow down", retry_after=retry_after)
    reason = printable(text[:200], " ").strip()
    return ApiRefused(f"the Bot API refused the request: {reason or 'no description'}")


_KNOWN_REASONS = (
    ("Tunnel connection failed", "the proxy refuses the connection"),
    ("onnect to proxy", "the proxy cannot be reached"),
    ("Name or service not known", "its name cannot be resolved"),
    ("Temporary failure in name resolution", "its name cannot be resolved"),
    ("No address associated", "its name cannot be resolved"),
    ("Connection refused", "the connection is refused"),
    ("No route to host", "there is no route to it"),
    ("Network is unreachable", "the network is unreachable"),
    ("Read timed out", "no answer in time"),
    ("Connection reset", "the connection was reset"),
    ("Remote end closed", "the connection was closed without an answer"),
    ("aborted", "the connection was closed without an answer"),
)


class _NoToken(logging.Filter):
    """Takes the token out of the HTTP library's log: at level debug it writes every URL."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "token=" in text:
            record.msg, record.args = re.sub(r"token=[^&\s\"']*", "token=***", text), ()
        return True


_no_token = _NoToken()
for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_no_token)
