"""The tools that say what there is: get_database_stats, list_chats, list_users, daemon_status."""

from __future__ import annotations

from typing import Annotated, Any

import anyio.to_thread
import msgspec
from mcp.server.mcpserver import Context
from pydantic import Field

from vkteams_daemon.mcp.answers import Chat, Chats, User, Users
from vkteams_daemon.mcp.reader import Reader
from vkteams_daemon.mcp.tools import pagination
from vkteams_daemon.mcp.tools.arguments import ChatId, Cursor, MaxTokens, Since
from vkteams_daemon.mcp.tools.chat_choice import ALL, reader
from vkteams_daemon.mcp.tools.figures import Daemon, Statistics
from vkteams_daemon.mcp.tools.room import A, Room

Ctx = Context[Reader, Any]

_Limit = Annotated[int, Field(ge=1, le=1000, description="Most of them.")]


async def get_database_stats(ctx: Ctx, chat_id: ChatId = None, since: Since = None) -> Statistics:
    """The archive in numbers: messages, chats, users, edits, deletions, vectors; of one chat, or since a moment."""
    here = reader(ctx)
    chats = await here.visible(None if chat_id == ALL else chat_id)
    found = await here.ask(lambda archive: archive.statistics(chat_ids=chats, since=here.since(since)))
    return Statistics.model_validate(found)


async def list_chats(
    ctx: Ctx, since: Since = None, limit: _Limit = 100, cursor: Cursor = None, max_tokens: MaxTokens = None
) -> Chats:
    """The chats that you may see, by id and title, the one that spoke last first."""
    here = reader(ctx)
    chats = await here.visible(None)
    given, start = pagination.parse_offset_cursor(cursor) if cursor else 0, here.since(since)
    found = await here.ask(lambda archive: archive.chats(chat_ids=chats, since=start, limit=given + limit + 1))
    shown, more = _page([Chat.model_validate(chat) for chat in found], given, limit, here.room(max_tokens))
    return Chats(chats=shown, cursor=more)


async def list_users(
    ctx: Ctx,
    chat_id: ChatId = None,
    since: Since = None,
    limit: _Limit = 100,
    cursor: Cursor = None,
    max_tokens: MaxTokens = None,
) -> Users:
    """Who has spoken, by id and name, the one who spoke last first; in one chat, or since a moment."""
    here = reader(ctx)
    chats = await here.visible(None if chat_id == ALL else chat_id)
    given, start = pagination.parse_offset_cursor(cursor) if cursor else 0, here.since(since)
    found = await here.ask(lambda archive: archive.users(chat_ids=chats, since=start, limit=given + limit + 1))
    shown, more = _page([User.model_validate(user) for user in found], given, limit, here.room(max_tokens))
    return Users(users=shown, cursor=more)


def _page(listed: list[A], given: int, limit: int, room: int) -> tuple[list[A], str | None]:
    """What is shown of a list behind what was given, and the cursor of the rest."""
    rest = listed[given:]
    shown = Room(room).fill(rest[:limit]) or rest[:1]
    return shown, pagination.offset_cursor(given + len(shown)) if len(shown) < len(rest) else None


async def daemon_status(ctx: Ctx) -> Daemon:
    """How the daemon is that fills the archive, and so how far what you find is the present."""
    from vkteams_daemon.daemon.health import probe

    here = reader(ctx)
    condition = await anyio.to_thread.run_sync(probe, here.config)
    file = msgspec.to_builtins(condition.status)
    if file and not here.local:
        # What the API and the database said may name hosts, ports and roles.
        for section in file.values():
            if isinstance(section, dict) and section.get("last_error"):
                section["last_error"] = "see the daemon's log"
    return Daemon(**condition.summary(), pid=condition.pid, age=condition.age, file=file)
