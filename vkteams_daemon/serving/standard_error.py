"""Standard error that never blocks: neither its reader nor the disk behind it stops the server or breaks a call."""

from __future__ import annotations

import atexit
import io
import os
import queue
import sys
import threading
from typing import NoReturn

_MAX_WAITING = 1000  # texts; further ones are lost, and counted
_END_TIMEOUT = 1.0  # seconds for what waits when the process ends


class StandardError(io.TextIOBase):
    """A text stream; a thread of its own writes the text to descriptor 2."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._lost = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._write_waiting, name="standard-error", daemon=True)
        self._thread.start()
        atexit.register(self.end)

    def writable(self) -> bool:
        """It takes text."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return 2

    def write(self, text: str) -> int:
        """Take the text, at once. If too much waits already, it is lost, and a later line says how many were."""
        try:
            self._waiting.put_nowait(text)
        except queue.Full:
            self._count_lost()
        return len(text)

    def end(self) -> None:
        """Wait until everything is written, for a second at most."""
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(_END_TIMEOUT)

    def _write_waiting(self) -> None:
        while (text := self._waiting.get()) is not None:
            with self._counting:
                lost, self._lost = self._lost, 0
            if lost:
                # The last line may have been cut in the middle.
                text = f"\n{lost} lines were lost here, because standard error took no more\n{text}"
            rest = text.encode("utf-8", "backslashreplace")
            try:
                while rest:
                    rest = rest[os.write(2, rest) :]
            except OSError:  # the reader has gone, or the disk is full
                self._count_lost(lost + 1)

    def _count_lost(self, lines: int = 1) -> None:
        with self._counting:
            self._lost += lines


def end_process(code: int) -> NoReturn:
    """End the process at once: threads that wait for something would keep it alive. What was logged is written."""
    if isinstance(sys.stderr, StandardError):
        sys.stderr.end()
    os._exit(code)
