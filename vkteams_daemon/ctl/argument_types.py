"""Types of arguments: each reads one word of the command line, and raises UsageError if it cannot.

The parser adds the name of the option to the error. `vkteams_daemon.times` has the type of ages.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from vkteams_daemon import times
from vkteams_daemon.errors import UsageError, quoted


@dataclass(frozen=True, slots=True)
class WrittenTime:
    """A time as it was typed. It is read when the configuration, and with it the person's time zone, is known."""

    text: str
    parse: Callable[[str], datetime]

    def longer(self, words: Sequence[str]) -> Iterator[str]:
        """The texts that are a time with some of these words behind them, the longest first: quotes are missing."""
        for count in range(min(len(words), 5), 0, -1):
            text = " ".join([self.text, *words[:count]])
            with contextlib.suppress(UsageError):
                self.parse(text)
                yield text

    def read(self) -> datetime:
        """The moment in UTC."""
        return self.parse(self.text)


def since(text: str) -> WrittenTime:
    """A time; of a span its beginning."""
    times.parse_since(text)
    return WrittenTime(text, times.parse_since)


def until(text: str) -> WrittenTime:
    """A time; of a span its end."""
    times.parse_until(text)
    return WrittenTime(text, times.parse_until)


def read_times(args: argparse.Namespace) -> None:
    """Read every time of the command line, in the person's zone.

    Raises:
        UsageError: a text names no time there, or several, such as an hour that the clocks show twice.
    """
    for name, value in vars(args).items():
        if isinstance(value, WrittenTime):
            try:
                setattr(args, name, value.read())
            except UsageError as error:
                raise UsageError(f"--{name}: {error}") from error


def positive(text: str) -> int:
    """A whole number from 1 to 999,999,999."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise UsageError(f"{quoted(text)} is not a whole number from 1 on")
    return int(text)


def event_id(text: str) -> int:
    """A whole number from 0 on that fits into 64 bits, as every event id that moves the cursor does."""
    if not re.fullmatch(r"[0-9]{1,19}", text) or int(text) >= 1 << 63:
        raise UsageError(f"{quoted(text)} is not an event id")
    return int(text)


def port(text: str) -> int:
    """A TCP port; 0 stands for a free one."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise UsageError(f"{quoted(text)} is not a port")
    return int(text)


def address(text: str) -> tuple[str, int]:
    """HOST:PORT; an IPv6 address may stand in brackets."""
    host, colon, number = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not re.fullmatch(r"[0-9]{1,5}", number) or int(number) > 65535:
        raise UsageError(f"{quoted(text)} is not HOST:PORT, such as 127.0.0.1:8080")
    return host, int(number)


def interval(text: str) -> float:
    """Seconds from 0.1 to 3600."""
    return _decimal(text, 0.1, 3600, "seconds")


def timeout(text: str) -> float:
    """Seconds from 0 to 86400."""
    return _decimal(text, 0, 86400, "seconds")


def rate(text: str) -> float:
    """Events a second, from 0.001 to 100,000."""
    return _decimal(text, 0.001, 100_000, "events a second")


def _decimal(text: str, least: float, most: float, unit: str) -> float:
    """A decimal number within these limits; neither nan nor infinity is one."""
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{0,12})?|\.[0-9]{1,12}", text) and least <= float(text) <= most:
        return float(text)
    raise UsageError(f"{quoted(text)} is not a number of {unit} from {least:g} to {most:g}")
