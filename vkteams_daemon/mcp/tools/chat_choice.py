"""The chat of a question that names none: the only chat there is, the one that the client's user chooses, or all."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from mcp.server.elicitation import AcceptedElicitation, CancelledElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel, Field, PrivateAttr, create_model

from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.search.history.context_kind import resolve_kind
from vkteams_daemon.search.history.results import Kind
from vkteams_daemon.system.text import visible

ALL = "all"
_MAX_CHOICES = 40  # chats in one question; nobody chooses from more


class ChatChoice(BaseModel):
    """The chosen chat; `ALL` is every visible chat."""

    chat_id: str = ALL
    _threads: bool = PrivateAttr(default=False)
    _named: tuple[str, ...] = PrivateAttr(default=())

    @classmethod
    def only(cls, chat_id: str) -> ChatChoice:
        """The only chat there is. Nobody named it, so its threads are meant too."""
        choice = cls(chat_id=chat_id)
        choice._threads = True
        return choice

    @classmethod
    def called(cls, chat_id: str, sentence: str) -> ChatChoice:
        """The chat that a name was taken for; the sentence says so."""
        choice = cls(chat_id=chat_id)
        choice._named = (sentence,)
        return choice


def reader_of(ctx: Context[Reader, Any]) -> Reader:
    """The server's reader."""
    return ctx.request_context.lifespan_context


async def choose_chat(
    ctx: Context[Reader, Any], chat_id: str | None, chat: str | None
) -> ChatChoice | Elicit[ChatChoice]:
    """The chat of the question, or a question to the client's user which chat that is."""
    if chat is not None:
        if chat_id is not None:
            raise ToolError("chat and chat_id name a chat twice: leave one of them out")
        if chat == ALL:
            return ChatChoice()
        match = await reader_of(ctx).find_chat(chat)
        return ChatChoice.called(match.id, match.sentence)
    if chat_id is not None:
        return ChatChoice(chat_id=chat_id)
    reader = reader_of(ctx)
    allowed, configured = reader.access.chats, reader.config.storage.chat_ids
    if allowed is not None and len(allowed) == 1:
        return ChatChoice()
    if len(configured) == 1 and reader.access.user is None and (allowed is None or configured[0] in allowed):
        return ChatChoice.only(configured[0])
    if not _supports_elicitation(ctx):
        return ChatChoice()
    chat_ids = await reader.visible_chats(None)
    since = reader.earliest(None)
    chats = await reader.ask(lambda archive: archive.chats(chat_ids=chat_ids, since=since, limit=_MAX_CHOICES))
    if len(chats) < 2:
        return ChatChoice()
    titles = {ALL: "All of them"} | {chat.chat_id: visible(chat.title or "") or chat.chat_id for chat in chats}
    return Elicit("Which chat is the question about?", _form(titles))


def _form(titles: dict[str, str]) -> type[ChatChoice]:
    """The form of a choice between these chats; the client shows their titles."""
    options: dict[str, Any] = {"enum": list(titles), "enumNames": list(titles.values())}
    field = Field(default=ALL, title="Chat", description="The chat to look at", json_schema_extra=options)
    return create_model("Chat", __base__=ChatChoice, chat_id=(str, field))


def _supports_elicitation(ctx: Context[Reader, Any]) -> bool:
    elicitation = ctx.client_capabilities.elicitation if ctx.client_capabilities else None
    return elicitation is not None and (elicitation.form is not None or elicitation.url is None)


async def choose_context_chat(
    ctx: Context[Reader, Any],
    chat_id: str | None,
    chat: str | None,
    context_type: Kind | None,
    timeframe: float | None,
    query: str | None,
    user_id: str | None,
    user: str | None,
    msg_id: str | None,
) -> ChatChoice | Elicit[ChatChoice]:
    """The same for a context: one message and one person are looked for in every chat."""
    # Checked first: the user is not asked about the chat of a question that will be refused.
    kind = resolve_kind(
        context_type, {"msg_id": msg_id, "query": query, "user_id": user_id or user, "timeframe": timeframe}
    )
    if chat_id is None and chat is None and kind in ("around", "user-profile"):
        return ChatChoice()
    return await choose_chat(ctx, chat_id, chat)


class PeopleFilters(TypedDict):
    """The filters of a question that name people, by user id."""

    mentions: str | None
    reply_to_user: str | None


async def resolve_people(
    reader: Reader, mentions: str | None, reply_to_user: str | None
) -> tuple[PeopleFilters, tuple[str, ...]]:
    """The filters of a question that name people, and what the names were taken for."""
    user_ids: dict[str, str | None] = {"mentions": None, "reply_to_user": None}
    sentences = []
    for filter, name, verb in (("mentions", mentions, "mentions"), ("reply_to_user", reply_to_user, "answers")):
        if name is not None:
            person = await reader.find_user(name)
            user_ids[filter] = person.id
            sentences.append(f"{verb} {person.sentence.removeprefix('user ')}")
    return PeopleFilters(mentions=user_ids["mentions"], reply_to_user=user_ids["reply_to_user"]), tuple(sentences)


ChosenChat = Annotated[ElicitationResult[ChatChoice], Resolve(choose_chat)]
"""A parameter of a tool that clients do not see: the choice that follows from its chat_id."""


ChosenContextChat = Annotated[ElicitationResult[ChatChoice], Resolve(choose_context_chat)]
"""The same for get_context."""


async def chats_to_search(
    ctx: Context[Reader, Any], result: ElicitationResult[ChatChoice], *, threads: bool = False
) -> list[str] | None:
    """The chats that the question is about; None is every chat.

    Args:
        ctx: the call.
        result: the choice.
        threads: whether the threads of a chat that the client named are meant too.

    Raises:
        ToolError: the user dismissed the question, or the client may not see that chat.
    """
    if isinstance(result, CancelledElicitation):
        raise ToolError("the question which chat is meant was dismissed, so nothing was looked for")
    # A user who declines the question has not chosen one chat.
    choice = result.data if isinstance(result, AcceptedElicitation) else ChatChoice()
    return await reader_of(ctx).visible_chats(
        None if choice.chat_id == ALL else choice.chat_id, threads=threads or choice._threads
    )


async def resolve_person(
    ctx: Context[Reader, Any], result: ElicitationResult[ChatChoice], user_id: str | None, user: str | None
) -> tuple[str | None, tuple[str, ...]]:
    """The user id of the question, and what the names of a person and of a chat were taken for.

    Raises:
        ToolError: a name and an id are given.
        VkTeamsError: the archive has no such person, or several have the name.
    """
    named = result.data._named if isinstance(result, AcceptedElicitation) else ()
    reader = reader_of(ctx)
    if user is None:
        return None if user_id is None else await reader.known_user_id(user_id), named
    if user_id is not None:
        raise ToolError("user and user_id name a person twice: leave one of them out")
    match = await reader.find_user(user)
    return match.id, (match.sentence, *named)
