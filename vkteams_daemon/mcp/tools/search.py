"""The tools that find messages: search_hybrid, search_semantic, search_text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

from mcp.server.mcpserver import Context
from pydantic import Field

from vkteams_daemon.mcp.answers import Coverage, Hit, SearchResult
from vkteams_daemon.mcp.reader import Reader
from vkteams_daemon.mcp.tools.arguments import ChatId, Cursor, MaxTokens, Since, Until, UserId
from vkteams_daemon.mcp.tools.chat_choice import Chosen, chosen, reader
from vkteams_daemon.mcp.tools.room import Room
from vkteams_daemon.times import check_span

if TYPE_CHECKING:
    from vkteams_daemon.search import results as library

Mode = Literal["hybrid", "semantic", "text"]
LONG = 300
"""Characters of a text that its snippet adds nothing to."""

_Query = Annotated[
    str,
    Field(
        min_length=1,
        max_length=2000,
        pattern=r"\S",
        description='What to look for. By words: all of them in any form, "a phrase", -without, this OR that.',
        examples=["сервер упал", '"connection refused" OR timeout', "why was the release late", "OPS-142"],
    ),
]
_Limit = Annotated[int, Field(ge=1, le=100, description="Most hits of this page.")]
_Around = Annotated[
    int, Field(ge=0, le=20, description="So many messages before and after each hit come with it.", examples=[2])
]
_Explain = Annotated[bool, Field(description="Say of each hit what each way of searching thinks of it.")]


def tool(mode: Mode) -> Callable[..., Awaitable[SearchResult]]:
    """The tool that searches in this way."""

    async def search(
        ctx: Context[Reader, Any],
        query: _Query,
        chats: Chosen,
        limit: _Limit = 10,
        chat_id: ChatId = None,
        user_id: UserId = None,
        since: Since = None,
        until: Until = None,
        context: _Around = 0,
        explain: _Explain = False,
        cursor: Cursor = None,
        max_tokens: MaxTokens = None,
    ) -> SearchResult:
        here = reader(ctx)
        check_span(since, until)
        await here.known(user_id)
        looked_at = await chosen(ctx, chats)
        start = here.since(since)

        async def ask(most: int) -> library.SearchResult:
            return await here.ask(
                lambda archive: archive.search(
                    query, mode=mode, chat_ids=looked_at, user_id=user_id, since=start, until=until,
                    limit=most, context=context, cursor=cursor,
                )
            )  # fmt: skip

        found = await ask(limit)
        hits = [_hit(hit, explain) for hit in found.hits]
        shown = _fitted(hits, Room(here.room(max_tokens)))
        if len(shown) < len(found.hits):
            # Asked for again, so that the cursor stands behind the last hit that has room.
            found = await ask(len(shown))
        return _answer(found, shown, here.since(None))

    return search


def _hit(said: library.Hit, explain: bool) -> Hit:
    hit = Hit.model_validate(said)
    # ts_rank_cd ranks by positions, which the index does not keep of the parts of an identifier: its 0 is no score.
    hit.score = float(f"{said.score:.4g}") or None
    for leg in hit.legs:
        leg.score = leg.score or None
    if len(hit.text) <= LONG:
        hit.snippet = None
    if not explain:
        hit.legs = []
    return hit


def _fitted(hits: list[Hit], room: Room) -> list[Hit]:
    # The first one always has room, without what stands around it.
    return room.fill(hits) or [room.shortened(hit).model_copy(update={"context": []}) for hit in hits[:1]]


def _answer(found: library.SearchResult, hits: list[Hit], earliest: datetime | None) -> SearchResult:
    coverage = Coverage.model_validate(found.coverage)
    if earliest and coverage.archived_since:
        coverage.archived_since = max(earliest, coverage.archived_since)
    return SearchResult(
        query=found.query, mode=found.mode, hits=hits, showing=found.showing, relaxed=found.relaxed, note=found.note,
        coverage=coverage, cursor=found.cursor,
    )  # fmt: skip
