"""Turns the failure of a request into an error of ours.

The HTTP library's texts contain the URL, and the URL contains the token, so no text of the library is passed on. An
answer with `ok: false` has only a description, so its known texts are matched.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import requests

from vkteams_daemon.errors import (
    ApiError,
    ApiMisconfigured,
    ApiProtocolError,
    ApiRefused,
    ApiUnreachable,
    CertificateRefused,
    RateLimited,
    Unauthorised,
    VkTeamsError,
)
from vkteams_daemon.system.text import printable


def failure(url: str, method: str, error: Exception, proxy: str = "", authorities: str = "") -> VkTeamsError:
    """Our error for a request of `method` at `url` that failed with this exception of the library.

    `proxy` is the option or the variable that names the proxy on the way, or "". `authorities` is the variable that
    names the certificate authorities in force, or "".
    """
    exceptions = requests.exceptions
    if isinstance(error, exceptions.InvalidProxyURL):
        return ApiMisconfigured(f"{proxy}: it is not a URL of a proxy", hint="Write http://HOST:PORT.")
    if isinstance(error, exceptions.InvalidURL | exceptions.InvalidSchema | exceptions.MissingSchema | UnicodeError):
        return ApiMisconfigured(f"api.url: {url!r} is not a URL that can be asked")
    if isinstance(error, exceptions.SSLError):
        if re.search("certificate|doesn't match", str(error), re.IGNORECASE):
            whose = f", or of the proxy of {proxy} if it opens TLS" if proxy else ""
            instead = f", in place of {authorities}, whose authorities are in force" if authorities else ""
            hint = f"Set api.ca_file to the PEM file of your authority{whose}{instead}."
            return CertificateRefused(f"{url}: its certificate cannot be verified", hint=hint)
        places = f"api.url and the proxy of {proxy}: do they speak" if proxy else "api.url: is it"
        return ApiUnreachable(f"{url}: TLS cannot be agreed on", hint=f"Check {places} http:// there?")
    if isinstance(error, exceptions.ContentDecodingError | ValueError) and not isinstance(error, exceptions.Timeout):
        return ApiProtocolError(f"{method}: the answer cannot be decoded")
    if re.search("got more than|exceeded maximum", str(error)):
        return ApiProtocolError(f"{method}: the answer's headers are too long")
    why = reason(error)
    if not proxy:
        return ApiUnreachable(f"{url}: {why}", hint="Check api.url and the network.")
    if isinstance(error, exceptions.ConnectTimeout):
        why = "no connection to the proxy in time"
    named = why.replace("the proxy", f"the proxy of {proxy}")
    if named != why:
        return ApiUnreachable(f"{named}, on the way to {url}", hint=f"Check {proxy}.")
    return ApiUnreachable(f"{url}: {why}", hint=f"Check the network, the proxy of {proxy}, and api.url.")


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words without a URL."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke in mid-answer"
    text = re.sub(r"\S*(?:token=|\?)\S*", "…", str(error))
    for part, words in _KNOWN_REASONS:
        if part in text:
            return words
    return type(error).__name__


def refusal(description: Any, retry_after: float | None = None) -> ApiError:
    """The error for an answer with `ok: false`. The description may be of any type, since it comes from outside."""
    text = description if isinstance(description, str) else ""
    lower = text.lower()
    if "invalid token" in lower or "parameter 'token'" in lower:
        return Unauthorised("the Bot API refused the token", hint="Ask @metabot for the bot's token and set api.token.")
    if "ratelimit" in lower.replace(" ", "").replace("_", ""):
        return RateLimited("the Bot API asks to slow down", retry_after=retry_after)
    quoted = printable(text[:200], " ").strip()
    return ApiRefused(f"the Bot API refused the request: {quoted or 'no description'}")


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


class _TokenFilter(logging.Filter):
    """Removes the token from the HTTP library's log, which has every URL at level debug."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "token=" in text:
            record.msg, record.args = re.sub(r"token=[^&\s\"']*", "token=***", text), ()
        return True


_token_filter = _TokenFilter()
for _name in ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry"):
    logging.getLogger(_name).addFilter(_token_filter)
