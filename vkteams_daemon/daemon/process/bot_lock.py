"""Notices that another process on this host listens to the same bot, with an archive of its own.

The lock in the database keeps two listeners of one archive apart. Two archives do not know of each other, and each
acknowledges events that the other one then never gets. So the listener of a bot binds an abstract socket with a name
that follows from the bot: it needs no directory that both may write to, and the kernel frees it with its process.
Another user can take the name on purpose; all that follows is a warning.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct


class BotLock:
    """The lock of one bot on this host.

    Args:
        api_url: the installation of the bot: another one may have a bot of the same id.
        bot_id: the bot.
    """

    def __init__(self, api_url: str, bot_id: str) -> None:
        digest = hashlib.sha256(f"{api_url}\n{bot_id}".encode()).hexdigest()[:32]
        self._address = f"\0vkteams-bot-{digest}"
        self._socket: socket.socket | None = None

    def acquire(self) -> bool:
        """Take the lock, unless this process has it; returns whether it has it now."""
        if self._socket is not None:
            return True
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            end.bind(self._address)
            end.listen()
        except OSError:
            end.close()
            return False
        self._socket = end
        return True

    def release(self) -> None:
        """Let the lock go."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def holder(self) -> int | None:
        """The process that has the lock; None if it cannot be told."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
            end.settimeout(1.0)
            end.connect(self._address)
            pid, _, _ = struct.unpack(
                "3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            )
            return int(pid) or None
        return None
