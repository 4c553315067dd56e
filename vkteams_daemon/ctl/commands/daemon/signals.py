"""The process that holds the PID file's lock, and signals to it.

A signal goes through a descriptor of the process (pidfd), never to a number: another program may have got the number
since. It goes only to a process that is proven to be vkteamsd (`pidfile_holder.doubt`). The init script, the package's
scripts and logrotate call vkteamsctl, so each of their signals passes here too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.process.pidfile_holder import doubt, find_holder
from vkteams_daemon.errors import DaemonUnproven, NotRunning, PermissionRefused
from vkteams_daemon.system.processes import alive

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
    """The vkteamsd that holds the lock, for a `with` block.

    Raises:
        NotRunning: no process holds it.
        DaemonUnproven: the process that holds it is not proven to be vkteamsd.
        PermissionRefused: the holder is in another PID namespace, or this user may not look at it.
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
        try:
            # The descriptor is open before `doubt` asks, and the holder is looked up again after it. So the answer is
            # about the descriptor's process.
            try:
                reason = doubt(config.pid_file, process.pid)
            except PermissionRefused:
                if alive(descriptor):
                    raise
                continue
            if find_holder(config.pid_file) != process or not alive(descriptor):
                continue
            if reason is not None:
                raise DaemonUnproven(
                    f"process {process.pid} holds {config.pid_file} and is not proven to be vkteamsd: {reason}",
                    hint="It gets no signal. If it is vkteamsd, end it by hand.",
                )
            yield RunningDaemon(process.pid, descriptor)
            return
        finally:
            os.close(descriptor)
    raise NotRunning("vkteamsd is not running", hint=f"No process holds {config.pid_file}.")


def send_signal(config: Config, signum: signal.Signals) -> int:
    """Send a signal to the daemon; its pid. Errors are those of `running_daemon` and `RunningDaemon.send`."""
    with running_daemon(config) as daemon:
        daemon.send(signum)
        return daemon.pid
