"""The tools that read conversations: get_context, get_recent_messages, get_message."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context as McpContext
from pydantic import Field

from vkteams_daemon.mcp.answers import FittedThread, MessagePage
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.serialiser import token_cost
from vkteams_daemon.mcp.tools import pagination
from vkteams_daemon.mcp.tools.arguments import (  # fmt: skip
    Around,
    ChatId,
    ChatName,
    Cursor,
    MaxTokens,
    MaxTokensInAll,
    OneChat,
    OneMessage,
    Since,
    Timeframe,
    UserId,
    UserName,
)
from vkteams_daemon.mcp.tools.chat_choice import (
    ChosenChat,
    ChosenContextChat,
    chats_to_search,
    person_meant,
    reader_of,
)
from vkteams_daemon.search.history.context_kind import resolve_kind
from vkteams_daemon.search.history.results import Context, Kind
from vkteams_daemon.search.history.token_budget import TokenBudget

if TYPE_CHECKING:
    from vkteams_daemon.search.archive import Archive
    from vkteams_daemon.search.messages import MessageWithThread

Ctx = McpContext[Reader, Any]

_Topic = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=2000,
        description="What `topic` is about, as search_hybrid takes it.",
    ),
]
_Kind = Annotated[
    Kind | None,
    Field(
        description="recent: the newest; topic: what query is about; user-profile: what user_id said and where; around:"
        " what stands around msg_id. Left out: around with msg_id, topic with query, otherwise recent."
    ),
]


async def get_context(
    ctx: Ctx,
    choice: ChosenContextChat,
    chat_id: ChatId = None,
    chat: ChatName = None,
    context_type: _Kind = None,
    timeframe: Timeframe = None,
    query: _Topic = None,
    user_id: UserId = None,
    user: UserName = None,
    msg_id: Around = None,
    max_tokens: MaxTokensInAll = None,
) -> Context:
    """Conversations as they went, within a budget of tokens: the newest kept, what was left out counted."""
    reader = reader_of(ctx)
    person, named = await person_meant(ctx, choice, user_id, user)
    chat_ids = await chats_to_search(ctx, choice, threads=True)
    kind = resolve_kind(context_type, {"msg_id": msg_id, "query": query, "user_id": person, "timeframe": timeframe})
    span = timedelta(seconds=timeframe) if timeframe else None
    since = reader.earliest(None)

    def ask(archive: Archive) -> Context:
        message = (archive.chat_of(msg_id, chat_ids=chat_ids, since=since), msg_id) if msg_id else None
        return archive.context(
            kind, chat_ids=chat_ids, since=since, timeframe=span, query=query, user_id=person, message=message,
            max_tokens=reader.token_limit(max_tokens), cost=token_cost,
        )  # fmt: skip

    return replace(await reader.ask(ask), named=named)


async def get_recent_messages(
    ctx: Ctx,
    choice: ChosenChat,
    chat_id: ChatId = None,
    chat: ChatName = None,
    user_id: UserId = None,
    user: UserName = None,
    since: Since = None,
    limit: Annotated[int, Field(ge=1, le=500, description="Most messages of this page.")] = 50,
    cursor: Cursor = None,
    max_tokens: MaxTokens = None,
) -> MessagePage:
    """The newest messages in the order they were said in; with the cursor those before them."""
    person, named = await person_meant(ctx, choice, user_id, user)
    page = await recent_messages(
        reader_of(ctx), await chats_to_search(ctx, choice), user_id=person, since=since, limit=limit, cursor=cursor,
        max_tokens=max_tokens,
    )  # fmt: skip
    return replace(page, named=named)


async def recent_messages(
    reader: Reader,
    chat_ids: list[str] | None,
    *,
    user_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int,
    cursor: str | None = None,
    max_tokens: int | None = None,
) -> MessagePage:
    """A page of messages: the newest that fit the token budget, oldest first."""
    before = pagination.parse_message_cursor(cursor) if cursor else None
    start = reader.earliest(since)
    messages = await reader.ask(
        lambda archive: archive.latest(
            chat_ids=chat_ids, user_id=user_id, since=start, until=until, before=before, limit=limit + 1
        )
    )
    newest_first = messages[::-1]
    budget = TokenBudget(reader.token_limit(max_tokens), token_cost)
    # The page has at least one message, whatever the budget: otherwise its cursor would lead nowhere.
    page = budget.fill(newest_first[:limit]) or [budget.shorten(message) for message in newest_first[:1]]
    rest = len(page) < len(newest_first)
    return MessagePage(
        page[::-1],
        cut=any(message is not whole for message, whole in zip(page, newest_first, strict=False)),
        cursor=pagination.message_cursor(page[-1].sent_at, *page[-1].key) if rest else None,
    )


async def get_message(
    ctx: Ctx, msg_id: OneMessage, chat_id: OneChat = None, max_tokens: MaxTokensInAll = None
) -> FittedThread:
    """One message as it stands now, and its thread: what it answers, what answers it, and so on."""
    return await message_with_thread(reader_of(ctx), chat_id, msg_id, max_tokens)


async def message_with_thread(
    reader: Reader, chat_id: str | None, msg_id: str, max_tokens: int | None = None
) -> FittedThread:
    """One message, and the messages of its thread that fit the token budget, the nearest in time before the others."""
    if chat_id is not None:
        await reader.visible_chats(chat_id)
    # The message that a thread hangs on stands in another chat, so the thread is looked for in every visible chat.
    chat_ids, since = await reader.visible_chats(None), reader.earliest(None)

    def ask(archive: Archive) -> MessageWithThread:
        chat = chat_id or archive.chat_of(msg_id, chat_ids=chat_ids, since=since)
        return archive.message(chat, msg_id, chat_ids=chat_ids, since=since)

    linked = await reader.ask(ask)
    middle = linked.message
    budget = TokenBudget(reader.token_limit(max_tokens), token_cost)
    message = budget.take(middle) or budget.shorten(middle)
    nearest_first = sorted(linked.thread, key=lambda other: abs(other.sent_at - middle.sent_at))
    thread = sorted(budget.fill(nearest_first), key=lambda other: (other.sent_at, other.msg_id))
    return FittedThread(message, linked.chat_title, thread, linked.url, cut=budget.cut)
