"""The tools that list and count: get_database_stats, count, list_chats, list_users, daemon_status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import anyio.to_thread
import msgspec
from mcp.server.mcpserver import Context
from pydantic import Field

from vkteams_daemon.mcp.answers import ChatPage, DaemonReport, UserPage
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.serialiser import token_cost
from vkteams_daemon.mcp.tools import pagination
from vkteams_daemon.mcp.tools.arguments import (
    ChatId,
    ChatName,
    Cursor,
    Has,
    MaxTokens,
    Mentions,
    ReplyToUser,
    Since,
    Until,
    UserId,
    UserName,
)
from vkteams_daemon.mcp.tools.chat_choice import ALL, reader_of, resolve_people
from vkteams_daemon.search.history.results import By, Count, Statistics
from vkteams_daemon.search.history.token_budget import TokenBudget
from vkteams_daemon.times import check_span

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Ctx = Context[Reader, Any]
E = TypeVar("E", bound="DataclassInstance")

_Limit = Annotated[int, Field(ge=1, le=1000)]


async def get_database_stats(
    ctx: Ctx, chat_id: ChatId = None, chat: ChatName = None, since: Since = None, until: Until = None
) -> Statistics:
    """The archive in numbers: messages, chats, users, edits, deletions, vectors, lag."""
    reader = reader_of(ctx)
    check_span(since, until)
    chat_ids = await _chats(reader, chat_id, chat)
    start = reader.earliest(since)
    return await reader.ask(lambda archive: archive.statistics(chat_ids=chat_ids, since=start, until=until))


async def count(
    ctx: Ctx,
    query: Annotated[str | None, Field(max_length=2000, description="Only messages with these words.")] = None,
    by: Annotated[By | None, Field(description="Count apart.")] = None,
    chat_id: ChatId = None,
    chat: ChatName = None,
    user_id: UserId = None,
    user: UserName = None,
    since: Since = None,
    until: Until = None,
    has: Has = None,
    mentions: Mentions = None,
    reply_to_user: ReplyToUser = None,
    limit: Annotated[int, Field(ge=1, le=1000)] = 100,
) -> Count:
    """How many messages: with these words, of each person, chat or day."""
    reader = reader_of(ctx)
    check_span(since, until)
    chat_ids = await _chats(reader, chat_id, chat, threads=True)
    if user is not None:
        user_id = (await reader.find_user(user)).id
    elif user_id is not None:
        user_id = await reader.known_user_id(user_id)
    people, _ = await resolve_people(reader, mentions, reply_to_user)
    start = reader.earliest(since)
    return await reader.ask(
        lambda archive: archive.count(
            query, by=by, chat_ids=chat_ids, user_id=user_id, since=start, until=until, has=has or (), limit=limit,
            **people,
        )
    )  # fmt: skip


async def _chats(reader: Reader, chat_id: str | None, chat: str | None, *, threads: bool = False) -> list[str] | None:
    """The chats that a question is about; a name or an id of one, or `all`."""
    if chat is not None and chat != ALL:
        chat_id = (await reader.find_chat(chat)).id
    return await reader.visible_chats(None if chat_id == ALL else chat_id, threads=threads)


async def list_chats(
    ctx: Ctx,
    since: Since = None,
    until: Until = None,
    limit: _Limit = 100,
    cursor: Cursor = None,
    max_tokens: MaxTokens = None,
) -> ChatPage:
    """The chats that you may see, by id and title, the one that spoke last first."""
    reader = reader_of(ctx)
    chat_ids = await reader.visible_chats(None)
    offset, start = pagination.parse_offset_cursor(cursor) if cursor else 0, reader.earliest(since)
    chats = await reader.ask(
        lambda archive: archive.chats(chat_ids=chat_ids, since=start, until=until, limit=offset + limit + 1)
    )
    page, rest = _page(chats, offset, limit, reader.token_limit(max_tokens))
    return ChatPage(page, rest)


async def list_users(
    ctx: Ctx,
    chat_id: ChatId = None,
    chat: ChatName = None,
    since: Since = None,
    until: Until = None,
    limit: _Limit = 100,
    cursor: Cursor = None,
    max_tokens: MaxTokens = None,
) -> UserPage:
    """Who has spoken, by id and name, the one who spoke last first; in one chat, or since a moment."""
    reader = reader_of(ctx)
    chat_ids = await _chats(reader, chat_id, chat)
    offset, start = pagination.parse_offset_cursor(cursor) if cursor else 0, reader.earliest(since)
    users = await reader.ask(
        lambda archive: archive.users(chat_ids=chat_ids, since=start, until=until, limit=offset + limit + 1)
    )
    page, rest = _page(users, offset, limit, reader.token_limit(max_tokens))
    return UserPage(page, rest)


def _page(entries: list[E], offset: int, limit: int, max_tokens: int) -> tuple[list[E], str | None]:
    """The entries after the offset that fit the token budget, one at least, and the cursor of the rest."""
    rest = entries[offset:]
    page = TokenBudget(max_tokens, token_cost).fill(rest[:limit]) or rest[:1]
    return page, pagination.offset_cursor(offset + len(page)) if len(page) < len(rest) else None


async def daemon_status(ctx: Ctx) -> DaemonReport:
    """How the daemon is that fills the archive, and so how far what you find is the present."""
    from vkteams_daemon.daemon.health import read_health

    reader = reader_of(ctx)
    health = await anyio.to_thread.run_sync(read_health, reader.config)
    if reader.access.restricted and not reader.access.administrator:
        # The other fields count and date the events of every chat.
        return DaemonReport(health.state, health.pid, health.uptime, None, None, health.age, None)
    file = msgspec.to_builtins(health.status)
    if file and not (reader.is_local or reader.access.administrator):
        # The errors of the API and of the database may name hosts, ports and roles.
        for section in file.values():
            for key in ("last_error", "blocked_by"):
                if isinstance(section, dict) and section.get(key):
                    section[key] = "see the daemon's log"
        if file.get("warnings"):
            file["warnings"] = ["see the daemon's log"]
    return DaemonReport(**health.summary(), pid=health.pid, age=health.age, file=file)
