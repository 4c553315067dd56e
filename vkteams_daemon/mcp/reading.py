"""The tools that read what was said: get_message."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver import Context
from pydantic import Field

from vkteams_daemon.mcp.answers import Room, Said, Thread
from vkteams_daemon.mcp.arguments import MaxTokens
from vkteams_daemon.mcp.chats import reader
from vkteams_daemon.mcp.reader import Reader


async def get_message(
    ctx: Context[Reader, Any],
    chat_id: Annotated[
        str, Field(min_length=1, max_length=300, description="The chat.", examples=["681869378@chat.agent"])
    ],
    msg_id: Annotated[
        str, Field(min_length=1, max_length=300, description="The message in it.", examples=["7576322310144000017"])
    ],
    max_tokens: MaxTokens = None,
) -> Thread:
    """One message as it stands now, and its thread: what it answers, what answers it, and so on."""
    here = reader(ctx)
    await here.visible(chat_id)
    # What a thread hangs on stands in another chat.
    seen = await here.visible(None)
    found = await here.ask(lambda archive: archive.thread(chat_id, msg_id, chat_ids=seen, since=here.since(None)))
    room = Room(here.room(max_tokens))
    said = [Said.model_validate(message) for message in found]
    middle = next(message for message in said if (message.chat_id, message.msg_id) == (chat_id, msg_id))
    message = room.take(middle) or room.shortened(middle)
    others = room.fill(sorted((m for m in said if m is not middle), key=lambda m: abs(m.sent_at - middle.sent_at)))
    others.sort(key=lambda m: (m.sent_at, m.msg_id))
    return Thread(message=message, thread=others, cut=room.cut)
