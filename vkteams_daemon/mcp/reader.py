"""Asks the archive for the clients of the MCP server: the warm archive, who is asking, and what that client may see.

Every question goes to a thread of its own, so that the server answers others meanwhile, and is let go of when the
client takes it back; what it runs in the database ends there after `[search] timeout` at the latest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver.exceptions import ToolError

from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from vkteams_daemon.search.archive import Archive

T = TypeVar("T")

_DEAD_AT_ONCE = 1.0  # seconds within which a connection that is dead already says so


class Reader:
    """The archive as the server's clients see it.

    Args:
        config: the whole configuration.
        local: the access of whoever needs no token: over stdio, or on loopback without a tokens file.
    """

    def __init__(self, config: Config, local: Access) -> None:
        self.config = config
        self._local = local
        self._archive: Archive | None = None
        self._opening = threading.Lock()
        self._threads = anyio.CapacityLimiter(config.database.pool_size)

    @property
    def access(self) -> Access:
        """What the client may see whose request this is."""
        token = get_access_token()
        return self._local if token is None else (token.claims or {})["access"]

    @property
    def local(self) -> bool:
        """Whether the client needs no token: it runs on this machine, beside the log."""
        return get_access_token() is None

    async def ask(self, question: Callable[[Archive], T]) -> T:
        """Put a question to the archive.

        Raises:
            VkTeamsError: what the archive has to say against it.
        """
        return await anyio.to_thread.run_sync(
            lambda: self._answered(question), abandon_on_cancel=True, limiter=self._threads
        )

    async def visible(self, chat_id: str | None, *, threads: bool = False) -> list[str] | None:
        """The chats that a question about this one, or about all where it is None, may look at; None is every chat.

        Args:
            chat_id: the chat that is asked about.
            threads: look at its threads, too.

        Raises:
            ToolError: the client may not see the chat.
            NotFound: the archive has none such.
        """
        allowed = self.access.chats
        if allowed is not None and chat_id not in allowed:
            seen = await self.ask(lambda archive: archive.with_threads(allowed))
            if chat_id is None:
                return seen
            if chat_id not in seen:
                raise ToolError(f"{chat_id} is not one of the chats that you may see; list_chats names them")
        if chat_id is None:
            return None
        if chat_id in self.config.storage.chat_ids or (allowed and chat_id in allowed):
            # Whoever looks after the server has named it: it may still be quiet.
            return await self.ask(lambda archive: archive.with_threads([chat_id])) if threads else [chat_id]
        return await self.ask(lambda archive: archive.existing([chat_id], threads=threads))

    async def known(self, user_id: str | None) -> None:
        """Refuse a person of whom the archive has nothing.

        A client that may not see every chat is not told: who is elsewhere is none of its business.

        Raises:
            NotFound: the archive has no such person.
        """
        if user_id is not None and self.access.chats is None:
            await self.ask(lambda archive: archive.existing(None, user_id=user_id))

    def since(self, asked: datetime | None) -> datetime | None:
        """From when on the client may see what was sent, and wants to."""
        return self.access.from_then_on(asked)

    def room(self, asked: int | None) -> int:
        """Most tokens of an answer."""
        most = self.config.mcp.max_tokens
        return most if asked is None else min(asked, most)

    def close(self) -> None:
        """Close the archive; the bundled database is let go of."""
        if self._archive is not None:
            self._archive.close()

    def _answered(self, question: Callable[[Archive], T]) -> T:
        patience = time.monotonic() + _DEAD_AT_ONCE
        for _ in range(self.config.database.pool_size):
            try:
                return question(self._opened())
            except DatabaseUnavailable:
                # Connections of the pool that died with the server are found out one by one, and at once.
                if time.monotonic() > patience:
                    raise
        return question(self._opened())

    def _opened(self) -> Archive:
        with self._opening:
            if self._archive is None:
                # Imported by the first question: the handshake need not wait for the libraries of database and model.
                from vkteams_daemon.search.archive import Archive

                self._archive = Archive(self.config)
            return self._archive
