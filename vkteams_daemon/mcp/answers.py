"""What the tools answer beside the archive's own answers: pages of lists, and how the daemon is.

The docstring below a field is its description in the tool's schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vkteams_daemon.search.history.results import ChatSummary, UserSummary
from vkteams_daemon.search.messages import ArchivedMessage, MessageWithThread


@dataclass(frozen=True, slots=True)
class MessagePage:
    """The newest messages, or those before the cursor, oldest first."""

    messages: list[ArchivedMessage]
    cut: bool = False
    """Whether a text was shortened to fit the answer."""
    cursor: str | None = None
    """Gives the messages before these; absent if there are none."""
    named: tuple[str, ...] = ()
    """The person and the chat that names in the question were taken for, a sentence each."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """Messages as a transcript, in the place of a list; see `mcp.transcript`."""

    transcript: str
    cut: bool = False
    left_out: int = 0
    showing: str | None = None
    relaxed: bool = False
    note: str | None = None
    named: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()
    cursor: str | None = None

    @property
    def text(self) -> str:
        """All of it as lines."""
        lines = [*self.named, f"results for: {self.showing}" if self.showing else "", self.note or "", *self.gaps]
        cut = "some texts are cut, or messages left out" if self.cut or self.left_out else ""
        more = f'more: "cursor":"{self.cursor}"' if self.cursor else ""
        return "\n".join(filter(None, [*lines, self.transcript, cut, more]))


@dataclass(frozen=True, slots=True)
class FittedThread(MessageWithThread):
    """One message, and the messages that replies and threads link with it, oldest first, without the message itself."""

    cut: bool = False
    """Whether a message was left out or shortened to fit the answer."""


@dataclass(frozen=True, slots=True)
class ChatPage:
    """Chats, the one with the newest message first."""

    chats: list[ChatSummary]
    cursor: str | None = None
    """Gives the chats after these; absent if there are none."""


@dataclass(frozen=True, slots=True)
class UserPage:
    """People, the one who wrote last first."""

    users: list[UserSummary]
    cursor: str | None = None
    """Gives the people after these; absent if there are none."""


@dataclass(frozen=True, slots=True)
class DaemonReport:
    """How the daemon is that fills the archive."""

    status: str
    """running, standby, starting, degraded, stopping, stale, dead, not running or unknown."""
    pid: int | None
    uptime: float | None
    """Seconds."""
    events_processed: int | None
    last_activity: datetime | None
    age: float | None
    """Seconds since the daemon wrote its status file."""
    file: dict[str, Any] | None
    """The status file; for a client with a token without the texts of its errors.

    Null, as are events_processed and last_activity, for a client that may not see every chat: they count every chat."""
