"""The tools that say what there is: get_database_stats, list_chats, list_users, daemon_status."""

from __future__ import annotations

from typing import Annotated, Any

import anyio.to_thread
import msgspec
from mcp.server.mcpserver import Context
from pydantic import Field

from vkteams_daemon.mcp.answers import Chat, Chats, Daemon, Room, Statistics, User, Users
from vkteams_daemon.mcp.arguments import ChatId, MaxTokens, Since
from vkteams_daemon.mcp.chats import ALL, reader
from vkteams_daemon.mcp.reader import Reader

Ctx = Context[Reader, Any]

_Limit = Annotated[int, Field(ge=1, le=1000, description="Most of them.")]


async def get_database_stats(ctx: Ctx, chat_id: ChatId = None, since: Since = None) -> Statistics:
    """The archive in numbers: messages, chats, users, edits, deletions, vectors; of one chat, or since a moment."""
    here = reader(ctx)
    chats = await here.visible(None if chat_id == ALL else chat_id)
    found = await here.ask(lambda archive: archive.statistics(chat_ids=chats, since=here.since(since)))
    return Statistics.model_validate(found)


async def list_chats(ctx: Ctx, since: Since = None, limit: _Limit = 100, max_tokens: MaxTokens = None) -> Chats:
    """The chats that you may see, by id and title, the one that spoke last first."""
    here = reader(ctx)
    chats = await here.visible(None)
    found = await here.ask(lambda archive: archive.chats(chat_ids=chats, since=here.since(since), limit=limit))
    listed = [Chat.model_validate(chat) for chat in found]
    shown = Room(here.room(max_tokens)).fill(listed)
    return Chats(chats=shown, left_out=len(listed) - len(shown))


async def list_users(
    ctx: Ctx, chat_id: ChatId = None, since: Since = None, limit: _Limit = 100, max_tokens: MaxTokens = None
) -> Users:
    """Who has spoken, by id and name, the one who spoke last first; in one chat, or since a moment."""
    here = reader(ctx)
    chats = await here.visible(None if chat_id == ALL else chat_id)
    found = await here.ask(lambda archive: archive.users(chat_ids=chats, since=here.since(since), limit=limit))
    listed = [User.model_validate(user) for user in found]
    shown = Room(here.room(max_tokens)).fill(listed)
    return Users(users=shown, left_out=len(listed) - len(shown))


async def daemon_status(ctx: Ctx) -> Daemon:
    """How the daemon is that fills the archive, and so how far what you find is the present."""
    from vkteams_daemon.daemon.condition import look

    condition = await anyio.to_thread.run_sync(look, reader(ctx).config)
    return Daemon(
        **condition.summary(), pid=condition.pid, age=condition.age, file=msgspec.to_builtins(condition.status)
    )
