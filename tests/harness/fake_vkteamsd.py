"""vkteamsd with a service that does what FAKE_SERVICE says, for tests of what surrounds the service.

`ready` (the default), `unreachable` (ready, though neither API nor database answers), `standby`, `refuse`, `crash`,
`fault`, `die`, `slow` (never ready until told to stop), `deaf` (never ready, and hears no TERM), `untold` (stops when
it has the lock and its starter does not know yet which process has), `thread` (leaves a thread that never ends).
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from vkteams_daemon.daemon.main import main
from vkteams_daemon.daemon.process import detach
from vkteams_daemon.errors import DatabaseUnavailable, VkTeamsError

log = logging.getLogger("fake")


class FakeService:
    def __init__(
        self,
        config: Any,
        status: Any,
        report: Any,
        *,
        reload: Any,
        apply: Any,
        toggle_debug: Any,
        alive: Any,
        group: Any = None,
    ) -> None:
        self.config, self.status, self.report = config, status, report
        self.reload, self.apply, self.toggle_debug = reload, apply, toggle_debug
        self.inbox: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.mode = os.environ.get("FAKE_SERVICE", "ready")

    def signal(self, signum: int, frame: FrameType | None = None) -> None:
        self.inbox.put(signum)

    def start(self) -> str:
        self.report()
        if self.mode == "refuse":
            raise DatabaseUnavailable(f"no database at {self.config.database.url}", hint="Start it.")
        if self.mode == "crash":
            raise ZeroDivisionError(f"division of {self.config.api.token} by zero")
        if self.mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mode == "fault":
            os.abort()
        if self.mode == "slow":
            signum = self.inbox.get()
            raise VkTeamsError(f"stopped by {signal.Signals(signum).name} before it was ready")
        if self.mode == "deaf":
            time.sleep(600)
        if self.mode == "thread":
            threading.Thread(target=time.sleep, args=(600,), daemon=False).start()
        if self.mode == "unreachable":
            self.status.api.state, self.status.database.state = "backoff", "down"
        self.status.state = "standby" if self.mode == "standby" else "listening"
        self.report()
        return "standby: another process listens to this bot" if self.mode == "standby" else ""

    def run(self) -> int:
        while True:
            try:
                signum = self.inbox.get(timeout=self.config.daemon.status_interval)
            except queue.Empty:
                self.report()
                continue
            log.info("fake service got %s", signal.Signals(signum).name)
            if signum in (signal.SIGTERM, signal.SIGINT):
                if self.mode == "thread":
                    return 0
                if os.environ.get("FAKE_STOP") == "never":
                    time.sleep(600)
                self.status.state = "stopping"
                self.report()
                return 0
            if signum == signal.SIGHUP:
                try:
                    self.config = self.reload()
                    self.apply(self.config)
                    log.info("read again")
                except VkTeamsError as error:
                    log.error("kept: %s", error)
            if signum == signal.SIGUSR1:
                self.status.events.saved += 1
                self.report()
            if signum == signal.SIGUSR2:
                log.debug("the level is now %s", self.toggle_debug())


class UntoldPipe(detach.Pipe):
    def running(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        super().running()


if __name__ == "__main__":
    detach.SILENCE = float(os.environ.get("SILENCE", detach.SILENCE))
    detach.END_TIMEOUT = float(os.environ.get("END_TIMEOUT", detach.END_TIMEOUT))
    if os.environ.get("FAKE_SERVICE") == "untold":
        detach.Pipe = UntoldPipe  # type: ignore[misc]
    sys.exit(main(service=FakeService))
