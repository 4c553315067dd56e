"""The tools that say what there is: get_database_stats."""

from __future__ import annotations

from typing import Any

from mcp.server.mcpserver import Context

from vkteams_daemon.mcp.answers import Statistics
from vkteams_daemon.mcp.arguments import ChatId, Since
from vkteams_daemon.mcp.chats import ALL, reader
from vkteams_daemon.mcp.reader import Reader


async def get_database_stats(ctx: Context[Reader, Any], chat_id: ChatId = None, since: Since = None) -> Statistics:
    """The archive in numbers: messages, chats, users, edits, deletions, vectors; of one chat, or since a moment."""
    here = reader(ctx)
    chats = await here.visible(None if chat_id == ALL else chat_id)
    found = await here.ask(lambda archive: archive.statistics(chat_ids=chats, since=here.since(since)))
    return Statistics.model_validate(found)
