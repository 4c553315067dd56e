"""Moments and whole numbers as types for argparse."""

from __future__ import annotations

import argparse
import re
from datetime import datetime, timedelta

from vkteams_daemon import moments
from vkteams_daemon.errors import UsageError


def since(text: str, now: datetime | None = None) -> datetime:
    """The moment from which on; see `vkteams_daemon.moments.since`.

    Raises:
        argparse.ArgumentTypeError: it is no moment.
    """
    try:
        return moments.since(text, now)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def until(text: str, now: datetime | None = None) -> datetime:
    """The moment before which; see `vkteams_daemon.moments.until`.

    Raises:
        argparse.ArgumentTypeError: it is no moment.
    """
    try:
        return moments.until(text, now)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def age(text: str) -> timedelta:
    """A span of time; see `vkteams_daemon.moments.age`.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        return moments.age(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)
