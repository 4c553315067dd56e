"""Text that a thread of its own writes: neither a reader that has stopped nor a full disk holds up who wrote it."""

from __future__ import annotations

import atexit
import io
import queue
import threading
from collections.abc import Callable

_MAX_WAITING = 1000  # texts; further ones are lost, and counted
_END_TIMEOUT = 1.0  # seconds for what waits when the process ends


class BackgroundText(io.TextIOBase):
    """A text stream whose `write` returns at once.

    Args:
        put: writes bytes and returns how many it took; called in the thread alone.
        lost: the text that stands for so many lost ones.
        name: of the thread.
        idle: called in the thread after each hour without a text.
    """

    def __init__(
        self,
        put: Callable[[bytes], int],
        lost: Callable[[int], str],
        name: str,
        *,
        idle: Callable[[], None] | None = None,
        idle_interval: float = 3600.0,
    ) -> None:
        self._put = put
        self._lost_text = lost
        self._idle = idle
        self._idle_interval = idle_interval if idle else None
        self._waiting: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._lost = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._write_waiting, name=name, daemon=True)
        self._thread.start()
        atexit.register(self.end)

    def writable(self) -> bool:
        """It takes text."""
        return True

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
        while True:
            try:
                text = self._waiting.get(timeout=self._idle_interval)
            except queue.Empty:
                if self._idle:
                    self._idle()
                continue
            if text is None:
                return
            with self._counting:
                lost, self._lost = self._lost, 0
            if lost:
                text = f"{self._lost_text(lost)}{text}"
            rest = text.encode("utf-8", "backslashreplace")
            try:
                while rest:
                    rest = rest[self._put(rest) :]
            except OSError:  # the reader has gone, or the disk is full
                self._count_lost(lost + 1)

    def _count_lost(self, lines: int = 1) -> None:
        with self._counting:
            self._lost += lines
