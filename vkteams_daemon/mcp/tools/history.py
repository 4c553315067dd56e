"""The tools that read conversations: get_context, get_recent_messages, get_message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context as McpContext
from pydantic import Field

from vkteams_daemon.errors import NotFound
from vkteams_daemon.mcp import transcript
from vkteams_daemon.mcp.answers import FittedThread, MessagePage, Transcript
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.serialiser import token_cost
from vkteams_daemon.mcp.tools import pagination
from vkteams_daemon.mcp.tools.arguments import (  # fmt: skip
    Around,
    ChatId,
    ChatName,
    Cursor,
    Format,
    Has,
    MaxTokens,
    Mentions,
    OneChat,
    OneMessage,
    ReplyToUser,
    Since,
    Timeframe,
    Until,
    UserId,
    UserName,
)
from vkteams_daemon.mcp.tools.chat_choice import (
    ChosenChat,
    ChosenContextChat,
    chats_to_search,
    reader_of,
    resolve_people,
    resolve_person,
)
from vkteams_daemon.search.history.context_kind import RECENT, resolve_kind
from vkteams_daemon.search.history.results import Context, Kind
from vkteams_daemon.search.history.token_budget import TokenBudget
from vkteams_daemon.search.messages import ArchivedMessage
from vkteams_daemon.times import check_span

if TYPE_CHECKING:
    from vkteams_daemon.search.archive import Archive
    from vkteams_daemon.search.messages import MessageWithThread

Ctx = McpContext[Reader, Any]

_Topic = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=2000,
        description="What `topic` is about.",
    ),
]
_Kind = Annotated[
    Kind | None,
    Field(
        description="recent: the newest; topic: about query; user-profile: what user said and where; around: around"
        " msg_id. Left out: around with msg_id, topic with query, otherwise recent."
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
    since: Since = None,
    until: Until = None,
    format: Format = "json",
    max_tokens: MaxTokens = None,
) -> Context | Transcript:
    """Conversations as they went, within a budget of tokens: the newest kept, what was left out counted."""
    reader = reader_of(ctx)
    check_span(since, until)
    person, named = await resolve_person(ctx, choice, user_id, user)
    chat_ids = await chats_to_search(ctx, choice, threads=True)
    kind = resolve_kind(context_type, {"msg_id": msg_id, "query": query, "user_id": person, "timeframe": timeframe})
    span = timedelta(seconds=timeframe) if timeframe else None
    start = reader.earliest(since)
    if since is None and kind == "recent" and span is None:
        span = RECENT  # the access may begin earlier, and is no wish of the client

    def ask(archive: Archive) -> Context:
        message = archive.find_message(msg_id, chat_ids=chat_ids, since=start) if msg_id else None
        return archive.context(
            kind, chat_ids=chat_ids, since=start, until=until, timeframe=span, query=query, user_id=person,
            message=message, max_tokens=reader.token_limit(max_tokens),
            cost=token_cost if format == "json" else transcript.cost,
        )  # fmt: skip

    context = replace(await reader.ask(ask), named=named)
    if format == "json":
        return context
    parts = [await _transcript(reader, each.messages) for each in context.conversations]
    return Transcript("\n".join(parts), context.cut, context.left_out, note=context.note, named=context.named)


async def get_recent_messages(
    ctx: Ctx,
    choice: ChosenChat,
    chat_id: ChatId = None,
    chat: ChatName = None,
    user_id: UserId = None,
    user: UserName = None,
    since: Since = None,
    until: Until = None,
    has: Has = None,
    mentions: Mentions = None,
    reply_to_user: ReplyToUser = None,
    limit: Annotated[int, Field(ge=1, le=5000)] = 50,
    format: Format = "json",
    cursor: Cursor = None,
    max_tokens: MaxTokens = None,
) -> MessagePage | Transcript:
    """The newest messages in the order they were said in; with the cursor those before them."""
    reader = reader_of(ctx)
    check_span(since, until)
    person, named = await resolve_person(ctx, choice, user_id, user)
    chat_ids = await chats_to_search(ctx, choice)
    people, more_named = await resolve_people(reader, mentions, reply_to_user)
    page = await recent_messages(
        reader, chat_ids, user_id=person, since=since, until=until, limit=limit, cursor=cursor, max_tokens=max_tokens,
        cost=token_cost if format == "json" else transcript.cost, filters={"has": has or (), **people},
    )  # fmt: skip
    page = replace(page, named=(*named, *more_named))
    if format == "json":
        return page
    text = await _transcript(reader, page.messages)
    return Transcript(text or "no messages", page.cut, named=page.named, cursor=page.cursor)


async def _transcript(reader: Reader, messages: Sequence[ArchivedMessage]) -> str:
    titles = await reader.ask(lambda archive: archive.titles({message.chat_id for message in messages}))
    return transcript.of_messages(messages, titles)


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
    cost: Callable[[Any], int] = token_cost,
    filters: Mapping[str, Any] | None = None,
) -> MessagePage:
    """A page of messages: the newest that fit the token budget, oldest first."""
    before = pagination.parse_message_cursor(cursor) if cursor else None
    start = reader.earliest(since)
    messages = await reader.ask(
        lambda archive: archive.latest(
            chat_ids=chat_ids,
            user_id=user_id,
            since=start,
            until=until,
            before=before,
            limit=limit + 1,
            **(filters or {}),
        )
    )
    newest_first = messages[::-1]
    budget = TokenBudget(reader.token_limit(max_tokens), cost)
    # The page has at least one message, whatever the budget: otherwise its cursor would lead nowhere.
    page = budget.fill(newest_first[:limit]) or [budget.shorten(message) for message in newest_first[:1]]
    rest = len(page) < len(newest_first)
    return MessagePage(
        page[::-1],
        cut=any(message is not whole for message, whole in zip(page, newest_first, strict=False)),
        cursor=pagination.message_cursor(page[-1].sent_at, *page[-1].key) if rest else None,
    )


async def get_message(
    ctx: Ctx,
    msg_id: OneMessage,
    chat_id: OneChat = None,
    since: Since = None,
    until: Until = None,
    format: Format = "json",
    max_tokens: MaxTokens = None,
) -> FittedThread | Transcript:
    """One message as it stands now, and its thread: what it answers, what answers it, and so on."""
    reader = reader_of(ctx)
    check_span(since, until)
    fitted = await message_with_thread(
        reader, chat_id, msg_id, max_tokens, token_cost if format == "json" else transcript.cost
    )
    thread = [
        one for one in fitted.thread if (not since or one.sent_at >= since) and (not until or one.sent_at < until)
    ]
    fitted = replace(fitted, thread=thread)
    if format == "json":
        return fitted
    messages = sorted([fitted.message, *thread], key=lambda one: (one.sent_at, one.msg_id))
    return Transcript(await _transcript(reader, messages), fitted.cut)


async def message_with_thread(
    reader: Reader,
    chat_id: str | None,
    msg_id: str,
    max_tokens: int | None = None,
    cost: Callable[[Any], int] = token_cost,
) -> FittedThread:
    """One message, and the messages of its thread that fit the token budget, the nearest in time before the others."""
    if chat_id is not None:
        await reader.visible_chats(chat_id)
    # The message that a thread hangs on stands in another chat, so the thread is looked for in every visible chat.
    chat_ids, since = await reader.visible_chats(None), reader.earliest(None)

    def ask(archive: Archive) -> MessageWithThread:
        if not chat_id:
            key = archive.find_message(msg_id, chat_ids=chat_ids, since=since)
            return archive.message(*key, chat_ids=chat_ids, since=since)
        try:
            return archive.message(chat_id, msg_id, chat_ids=chat_ids, since=since)
        except NotFound as absent:
            try:
                key = archive.find_message(msg_id, chat_ids=[chat_id], since=since)
            except NotFound:
                raise absent from None
            return archive.message(*key, chat_ids=chat_ids, since=since)  # fmt: skip

    linked = await reader.ask(ask)
    middle = linked.message
    budget = TokenBudget(reader.token_limit(max_tokens), cost)
    message = budget.take(middle) or budget.shorten(middle)
    nearest_first = sorted(linked.thread, key=lambda other: abs(other.sent_at - middle.sent_at))
    thread = sorted(budget.fill(nearest_first), key=lambda other: (other.sent_at, other.msg_id))
    return FittedThread(message, linked.chat_title, thread, linked.url, cut=budget.cut)
