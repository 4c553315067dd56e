"""Types of arguments: each reads one word of the command line, and raises UsageError where it cannot.

The parser adds the name of the option to the error. `vkteams_daemon.times` has the types of moments and ages.
"""

from __future__ import annotations

import re

from vkteams_daemon.errors import UsageError


def positive(text: str) -> int:
    """A whole number from 1 to 999,999,999."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise UsageError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def event_id(text: str) -> int:
    """A whole number from 0 on."""
    if not re.fullmatch(r"[0-9]+", text):
        raise UsageError(f"{text!r} is not an event id")
    return int(text)


def port(text: str) -> int:
    """A TCP port; 0 stands for a free one."""
    if not re.fullmatch(r"[0-9]+", text) or int(text) > 65535:
        raise UsageError(f"{text!r} is not a port")
    return int(text)


def address(text: str) -> tuple[str, int]:
    """HOST:PORT; an IPv6 address may stand in brackets."""
    host, colon, number = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not re.fullmatch(r"[0-9]+", number) or int(number) > 65535:
        raise UsageError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:8080")
    return host, int(number)


def interval(text: str) -> float:
    """Seconds from 0.1 to 3600."""
    seconds = _decimal(text)
    if not 0.1 <= seconds <= 3600:
        raise UsageError(f"{text!r} is not a number of seconds from 0.1 to 3600")
    return seconds


def rate(text: str) -> float:
    """Events a second, above 0 and at most 100,000."""
    events = _decimal(text)
    if not 0 < events <= 100_000:
        raise UsageError(f"{text!r} is not a number of events a second")
    return events


def _decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
