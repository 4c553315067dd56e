"""The tools that find messages: search, and search_hybrid, search_semantic and search_text, the names of its modes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import AfterValidator, Field

from vkteams_daemon.daemon.status import read_backlog
from vkteams_daemon.mcp import transcript
from vkteams_daemon.mcp.answers import Transcript
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.serialiser import token_cost
from vkteams_daemon.mcp.tools.arguments import (
    ChatId,
    ChatName,
    Cursor,
    Edited,
    Format,
    Has,
    MaxTokens,
    Mentions,
    OptionalId,
    ReplyToUser,
    Since,
    Sort,
    Until,
    UserId,
    UserName,
    check_said,
)
from vkteams_daemon.mcp.tools.chat_choice import ChosenChat, chats_to_search, reader_of, resolve_people, resolve_person
from vkteams_daemon.search.history.token_budget import TokenBudget
from vkteams_daemon.search.messages import ArchivedMessage
from vkteams_daemon.search.results import Coverage, Hit, Mode, SearchResult
from vkteams_daemon.times import check_span

_MAX_LIKE = 2000  # characters of a message that others are compared with
WHOLE_TEXT = 300
"""Characters of a text; the snippet of a text that is no longer adds nothing."""

_Query = Annotated[
    Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(check_said)] | None,
    Field(
        description='What to look for. By words: all of them in any form, "a phrase", -without, this OR that.',
    ),
]
_Mode = Annotated[
    Mode,
    Field(description="hybrid: words and meaning; semantic: meaning alone; text: words, identifiers, error codes."),
]
_SimilarTo = Annotated[
    OptionalId, Field(description="Instead of query: a message (msg_id or reference) to find the like of, by meaning.")
]
_Limit = Annotated[int, Field(ge=1, le=100)]
_Around = Annotated[int, Field(ge=0, le=20, description="Messages before and after each hit.")]
_Explain = Annotated[bool, Field(description="Ranks and scores of each retriever.")]


def tool(default: Mode) -> Callable[..., Awaitable[SearchResult | Transcript]]:
    """The tool that searches, in this mode unless it is told another."""

    async def search(
        ctx: Context[Reader, Any],
        choice: ChosenChat,
        query: _Query = None,
        mode: _Mode = default,
        similar_to: _SimilarTo = None,
        limit: _Limit = 10,
        chat_id: ChatId = None,
        chat: ChatName = None,
        user_id: UserId = None,
        user: UserName = None,
        since: Since = None,
        until: Until = None,
        has: Has = None,
        mentions: Mentions = None,
        reply_to_user: ReplyToUser = None,
        edited: Edited = False,
        sort: Sort = "best",
        context: _Around = 0,
        explain: _Explain = False,
        format: Format = "json",
        cursor: Cursor = None,
        max_tokens: MaxTokens = None,
    ) -> SearchResult | Transcript:
        reader = reader_of(ctx)
        check_span(since, until)
        if (query is None) == (similar_to is None):
            raise ToolError("give either query or similar_to")
        person, named = await resolve_person(ctx, choice, user_id, user)
        chat_ids = await chats_to_search(ctx, choice)
        people, more_named = await resolve_people(reader, mentions, reply_to_user)
        start = reader.earliest(since)
        like = await _like(reader, similar_to) if similar_to is not None else None

        async def ask(limit: int) -> SearchResult:
            asked = time.monotonic()
            result = await reader.ask(
                lambda archive: archive.search(
                    like.text if like else query or "", mode="semantic" if like else mode, chat_ids=chat_ids,
                    user_id=person, since=start, until=until, limit=limit, context=context, cursor=cursor,
                    has=has or (), edited=edited, newest_first=sort == "new", **people,
                )
            )  # fmt: skip
            reader.observe(mode, time.monotonic() - asked)
            return result

        # A message is the most like itself, so one more is asked for.
        result = await ask(limit + (1 if like else 0))
        found = [hit for hit in result.hits if like is None or hit.key != like.key][:limit]
        budget = TokenBudget(reader.token_limit(max_tokens), token_cost if format == "json" else transcript.cost)
        hits = _fit([_brief(hit, explain=explain) for hit in found], budget)
        if len(hits) < len(found):
            # The archive is asked again, so that the cursor stands after the last hit that fits.
            result = await ask(len(hits))
        result = replace(
            result, hits=hits, coverage=_visible_coverage(reader, result.coverage), named=(*named, *more_named)
        )
        if format == "json":
            return result
        return Transcript(
            transcript.of_hits(hits) or "nothing found", budget.cut, showing=result.showing, relaxed=result.relaxed,
            note=result.note, named=result.named, gaps=result.coverage.gaps, cursor=result.cursor,
        )  # fmt: skip

    return search


async def _like(reader: Reader, msg_id: str) -> ArchivedMessage:
    """The message that others are to be like.

    Raises:
        ToolError: it has no text.
    """
    key = await reader.find_message(msg_id)
    chat_ids, since = await reader.visible_chats(None), reader.earliest(None)
    linked = await reader.ask(lambda archive: archive.message(*key, chat_ids=chat_ids, since=since))
    if not linked.message.text.strip():
        raise ToolError("similar_to: that message has no text")
    return replace(linked.message, text=linked.message.text[:_MAX_LIKE])


def _brief(hit: Hit, *, explain: bool) -> Hit:
    """The hit in brief: without a snippet that repeats its text, and without scores unless they are asked for."""
    return replace(
        hit,
        score=float(f"{hit.score:.4g}"),
        snippet=hit.snippet if len(hit.text) > WHOLE_TEXT else "",
        legs=hit.legs if explain else (),
    )


def _fit(hits: list[Hit], budget: TokenBudget) -> list[Hit]:
    # The first hit is always in the answer, if need be without the messages around it.
    return budget.fill(hits) or [replace(budget.shorten(hit), context=()) for hit in hits[:1]]


def _visible_coverage(reader: Reader, coverage: Coverage) -> Coverage:
    """The coverage, with what waits in the daemon's spool."""
    backlog = read_backlog(reader.config.status_file, restricted=reader.access.restricted)
    return replace(coverage, gaps=(*coverage.gaps, backlog)) if backlog else coverage
