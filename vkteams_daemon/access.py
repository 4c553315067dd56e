"""Who may see what. One access stands behind each question of the page, of an MCP client and of the command line.

`search/visibility.py` makes the chats and periods of it that go into the SQL of every question.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

TOOLS = (
    "search", "search_hybrid", "search_semantic", "search_text", "get_context", "get_recent_messages", "get_message",
    "count", "get_database_stats", "list_chats", "list_users", "daemon_status",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """What one reader may see.

    Attributes:
        name: what the audit calls the reader.
        chats: only these chats and their threads; None is every chat.
        tools: only these tools, and the resources that give the same answers; None is every tool.
        since: only messages that were sent from this moment on (aware); None is every message.
        user: only the chats in which this person is a member, by their rosters, and this person's own private chat.
        administrator: whether the reader sees the health of the archive, of every chat; no more messages than others.
    """

    name: str
    chats: frozenset[str] | None = None
    tools: frozenset[str] | None = None
    since: datetime | None = None
    user: str | None = None
    administrator: bool = False

    def may_use(self, tool: str) -> bool:
        """Whether the reader may call this tool."""
        return self.tools is None or tool in self.tools

    @property
    def restricted(self) -> bool:
        """Whether there may be something in the archive that the reader may not see."""
        return self.chats is not None or self.since is not None or self.user is not None

    def earliest(self, since: datetime | None) -> datetime | None:
        """The later of two moments: the one that the question names, and the one that the access begins with."""
        moments = [moment for moment in (since, self.since) if moment]
        return max(moments, default=None)
