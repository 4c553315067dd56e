"""What `vkteams_daemon.times` reads, and whole numbers, as types for argparse."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import TypeVar

from vkteams_daemon import times
from vkteams_daemon.errors import UsageError

Value = TypeVar("Value")


def _type(read: Callable[[str], Value]) -> Callable[[str], Value]:
    def parsed(text: str) -> Value:
        try:
            return read(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


since = _type(times.parse_since)
until = _type(times.parse_until)
age = _type(times.parse_age)


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
