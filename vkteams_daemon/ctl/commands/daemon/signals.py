"""The process that holds the PID file's lock, and signals to it.

A signal goes through a descriptor of the process (pidfd), never to a number: another program may have got the number
since.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.process.holder import find_holder
from vkteams_daemon.errors import NotRunning, PermissionRefused

_ATTEMPTS = 10  # to open the holder before another process takes its place


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A daemon by its pid and an open descriptor of its process."""

    pid: int
    pidfd: int

    def send(self, signum: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended meanwhile.

        Raises:
            PermissionRefused: the process belongs to another user.
        """
        try:
            signal.pidfd_send_signal(self.pidfd, signum)
        except PermissionError as error:
            raise PermissionRefused(
                f"process {self.pid} belongs to another user", hint="Become root, or the user that it runs as."
            ) from error
        except ProcessLookupError:
            pass

    def wait(self, timeout: float | None) -> bool:
        """Whether the process ends within so many seconds; None waits without a limit."""
        return bool(select.select([self.pidfd], [], [], timeout)[0])


@contextlib.contextmanager
def running_daemon(config: Config) -> Iterator[RunningDaemon]:
    """The process that holds the lock, for a `with` block.

    Raises:
        NotRunning: no process holds it.
        PermissionRefused: the holder is in another PID namespace.
    """
    for _ in range(_ATTEMPTS):
        process = find_holder(config.pid_file)
        if process is None:
            break
        if process.pid is None:
            raise PermissionRefused(
                f"the daemon that holds {config.pid_file} cannot be seen from here",
                hint="It runs in a container; call vkteamsctl there.",
            )
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        # Asked again after opening: if the holder is still the same, the descriptor is the holder's.
        if find_holder(config.pid_file) == process:
            try:
                yield RunningDaemon(process.pid, descriptor)
            finally:
                os.close(descriptor)
            return
        os.close(descriptor)
    raise NotRunning("vkteamsd is not running", hint=f"No process holds {config.pid_file}.")


def send_signal(config: Config, signum: signal.Signals) -> int:
    """Send a signal to the daemon; its pid. Errors are those of `running_daemon` and `RunningDaemon.send`."""
    with running_daemon(config) as daemon:
        daemon.send(signum)
        return daemon.pid
