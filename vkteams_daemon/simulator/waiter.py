"""Wakes the thread of a request that is held, and notices when its client hangs up."""

from __future__ import annotations

import os
import select
import socket
import time

_MAX_SLEEP = 86400  # seconds; select.poll() takes no more than 2**31 milliseconds


class PollWaiter:
    """Waits for `wake` and watches one client's connection, without using any CPU.

    A condition variable could not notice that the client hangs up; poll(2) can.

    Attributes:
        superseded: a newer poll has ended this one; it returns no events.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.superseded = False
        self._connection = connection
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(connection, select.POLLIN | select.POLLRDHUP)

    def wake(self) -> None:
        """End the current wait, or the next one. Any thread may call it, before `close`."""
        os.eventfd_write(self._wake, 1)

    def wait(self, deadline: float) -> bool:
        """Wait until `wake` is called or `deadline` (time.monotonic) has passed; False when the client has hung up."""
        while (remaining := deadline - time.monotonic()) > 0:
            ready = dict(self._poll.poll(min(remaining, _MAX_SLEEP) * 1000 + 1))
            if self._connection.fileno() in ready:
                if self._hung_up():
                    return False
                # The client has sent its next request already. It is read after this one is answered.
                self._poll.unregister(self._connection)
            if self._wake in ready:
                os.eventfd_read(self._wake)
                return True
        return True

    def close(self) -> None:
        """Close the descriptor of the waiter. The connection stays open."""
        os.close(self._wake)

    def _hung_up(self) -> bool:
        try:
            return not self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True
