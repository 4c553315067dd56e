"""Wakes the thread of a request that is held, and tells it when its client has hung up."""

from __future__ import annotations

import os
import select
import socket
import time

_LONGEST = 86400  # seconds of one sleep: poll takes no number of milliseconds above 2**31


class PollWaiter:
    """Waits on one client's connection and on being rung, without using any CPU.

    A condition variable could not see the client go; select can.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.dismissed = False
        self._connection = connection
        self._rung = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._rung, select.POLLIN)
        self._poll.register(connection, select.POLLIN | select.POLLRDHUP)

    def ring(self) -> None:
        """Wake whoever waits, or the next to wait; from any thread, before `close`."""
        os.eventfd_write(self._rung, 1)

    def wait(self, deadline: float) -> bool:
        """Wait until it is rung or `deadline` (time.monotonic) has come; False when the client has hung up."""
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(self._poll.poll(min(left, _LONGEST) * 1000 + 1))
            if self._connection.fileno() in ready:
                if self._hung_up():
                    return False
                # The client has sent its next request already; it is read when this one is answered.
                self._poll.unregister(self._connection)
            if self._rung in ready:
                os.eventfd_read(self._rung)
                return True
        return True

    def close(self) -> None:
        """Give its descriptor back."""
        os.close(self._rung)

    def _hung_up(self) -> bool:
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
