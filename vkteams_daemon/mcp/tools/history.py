"""The tools that read what was said: get_context, get_recent_messages, get_message."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context as McpContext
from pydantic import Field

from vkteams_daemon.mcp.answers import Context, Recent, Said, Thread
from vkteams_daemon.mcp.reader import Reader
from vkteams_daemon.mcp.tools import pagination
from vkteams_daemon.mcp.tools.arguments import (  # fmt: skip
    Around,
    ChatId,
    Cursor,
    MaxTokens,
    MaxTokensInAll,
    OneChat,
    OneMessage,
    Since,
    Timeframe,
    UserId,
)
from vkteams_daemon.mcp.tools.chat_choice import Chosen, ChosenOfContext, chosen, reader
from vkteams_daemon.mcp.tools.room import Room
from vkteams_daemon.search.history.context_kind import resolve_kind
from vkteams_daemon.search.history.results import Kind
from vkteams_daemon.search.history.token_budget import tokens

if TYPE_CHECKING:
    from vkteams_daemon.search.archive import Archive
    from vkteams_daemon.search.history import results as library
    from vkteams_daemon.search.messages import ArchivedMessage, MessageWithThread

Ctx = McpContext[Reader, Any]

_Topic = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=2000,
        pattern=r"\S",
        description="What `topic` is about, as search_hybrid takes it.",
        examples=["why was the release late"],
    ),
]
_Kind = Annotated[
    Kind | None,
    Field(
        description="recent: what was said of late; topic: the conversations that query touches; user-profile: what"
        " user_id said and where; around: the thread and the neighbours of msg_id. Left out: around with msg_id, topic"
        " with query, otherwise recent."
    ),
]


async def get_context(
    ctx: Ctx,
    chats: ChosenOfContext,
    chat_id: ChatId = None,
    context_type: _Kind = None,
    timeframe: Timeframe = None,
    query: _Topic = None,
    user_id: UserId = None,
    msg_id: Around = None,
    max_tokens: MaxTokensInAll = None,
) -> Context:
    """Conversations as they went, within a budget of tokens: the newest kept, what was left out counted."""
    here = reader(ctx)
    await here.known(user_id)
    looked_at = await chosen(ctx, chats, threads=True)
    kind = resolve_kind(context_type, {"msg_id": msg_id, "query": query, "user_id": user_id, "timeframe": timeframe})
    span = timedelta(seconds=timeframe) if timeframe else None

    def ask(archive: Archive) -> library.Context:
        message = (archive.chat_of(msg_id, chat_ids=looked_at, since=here.since(None)), msg_id) if msg_id else None
        return archive.context(
            kind, chat_ids=looked_at, since=here.since(None), timeframe=span, query=query, user_id=user_id,
            message=message, max_tokens=here.room(max_tokens), cost=_cost,
        )  # fmt: skip

    return Context.model_validate(await here.ask(ask))


async def get_recent_messages(
    ctx: Ctx,
    chats: Chosen,
    chat_id: ChatId = None,
    user_id: UserId = None,
    since: Since = None,
    limit: Annotated[int, Field(ge=1, le=500, description="Most messages of this page.")] = 50,
    cursor: Cursor = None,
    max_tokens: MaxTokens = None,
) -> Recent:
    """The newest messages in the order they were said in; with the cursor those before them."""
    return await recent(
        reader(ctx), await chosen(ctx, chats), user_id=user_id, since=since, limit=limit, cursor=cursor,
        max_tokens=max_tokens,
    )  # fmt: skip


async def recent(
    here: Reader,
    chats: list[str] | None,
    *,
    user_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
    cursor: str | None = None,
    max_tokens: int | None = None,
) -> Recent:
    """A page of messages, the newest first into the room there is."""
    await here.known(user_id)
    before = pagination.parse_message_cursor(cursor) if cursor else None
    start = here.since(since)
    found = await here.ask(
        lambda archive: archive.latest(
            chat_ids=chats, user_id=user_id, since=start, until=until, before=before, limit=limit + 1
        )
    )
    newest_first = [Said.model_validate(said) for said in reversed(found)]
    room = Room(here.room(max_tokens))
    shown = room.fill(newest_first[:limit]) or [room.shortened(said) for said in newest_first[:1]]
    answer = Recent(messages=shown[::-1], cut=any(a.text != b.text for a, b in zip(shown, newest_first, strict=False)))
    if len(shown) < len(newest_first):
        last = shown[-1]
        answer.cursor = pagination.message_cursor(last.sent_at, last.chat_id, last.msg_id)
    return answer


async def get_message(
    ctx: Ctx, msg_id: OneMessage, chat_id: OneChat = None, max_tokens: MaxTokensInAll = None
) -> Thread:
    """One message as it stands now, and its thread: what it answers, what answers it, and so on."""
    return await message(reader(ctx), chat_id, msg_id, max_tokens)


async def message(here: Reader, chat_id: str | None, msg_id: str, max_tokens: int | None = None) -> Thread:
    """One message, and as much of its thread as there is room for, the nearest in time first."""
    if chat_id is not None:
        await here.visible(chat_id)
    # What a thread hangs on stands in another chat.
    seen, since = await here.visible(None), here.since(None)

    def ask(archive: Archive) -> MessageWithThread:
        chat = chat_id or archive.chat_of(msg_id, chat_ids=seen, since=since)
        return archive.message(chat, msg_id, chat_ids=seen, since=since)

    found = await here.ask(ask)
    room = Room(here.room(max_tokens))
    middle = Said.model_validate(found.message)
    shown = room.take(middle) or room.shortened(middle)
    linked = sorted(map(Said.model_validate, found.thread), key=lambda said: abs(said.sent_at - middle.sent_at))
    thread = sorted(room.fill(linked), key=lambda said: (said.sent_at, said.msg_id))
    return Thread(message=shown, chat_title=found.chat_title, thread=thread, cut=room.cut)


def _cost(said: ArchivedMessage) -> int:
    """What a message takes in the answer."""
    return tokens(Said.model_validate(said).model_dump_json())
