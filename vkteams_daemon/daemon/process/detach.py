"""Starts the daemon: the starter forks, waits for one verdict through a pipe, and exits with it.

The pipe is made before the fork, so no verdict can be missed. It carries one JSON object per line: `{"pid": N}` when
the daemon has its lock, `{"alive": true}` every few seconds while it starts, then either `{"ready": true, "note": ""}`
or `{"error", "hint", "exit_code", "trace"}`. After an error the starter waits for the end of the pipe, which is the end
of the daemon's process. If the pipe ends without a verdict, the daemon has died. If nothing comes for SILENCE seconds,
the daemon is stopped or hangs, and the starter ends it. DaemonContext detaches the daemon, in the child.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from vkteams_daemon.errors import NotRunning, VkTeamsError

SILENCE = 60.0  # seconds without a message after which a daemon that is starting is taken for a stopped one
END_TIMEOUT = 8.0  # seconds; then the starter, told to stop, kills a daemon that is not ready yet
_CHILD_TIMEOUT = 5.0  # seconds; then the starter kills its child that has not forked the daemon
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a start.

    Attributes:
        exit_code: the starter's.
        note: a remark about a daemon that runs, or "".
        error: why the daemon does not run, or "".
        hint: what to do about the error.
        trace: the error's traceback under VKTEAMS_DEBUG=1.
    """

    exit_code: int
    note: str = ""
    error: str = ""
    hint: str = ""
    trace: str = ""


class Pipe:
    """The daemon's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._mutex = threading.Lock()  # a thread says that the daemon lives, while another one gives the verdict

    def running(self) -> None:
        """Tell the starter that this process is the daemon and holds the lock.

        Raises:
            VkTeamsError: the starter has ended and does not wait for this daemon any more.
        """
        try:
            self._send({"pid": os.getpid()})
        except OSError as error:
            raise VkTeamsError("the process that started this daemon did not wait for it") from error

    def alive(self) -> None:
        """Tell the starter that the start goes on. A starter that does not read is not waited for."""
        with self._mutex:
            if self.descriptor >= 0 and select.select([], [self.descriptor], [], 0)[1]:
                with contextlib.suppress(OSError):
                    self._send({"alive": True})

    def ready(self, note: str) -> None:
        """Send the verdict of a good start, and close the pipe."""
        with self._mutex:
            self._verdict({"ready": True, "note": note})
            if self.descriptor >= 0:
                os.close(self.descriptor)
                self.descriptor = -1

    def failed(self, sentence: str, hint: str, exit_code: int, trace: str = "") -> None:
        """Send the verdict of a failed start. The kernel closes the pipe when the process ends."""
        with self._mutex:
            self._verdict({"error": sentence, "hint": hint, "exit_code": exit_code, "trace": trace})

    def _verdict(self, message: dict[str, Any]) -> None:
        if self.descriptor >= 0:
            with contextlib.suppress(OSError):  # the daemon goes on, even if the starter was killed meanwhile
                self._send(message)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.descriptor, data) :]


class Interrupted(Exception):
    """A signal told the starter to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def start(daemon: Callable[[Pipe], int], *, log_file: Path, clean_up: Callable[[], None]) -> Verdict:
    """Run `daemon` in a child of this process, and wait until it is ready or has failed.

    Args:
        daemon: opens the DaemonContext, sends the verdict, and returns the process's exit code. It must raise nothing.
        log_file: for the hint, if the daemon dies without a verdict.
        clean_up: called after the daemon had to be killed.

    A daemon that shows no life is ended, too.
    """
    # The daemon works in /. Its later imports must not depend on the working directory.
    sys.path[:] = [str(Path(entry or ".").absolute()) for entry in sys.path]
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads before the fork: they would be missing in the daemon"
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with _interruptible() as unblock_signals:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _run_child(daemon, Pipe(writing))
        os.close(writing)
        reader = _VerdictReader(reading, log_file)
        try:
            unblock_signals()
            verdict = reader.verdict()
            if verdict is None:
                verdict = Verdict(
                    NotRunning.exit_code,
                    error=f"the daemon has shown no sign of life for {SILENCE:g} s while it started, and was ended",
                    hint=f"Something stopped it, or a disk or the network hangs. Its log is {log_file}.",
                )
                if not reader.end_daemon():
                    clean_up()
            return verdict
        except Interrupted as interruption:
            if not reader.end_daemon():
                clean_up()  # a killed daemon leaves its PID file behind
            name = signal.Signals(interruption.signum).name
            return Verdict(128 + interruption.signum, error=f"stopped by {name} before the daemon was ready")
        finally:
            os.close(reading)
            _reap(child)


