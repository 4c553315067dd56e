"""Becoming a daemon: the starter forks, waits for one verdict through a pipe, and exits with it.

The pipe is older than the fork, so no verdict can be missed: `{"pid": N}` once the daemon has its lock, then either
`{"ready": true, "note": "..."}` or `{"error", "hint", "exit_code"}`, one JSON object a line. The end of the pipe
without a verdict means that the daemon died. DaemonContext does the detachment itself, in the child.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from vkteams_daemon.errors import VkTeamsError

END_TIMEOUT = 8.0  # seconds an unready daemon has to end by itself when its starter is told to stop
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the start went.

    Attributes:
        exit_code: what the starter exits with.
        note: what there is to say about a daemon that runs.
        error: the sentence about one that does not, and `hint` what to do.
        trace: its traceback, where one was asked for.
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

    def running(self) -> None:
        """This process is the daemon: it holds the lock.

        Raises:
            VkTeamsError: the starter has gone, and nobody waits for this daemon any more.
        """
        try:
            self._send({"pid": os.getpid()})
        except OSError as error:
            raise VkTeamsError("whoever started this daemon did not wait for it") from error

    def ready(self, note: str) -> None:
        """The verdict of a good start."""
        self._verdict({"ready": True, "note": note})

    def failed(self, sentence: str, hint: str, exit_code: int, trace: str = "") -> None:
        """The verdict of a failed one."""
        self._verdict({"error": sentence, "hint": hint, "exit_code": exit_code, "trace": trace})

    def _verdict(self, message: dict[str, Any]) -> None:
        if self.descriptor < 0:
            return
        with contextlib.suppress(OSError):  # a starter that was killed is no reason to stop now
            self._send(message)
        os.close(self.descriptor)
        self.descriptor = -1

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self.descriptor, data) :]


class Interrupted(Exception):
    """A signal told the starter to stop waiting."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def start(daemon: Callable[[Pipe], int], *, log_file: Path, clean_up: Callable[[], None]) -> Verdict:
    """Run `daemon` in a child of this process, and wait until it is ready or has failed.

    Args:
        daemon: opens the DaemonContext, sends the verdict, and returns the process's exit code. It must raise nothing.
        log_file: named where the daemon dies without a word.
        clean_up: called when an interrupted start had to be killed.
    """
    # What a daemon imports after it has moved to / must still be found.
    sys.path[:] = [str(Path(entry or ".").absolute()) for entry in sys.path]
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads before the fork: they would be missing in the daemon"
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with _told_to_stop() as let_signals_in:
        child = os.fork()
        if child == 0:
            os.close(reading)
            _become(daemon, Pipe(writing))
        os.close(writing)
        waiting = _Waiting(reading, log_file)
        try:
            let_signals_in()
            return waiting.verdict()
        except Interrupted as interruption:
            if not waiting.end_daemon():
                clean_up()  # it could not do so itself
            name = signal.Signals(interruption.signum).name
            return Verdict(128 + interruption.signum, error=f"stopped by {name} before the daemon was ready")
        finally:
            os.close(reading)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)  # it exits as soon as it has forked the daemon


@contextlib.contextmanager
def _told_to_stop() -> Iterator[Callable[[], None]]:
    """Turn signals into Interrupted; they are held back until the yielded function is called, for the child's sake."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    def let_in() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask - set(_ENDINGS))

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    before = {
        # nohup's choice stays.
        signum: signal.signal(signum, interrupt)
        for signum in _ENDINGS
        if signal.getsignal(signum) != signal.SIG_IGN
    }
    try:
        yield let_in
    finally:
        for signum, action in before.items():
            signal.signal(signum, action)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become(daemon: Callable[[Pipe], int], pipe: Pipe) -> NoReturn:
    """The child's whole life. It never returns into the frames of the program that it was forked from."""
    code = VkTeamsError.exit_code
    try:
        for signum in (*_ENDINGS, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        code = daemon(pipe)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class _Waiting:
    """The starter's end of the pipe."""

    def __init__(self, descriptor: int, log_file: Path) -> None:
        self._descriptor = descriptor
        self._log_file = log_file
        self._buffer = b""
        self._daemon: int | None = None  # a pidfd: it stays the daemon's, whatever becomes of its number

    def verdict(self) -> Verdict:
        """Wait for it, however long the daemon takes."""
        while True:
            message = self._next(None)
            if message is None:
                return Verdict(
                    VkTeamsError.exit_code,
                    error="the daemon died before it was ready",
                    hint=f"Its log is {self._log_file}.",
                )
            if "error" in message:
                return Verdict(
                    message["exit_code"], error=message["error"], hint=message["hint"], trace=message["trace"]
                )
            if "ready" in message:
                return Verdict(0, note=message["note"])

    def end_daemon(self) -> bool:
        """Stop the daemon that is on its way; false where it had to be killed."""
        deadline = time.monotonic() + END_TIMEOUT
        while self._daemon is None:
            if self._next(deadline) is None:
                return True  # it died, or never became one
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._daemon, signal.SIGTERM)
        with contextlib.suppress(Interrupted):  # told a second time, the starter waits no longer
            if select.select([self._daemon], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._daemon, signal.SIGKILL)
        select.select([self._daemon], [], [])
        return False

    def _next(self, deadline: float | None) -> dict[str, Any] | None:
        """The next line of the pipe; None at its end, or at the deadline."""
        while b"\n" not in self._buffer:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._descriptor], [], [], left)[0]:
                return None
            piece = os.read(self._descriptor, 65536)
            if not piece:
                return None
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        if "pid" in message and self._daemon is None:
            with contextlib.suppress(ProcessLookupError):  # it has died since; the end of the pipe says so
                self._daemon = os.pidfd_open(message["pid"])
        return message
