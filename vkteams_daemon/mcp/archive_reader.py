"""Reads the archive for the clients of the MCP server, and knows who is asking and what that client may see."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver.exceptions import ToolError

from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.errors import NotFound
from vkteams_daemon.serving.questions import Questions

if TYPE_CHECKING:
    from vkteams_daemon.search.archive import Archive
    from vkteams_daemon.search.name_lookup import NameMatch

T = TypeVar("T")


class Reader:
    """The archive as the server's clients see it.

    Args:
        config: the whole configuration.
        local: the access of clients that need no token: over stdio, or on loopback without a tokens file.
        questions: asks the archive, if another server of this process has it open; that one closes it.

    Attributes:
        observe: called with the mode of each search and the seconds it took.
    """

    def __init__(self, config: Config, local: Access, questions: Questions[Archive] | None = None) -> None:
        self.config = config
        self._local = local
        self.observe: Callable[[str, float], None] = lambda mode, seconds: None
        self._owns_archive = questions is None
        self._questions = questions or Questions(self._open_archive, config.database.pool_size)

    @property
    def access(self) -> Access:
        """The access of the client whose request is being answered."""
        token = get_access_token()
        return self._local if token is None else (token.claims or {})["access"]

    @property
    def is_local(self) -> bool:
        """Whether the client needs no token: it runs on this machine, where the log is."""
        return get_access_token() is None

    async def ask(self, question: Callable[[Archive], T]) -> T:
        """Put a question to the archive.

        Raises:
            VkTeamsError: the archive refuses the question, or cannot answer it.
        """
        return await self._questions.ask(self.access, question)

    async def visible_chats(self, chat_id: str | None, *, threads: bool = False) -> list[str] | None:
        """The chats that a question may look at; None is every chat.

        Args:
            chat_id: the chat that the question names; None if it is about all chats.
            threads: whether the threads of that chat are meant too.

        Raises:
            ToolError: the client may not see the chat.
            NotFound: the archive has no such chat.
        """
        allowed, since = self.access.chats or (), self.access.since
        if (self.access.chats is not None or self.access.user is not None) and chat_id not in allowed:
            seen = await self.ask(lambda archive: archive.visible_chats) or frozenset()
            if chat_id is None:
                return sorted(seen)
            if chat_id not in seen:
                raise ToolError(f"{chat_id} is not one of the chats that you may see; list_chats names them")
        if chat_id is None:
            return None
        if chat_id in self.config.storage.chat_ids or chat_id in allowed:
            # The administrator named this chat, so it exists even if nothing was said in it yet.
            return await self.ask(lambda archive: archive.named_chat(chat_id, threads=threads, since=since))
        return await self.ask(lambda archive: archive.existing([chat_id], threads=threads, since=since))

    async def known_user_id(self, user_id: str) -> str:
        """A user id as the archive spells it, among those whom the client may know; see `Archive.known_user_id`.

        Raises:
            NotFound: the archive has no such person.
            ToolError: nobody of this id has said anything that the client may see. The sentence is the same for a
                person who speaks elsewhere and for one who does not exist.
        """
        chat_ids, since = await self.visible_chats(None), self.earliest(None)
        known = await self.ask(lambda archive: archive.known_user_id(user_id, chat_ids=chat_ids, since=since))
        if self.access.restricted and not await self.ask(
            lambda archive: archive.latest(chat_ids=chat_ids, user_id=known, since=since, limit=1)
        ):
            raise ToolError(f"there is no such person among those you may see: {user_id}; list_users names them")
        return known

    async def find_user(self, name: str) -> NameMatch:
        """The person whom a name or an id means, among those whom the client may know; see `Archive.find_user`."""
        chat_ids, since = await self.visible_chats(None), self.earliest(None)
        try:
            return await self.ask(lambda archive: archive.find_user(name, chat_ids=chat_ids, since=since))
        except NotFound as error:
            if not self.access.restricted:
                raise
            nearest = f"; {error.hint[0].lower()}{error.hint[1:]}" if error.hint.startswith("The nearest") else ""
            raise ToolError(
                f"there is no such person among those you may see: {name}; list_users names them{nearest}"
            ) from None

    async def find_message(self, msg_id: str, chat_id: str | None = None) -> tuple[str, str]:
        """The chat_id and msg_id of the message that a msg_id or a transcript's reference means."""
        chat_ids, since = await self.visible_chats(chat_id), self.earliest(None)
        return await self.ask(lambda archive: archive.find_message(msg_id, chat_ids=chat_ids, since=since))

    async def find_chat(self, name: str) -> NameMatch:
        """The chat that a title means, among those that the client may see; see `Archive.find_chat`."""
        chat_ids, since = await self.visible_chats(None), self.earliest(None)
        return await self.ask(lambda archive: archive.find_chat(name, chat_ids=chat_ids, since=since))

    def earliest(self, since: datetime | None) -> datetime | None:
        """The later of two moments: the one that the question names, and the one from which the client may see."""
        return self.access.earliest(since)

    def token_limit(self, max_tokens: int | None) -> int:
        """The tokens that an answer may have; a question may ask for less than the configuration allows."""
        limit = self.config.mcp.max_tokens
        return limit if max_tokens is None else min(max_tokens, limit)

    def check_archive(self) -> None:
        """Ask the archive something that it answers at once.

        Raises:
            VkTeamsError: it does not answer.
        """
        self._questions.archive.existing(None)

    def close(self) -> None:
        """Close the archive; this releases the bundled database."""
        if self._owns_archive:
            self._questions.close()

    def _open_archive(self) -> Archive:
        # The first question imports it: the handshake does not wait for the database driver and the model.
        from vkteams_daemon.search.archive import Archive

        return Archive(self.config)
