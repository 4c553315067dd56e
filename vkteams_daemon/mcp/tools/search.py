"""The tools that find messages: search_hybrid, search_semantic, search_text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

from mcp.server.mcpserver import Context
from pydantic import AfterValidator, Field

from vkteams_daemon.daemon.status import read_gap
from vkteams_daemon.mcp.archive_reader import Reader
from vkteams_daemon.mcp.serialiser import token_cost
from vkteams_daemon.mcp.tools.arguments import (
    ChatId,
    ChatName,
    Cursor,
    Edited,
    Has,
    MaxTokens,
    Mentions,
    Since,
    Sort,
    Until,
    UserId,
    UserName,
    check_said,
)
from vkteams_daemon.mcp.tools.chat_choice import ChosenChat, chats_to_search, person_meant, reader_of
from vkteams_daemon.search.history.token_budget import TokenBudget
from vkteams_daemon.search.results import Coverage, Hit, Mode, SearchResult
from vkteams_daemon.times import check_span

WHOLE_TEXT = 300
"""Characters of a text; the snippet of a text that is no longer adds nothing."""

_Query = Annotated[
    str,
    AfterValidator(check_said),
    Field(
        min_length=1,
        max_length=2000,
        description='What to look for. By words: all of them in any form, "a phrase", -without, this OR that.',
        examples=["сервер упал", '"connection refused" OR timeout', "OPS-142"],
    ),
]
_Limit = Annotated[int, Field(ge=1, le=100, description="Most hits of this page.")]
_Around = Annotated[int, Field(ge=0, le=20, description="Messages before and after each hit that come with it.")]
_Explain = Annotated[bool, Field(description="Add the rank and score that each retriever gives each hit.")]


def tool(mode: Mode) -> Callable[..., Awaitable[SearchResult]]:
    """The tool that searches in this mode."""

    async def search(
        ctx: Context[Reader, Any],
        query: _Query,
        choice: ChosenChat,
        limit: _Limit = 10,
        chat_id: ChatId = None,
        chat: ChatName = None,
        user_id: UserId = None,
        user: UserName = None,
        since: Since = None,
        until: Until = None,
        has: Has = None,
        mentions: Mentions = None,
        edited: Edited = False,
        sort: Sort = "best",
        context: _Around = 0,
        explain: _Explain = False,
        cursor: Cursor = None,
        max_tokens: MaxTokens = None,
    ) -> SearchResult:
        reader = reader_of(ctx)
        check_span(since, until)
        person, named = await person_meant(ctx, choice, user_id, user)
        chat_ids = await chats_to_search(ctx, choice)
        mentioned = await reader.find_user(mentions) if mentions is not None else None
        if mentioned:
            named = (*named, f"mentions {mentioned.sentence.removeprefix('user ')}")
        start = reader.earliest(since)

        async def ask(limit: int) -> SearchResult:
            return await reader.ask(
                lambda archive: archive.search(
                    query, mode=mode, chat_ids=chat_ids, user_id=person, since=start, until=until, limit=limit,
                    context=context, cursor=cursor, has=has or (), edited=edited,
                    mentions=mentioned.id if mentioned else None, newest_first=sort == "new",
                )
            )  # fmt: skip

        result = await ask(limit)
        hits = _fit(
            [_brief(hit, explain=explain) for hit in result.hits],
            TokenBudget(reader.token_limit(max_tokens), token_cost),
        )
        if len(hits) < len(result.hits):
            # The archive is asked again, so that the cursor stands after the last hit that fits.
            result = await ask(len(hits))
        return replace(result, hits=hits, coverage=_visible_coverage(reader, result.coverage), named=named)

    return search


def _brief(hit: Hit, *, explain: bool) -> Hit:
    """The hit without what its text, or nobody, needs to read."""
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
    gap = read_gap(reader.config.status_file, restricted=reader.access.restricted)
    return replace(coverage, gaps=(*coverage.gaps, gap)) if gap else coverage
