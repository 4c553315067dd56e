"""Which chat a question is about that names none: the only one there is, the one that the client chooses, or all."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.elicitation import AcceptedElicitation, CancelledElicitation, ElicitationResult
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from pydantic import BaseModel, Field, PrivateAttr, create_model

from vkteams_daemon.mcp.reader import Reader
from vkteams_daemon.search.history.context_kind import resolve_kind
from vkteams_daemon.search.history.results import Kind
from vkteams_daemon.system.text import visible

ALL = "all"
_OFFERED = 40  # chats in one question; more is no choice any more


class Choice(BaseModel):
    """The chat that was chosen, with its threads where nobody named it; `ALL` is every chat that may be seen."""

    chat_id: str = ALL
    _threads: bool = PrivateAttr(default=False)

    @classmethod
    def only(cls, chat_id: str) -> Choice:
        """The one chat that there is."""
        choice = cls(chat_id=chat_id)
        choice._threads = True
        return choice


def reader(ctx: Context[Reader, Any]) -> Reader:
    """The server's reader."""
    return ctx.request_context.lifespan_context


async def which(ctx: Context[Reader, Any], chat_id: str | None) -> Choice | Elicit[Choice]:
    """The chat that the question is about, or the question to the client."""
    if chat_id is not None:
        return Choice(chat_id=chat_id)
    here = reader(ctx)
    allowed, kept = here.access.chats, here.config.storage.chat_ids
    if allowed is not None and len(allowed) == 1:
        return Choice()
    if len(kept) == 1 and (allowed is None or kept[0] in allowed):
        return Choice.only(kept[0])
    if not _can_be_asked(ctx):
        return Choice()
    chats = await here.visible(None)
    found = await here.ask(lambda archive: archive.chats(chat_ids=chats, since=here.since(None), limit=_OFFERED))
    if len(found) < 2:
        return Choice()
    offered = [(ALL, "All of them"), *((chat.chat_id, visible(chat.title or "")) for chat in found)]
    return Elicit("Which chat is the question about?", _form(offered))


def _form(offered: list[tuple[str, str]]) -> type[Choice]:
    shown: dict[str, Any] = {
        "enum": [chat_id for chat_id, _ in offered],
        "enumNames": [title or chat_id for chat_id, title in offered],
    }
    field = Field(default=ALL, title="Chat", description="The chat to look at", json_schema_extra=shown)
    return create_model("Chat", __base__=Choice, chat_id=(str, field))


def _can_be_asked(ctx: Context[Reader, Any]) -> bool:
    asked = ctx.client_capabilities.elicitation if ctx.client_capabilities else None
    return asked is not None and (asked.form is not None or asked.url is None)


async def which_of_context(
    ctx: Context[Reader, Any],
    chat_id: str | None,
    context_type: Kind | None,
    timeframe: float | None,
    query: str | None,
    user_id: str | None,
    msg_id: str | None,
) -> Choice | Elicit[Choice]:
    """The same, of a context: one message and one person are found wherever they are."""
    # Looked at first: nobody is asked which chat a question is about that will be refused.
    kind = resolve_kind(context_type, {"msg_id": msg_id, "query": query, "user_id": user_id, "timeframe": timeframe})
    if chat_id is None and kind in ("around", "user-profile"):
        return Choice()
    return await which(ctx, chat_id)


Chosen = Annotated[ElicitationResult[Choice], Resolve(which)]
"""A parameter of a tool that the client does not see: what became of its chat_id."""


ChosenOfContext = Annotated[ElicitationResult[Choice], Resolve(which_of_context)]
"""The same, of get_context."""


async def chosen(
    ctx: Context[Reader, Any], outcome: ElicitationResult[Choice], *, threads: bool = False
) -> list[str] | None:
    """The chats to look at; None is every chat.

    Args:
        ctx: the call.
        outcome: what became of its chat_id.
        threads: look at the threads of a chat that was named, too.

    Raises:
        ToolError: the question was dismissed, or the client may not see that chat.
    """
    if isinstance(outcome, CancelledElicitation):
        raise ToolError("the question which chat is meant was dismissed, so nothing was looked for")
    # Who declines to choose has not chosen one.
    choice = outcome.data if isinstance(outcome, AcceptedElicitation) else Choice()
    return await reader(ctx).visible(
        None if choice.chat_id == ALL else choice.chat_id, threads=threads or choice._threads
    )