def _reap(child: int) -> None:
    """Wait for the child, which exits as soon as it has forked the daemon; kill it if it does not."""
    deadline = time.monotonic() + _CHILD_TIMEOUT
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return
            time.sleep(0.02)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], None]]:
    """Turn stop signals into Interrupted. They stay blocked until the yielded function is called, after the fork."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - set(_STOP_SIGNALS))

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    old_handlers = {
        # A signal that nohup ignores stays ignored.
        signum: signal.signal(signum, interrupt)
        for signum in _STOP_SIGNALS
        if signal.getsignal(signum) != signal.SIG_IGN
    }
    try:
        yield unblock
    finally:
        for signum, handler in old_handlers.items():
            signal.signal(signum, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _run_child(daemon: Callable[[Pipe], int], pipe: Pipe) -> NoReturn:
    """Run the daemon in the child and end the process. It must never return into the starter's code."""
    code = VkTeamsError.exit_code
    try:
        for signum in (*_STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        code = daemon(pipe)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class _VerdictReader:
    """The starter's end of the pipe."""

    def __init__(self, descriptor: int, log_file: Path) -> None:
        self._descriptor = descriptor
        self._log_file = log_file
        self._buffer = b""
        self._ended = False  # whether nobody holds the other end any more
        self._daemon: int | None = None  # a pidfd; unlike a pid, it never names another process

    def verdict(self) -> Verdict | None:
        """Wait for the verdict, however long the daemon takes; None if it shows no life any more."""
        while True:
            message = self._next_message(time.monotonic() + SILENCE)
            if message is None and not self._ended:
                return None
            if message is None:
                return Verdict(
                    VkTeamsError.exit_code,
                    error="the daemon died before it was ready",
                    hint=f"Its log is {self._log_file}.",
                )
            if "error" in message:
                self._wait_end()
                return Verdict(
                    message["exit_code"], error=message["error"], hint=message["hint"], trace=message["trace"]
                )
            if "ready" in message:
                return Verdict(0, note=message["note"])

    def _wait_end(self) -> None:
        """Wait for the end of a daemon that has failed: whoever reads the verdict may start another one at once."""
        deadline = time.monotonic() + END_TIMEOUT
        while self._next_message(deadline) is not None:
            pass

    def end_daemon(self) -> bool:
        """Stop the daemon that is starting; false if it had to be killed."""
        deadline = time.monotonic() + END_TIMEOUT
        while self._daemon is None:
            if self._next_message(deadline) is None:
                # It may have been stopped before it told which process it is. It holds the pipe then.
                if not self._ended:
                    self._daemon = self._find_daemon()
                if self._daemon is None:
                    return True  # the process died, or never got the lock
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._daemon, signal.SIGTERM)
        with contextlib.suppress(Interrupted):  # a second stop signal ends the wait
            if select.select([self._daemon], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._daemon, signal.SIGKILL)
        select.select([self._daemon], [], [])
        return False

    def _find_daemon(self) -> int | None:
        """A pidfd of the process that holds the other end of the pipe; None if there is none."""
        pipe = f"pipe:[{os.fstat(self._descriptor).st_ino}]"
        for process in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                other = process.name.isdigit() and int(process.name) != os.getpid()
                if other and any(str(file.readlink()) == pipe for file in (process / "fd").iterdir()):
                    return os.pidfd_open(int(process.name))
        return None

    def _next_message(self, deadline: float) -> dict[str, Any] | None:
        """The next line of the pipe; None at its end, or at the deadline."""
        while b"\n" not in self._buffer:
            timeout = max(0.0, deadline - time.monotonic())
            if not select.select([self._descriptor], [], [], timeout)[0]:
                return None
            data = os.read(self._descriptor, 65536)
            if not data:
                self._ended = True
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "pid" in message and self._daemon is None:
            with contextlib.suppress(ProcessLookupError):  # the daemon has died; the end of the pipe tells that
                self._daemon = os.pidfd_open(message["pid"])
        return message
