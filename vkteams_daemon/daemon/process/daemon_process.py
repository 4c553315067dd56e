"""The daemon as a process, from the opening of DaemonContext to the exit code.

The order matters: DaemonContext first (user, directory, descriptors, signals, PID file), then the log, then the heavy
imports and everything that starts a thread. A thread or connection from before the double fork would not survive it.
"""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import daemon

from vkteams_daemon import __version__
from vkteams_daemon.config import Config
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.daemon.process import privileges
from vkteams_daemon.daemon.process.detach import Pipe
from vkteams_daemon.daemon.process.notify import Notify
from vkteams_daemon.daemon.process.pidfile import PidFile
from vkteams_daemon.daemon.process.settings import Settings
from vkteams_daemon.errors import StoppedEarly, VkTeamsError
from vkteams_daemon.secret_exposure import exposed_files
from vkteams_daemon.system import garbage
from vkteams_daemon.system.log import Log
from vkteams_daemon.system.user import Owner

log = logging.getLogger(__name__)

UMASK = 0o027
CLOSE_LIMIT = 0.5  # seconds for the removal of the PID file
LEAVE_LIMIT = 0.3  # seconds for it after the second TERM


class Signals:
    """The handler of every signal, installed by DaemonContext. It keeps the signals that come before the service."""

    def __init__(self, notify: Notify, leave: Callable[[], None]) -> None:
        self._notify = notify
        self._leave = leave
        self._early: list[int] = []
        self._service: Callable[[int, FrameType | None], None] | None = None
        self._endings = 0

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Record the signal, or pass it to the service; the second TERM or INT ends the process at once."""
        if signum in (signal.SIGTERM, signal.SIGINT):
            self._endings += 1
            if self._endings > 1:
                self._leave()
            self._notify.stopping()
        if self._service is None:
            self._early.append(signum)
        else:
            self._service(signum, frame)

    def hand_over(self, service: Callable[[int, FrameType | None], None]) -> None:
        """Pass the early signals to the service, and every later one too."""
        while self._early:
            service(self._early.pop(0), None)
        self._service = service
        while self._early:  # a signal that came before the assignment
            service(self._early.pop(0), None)


class DaemonProcess:
    """The daemon's process. The starter makes the object; the daemon runs it.

    Args:
        config: in force, with absolute paths.
        settings: reads the configuration again on HUP.
        owner: the user to run as.
        notify: reports to the service manager.
        service: makes the service; daemon.service.Service if None.
    """

    def __init__(
        self,
        config: Config,
        settings: Settings,
        owner: Owner,
        notify: Notify,
        service: Callable[..., Any] | None = None,
    ) -> None:
        self._config = config
        self._settings = settings
        self._owner = owner
        self._notify = notify
        self._make_service = service
        self._program = privileges.program_directories()
        self._pid_file = PidFile(config.pid_file)
        self._signals = Signals(notify, self._leave)
        self._log: Log | None = None
        self._foreground = False

    def run_detached(self, pipe: Pipe) -> int:
        """Detach and run; returns the exit code.

        Raises:
            VkTeamsError: the daemon could not start; it has removed its PID file.
        """
        context = self._context(detach_process=True, files_preserve=[pipe.descriptor])
        with self._open(context):
            pipe.running()
            return self._run(pipe.ready, pipe.alive)

    def run_in_foreground(self) -> int:
        """Run without detaching, on the terminal's streams; returns the exit code. Raises as `run_detached`."""
        self._foreground = True
        context = self._context(
            detach_process=False, stdin=sys.stdin, stdout=sys.stdout, stderr=sys.stderr, files_preserve=_own_files()
        )
        with self._open(context):
            try:
                return self._run(lambda note: log.info("ready%s", f" ({note})" if note else ""))
            except StoppedEarly:
                return 0  # the stop was wanted, and no starter waits for a verdict

    def log_failure(self, error: BaseException) -> None:
        """Log why the daemon ends, if the log is open already."""
        if self._log is not None:
            expected = isinstance(error, VkTeamsError)
            log.error("the daemon ends: %s", error, exc_info=None if expected else error)

    def _context(self, **settings: Any) -> Any:
        handled = dict.fromkeys(
            (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2), self._signals
        )
        ignored = () if self._foreground else (signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP)
        return daemon.DaemonContext(
            working_directory="/",
            umask=UMASK,
            uid=self._owner.uid,
            gid=self._owner.gid,
            initgroups=self._owner.impersonated,
            prevent_core=True,
            pidfile=self._pid_file,
            signal_map={**handled, **dict.fromkeys(ignored)},
            **settings,
        )

    @contextlib.contextmanager
    def _open(self, context: Any) -> Any:
        try:
            if self._owner.impersonated:
                os.setgid(self._owner.gid)  # with initgroups, DaemonContext sets only the supplementary groups
            context.open()
        except daemon.daemon.DaemonError as error:
            raise VkTeamsError(f"cannot become a daemon: {error}") from error
        try:
            yield
        finally:
            # The removal of the PID file may hang with its disk, and a stop must end all the same.
            thread = threading.Thread(target=context.close, name="close", daemon=True)
            thread.start()
            thread.join(CLOSE_LIMIT)

    def _run(self, announce: Callable[[str], None], starting: Callable[[], None] = lambda: None) -> int:
        """Run the service until it ends.

        Args:
            announce: called with the note of a good start.
            starting: called every few seconds while the service goes on; after `announce` it must do nothing.
        """
        config = self._config
        privileges.adopt_home(self._owner, os.environ)
        privileges.check_access(config, self._owner, self._program, log=not self._foreground)
        self._log = logs = Log(config, foreground=self._foreground)
        with contextlib.suppress(OSError, ValueError):
            faulthandler.enable(2)
        status = status_file.new(__version__, config.daemon.role)
        group = privileges.status_group(self._owner)

        def report() -> None:
            privileges.restore_directories(config)
            self._pid_file.restore()
            status_file.write(status, config.status_file, group=group)

        def alive() -> None:
            starting()
            self._notify.alive()

        service = self._service_factory()(
            config,
            status,
            report,
            reload=self._reload,
            apply=logs.apply,
            toggle_debug=logs.toggle_debug,
            alive=alive,
            group=group,
        )
        self._signals.hand_over(service.signal)
        for sentence in (*exposed_files(config), *privileges.exposed_directories(config)):
            log.warning("%s", sentence)
        log.info("vkteamsd %s starts as process %d, user %s", __version__, os.getpid(), self._owner.name)
        note = "; ".join(part for part in (service.start(), logs.note) if part)
        garbage.exempt_present()
        garbage.collect_rarely()
        announce(note)
        self._notify.ready(note)
        code: int = service.run()
        return code

    def _service_factory(self) -> Callable[..., Any]:
        if self._make_service is not None:
            return self._make_service
        from vkteams_daemon.daemon.service import Service

        return Service

    def _reload(self) -> Config:
        logs = self._log
        assert logs is not None
        self._notify.reloading()
        try:
            logs.reopen()
            config = self._settings.read_again()
            logs.secrets.learn(config)  # before the first use of a new token, which may log it
            return config
        finally:
            self._notify.reloaded()

    def _leave(self) -> None:
        """End the process now, without waiting for threads. The PID file is removed, unless its disk hangs."""

        def remove() -> None:
            with contextlib.suppress(Exception):
                self._pid_file.__exit__()
            removed.release()

        # This is a signal handler: the main thread may be holding a lock of `threading`, so no Thread is made here.
        removed = _thread.allocate_lock()
        removed.acquire()
        with contextlib.suppress(RuntimeError):
            _thread.start_new_thread(remove, ())
            removed.acquire(timeout=LEAVE_LIMIT)
        os._exit(0)


def _own_files() -> list[int]:
    """The descriptors that this process has opened itself, not inherited.

    DaemonContext must not close them in the foreground, because the calling code goes on afterwards. Python, for
    example, keeps the script open while it runs it.
    """
    own = []
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself is closed by now
            if not os.get_inheritable(int(entry.name)):
                own.append(int(entry.name))
    return own
