"""Reports the daemon's state to the service manager, by systemd's protocol (sd_notify(3)): one datagram per report."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping


class Notify:
    """Sends reports to the socket that NOTIFY_SOCKET names. Without that variable it does nothing.

    Args:
        environ: os.environ. The variable is removed from it, because a bundled PostgreSQL must not report in our name.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.pop("NOTIFY_SOCKET", "")
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):  # they name the starter, not the daemon
            environ.pop(name, None)

    def alive(self) -> None:
        """Every loop goes on. A manager with a watchdog restarts a daemon that has not said so for too long."""
        self._send("WATCHDOG=1")

    def ready(self, note: str) -> None:
        """The daemon is ready; `note` is its remark about the start, or ""."""
        self._send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={_line(note) or 'listening'}")

    def reloading(self) -> None:
        """The configuration is being read again; `reloaded` must follow."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        """The configuration has been read again, or kept as it was."""
        self._send("READY=1")

    def stopping(self) -> None:
        """The daemon has been told to stop. Safe in a signal handler."""
        self._send("STOPPING=1", "STATUS=stopping")

    def _send(self, *assignments: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # A manager that has ended, or whose queue is full, must not block the daemon.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.setblocking(False)
            end.sendto("\n".join(assignments).encode(), address)


def _line(text: str) -> str:
    return " ".join(text.split())
