"""Waits until nothing stands in the daemon's spool that an erasure would miss."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vkteams_daemon.config import Config
from vkteams_daemon.errors import ErasureRefused, PermissionRefused

if TYPE_CHECKING:
    from vkteams_daemon.botapi.events import Event

_WAIT = 20.0  # seconds in which a running daemon should have stored what waits in its spool
_INTERVAL = 0.2  # seconds between two looks at the spool


@dataclass(frozen=True, slots=True)
class SpoolCounts:
    """What waits in the daemon's spool: all events, and those that the erasure would take if they were stored."""

    events: int
    concerned: int


def count(config: Config, concerns: Callable[[Event], bool]) -> SpoolCounts:
    """Count what waits in the spools of this host, and what of it an erasure concerns.

    Raises:
        PermissionRefused: this user may not read the spool.
    """
    from vkteams_daemon.daemon.polling.spool import read_waiting

    events = concerned = 0
    try:
        for event in read_waiting(config.state_dir):
            events += 1
            concerned += concerns(event)
    except OSError as error:
        raise PermissionRefused(
            f"the spool in {config.state_dir} cannot be read: {error.strerror}",
            hint="What waits there may have to be erased too: run this as root or as the daemon's user.",
        ) from error
    return SpoolCounts(events, concerned)


def wait(config: Config, concerns: Callable[[Event], bool], which: str) -> SpoolCounts:
    """Wait until nothing waits in the spool that the erasure would miss.

    Args:
        config: the daemon's.
        concerns: whether the erasure concerns an event.
        which: what these events are, for the error: "about them", for example.

    Raises:
        ErasureRefused: nobody stores it.
    """
    deadline = time.monotonic() + _WAIT
    while True:
        spool = count(config, concerns)
        if not spool.concerned:
            return spool
        if time.monotonic() >= deadline:
            raise ErasureRefused(
                f"nothing is erased: {spool.concerned} of {spool.events} events in the spool in {config.state_dir} are"
                f" {which}, and would come into the archive after the erasure",
                hint="Start vkteamsd, which stores them, and run this again.",
            )
        time.sleep(_INTERVAL)
