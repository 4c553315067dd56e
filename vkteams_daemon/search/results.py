"""A found message as every way of searching answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from vkteams_daemon.search.messages import ArchivedMessage
from vkteams_daemon.search.names import chat_titles, names

MARKS = ("**", "**")
"""What stands before and after a found word in a snippet."""

_SNIPPET = 240


@dataclass(frozen=True, slots=True)
class Leg:
    """What one way of searching says of a message.

    Attributes:
        name: `text`, `semantic`, `conversation` for what was found beside another hit, or `recency`.
        rank: its place there, from 1.
        score: BM25 or ts_rank_cd, cosine, probability; of recency what its age leaves of the others, 0..1.
        share: of text, how much of the query's weight stands in the message, 0..1; otherwise None.
    """

    name: str
    rank: int
    score: float
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A message and how well it fits; the higher the score, the better. `legs` say where that comes from."""

    chat_id: str
    msg_id: str
    score: float
    legs: tuple[Leg, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """chat_id and msg_id."""
        return self.chat_id, self.msg_id


@dataclass(frozen=True, slots=True)
class Hit:
    """A message, its author and chat by name, and how well it fits.

    Attributes:
        chat_title: the title; of a thread its parent's, of a private chat the other one's name; None if unknown.
        author: the author's name, or the id where no name is known; None where the message has no author.
        sent_at: when it was sent (aware).
        text: the whole text as it stands now.
        snippet: the part of the text that fits, found words between `MARKS` where words were asked for.
        score: cosine in -1..1 for semantic search, ts_rank_cd for text search, a probability for hybrid search;
            comparable within one answer only.
        reply_to_msg_id: the message it answers, in the same chat.
        edited: whether its text was changed after it was sent.
        legs: what each way of searching said of it.
        context: the messages around it, in the order of saying; empty unless asked for.
    """

    chat_id: str
    chat_title: str | None
    msg_id: str
    user_id: str | None
    author: str | None
    sent_at: datetime
    text: str
    snippet: str
    score: float
    reply_to_msg_id: str | None
    edited: bool
    legs: tuple[Leg, ...] = ()
    context: tuple[ArchivedMessage, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """chat_id and msg_id."""
        return self.chat_id, self.msg_id


def hits(
    connection: psycopg.Connection[Any], ranked: Sequence[Ranked], snippets: Sequence[str] | None = None
) -> list[Hit]:
    """The hits of ranked messages, in their order; one that was deleted meanwhile is left out.

    Args:
        connection: any connection; the statements join by (chat_id, msg_id) alone.
        ranked: what a search found, best first, no message twice.
        snippets: one for each of `ranked`; without them a snippet is the beginning of the text.
    """
    if not ranked:
        return []
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT r.place, m.user_id, m.sent_at, m.text, m.reply_to_msg_id, m.edited_at IS NOT NULL"
            " FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS r (chat_id, msg_id, place)"
            " JOIN messages m ON m.chat_id = r.chat_id AND m.msg_id = r.msg_id"
            " WHERE m.deleted_at IS NULL ORDER BY r.place",
            ([r.chat_id for r in ranked], [r.msg_id for r in ranked]),
        )
        rows = cursor.fetchall()
    titles = chat_titles(connection, {r.chat_id for r in ranked})
    authors = names(connection, {row[1] for row in rows if row[1]})
    found = []
    for place, user_id, sent_at, text, reply_to, edited in rows:
        this = ranked[place - 1]
        found.append(
            Hit(
                chat_id=this.chat_id,
                chat_title=titles.get(this.chat_id),
                msg_id=this.msg_id,
                user_id=user_id,
                author=authors.get(user_id, user_id),
                sent_at=sent_at,
                text=text or "",
                snippet=(snippets[place - 1] if snippets else "") or beginning(text or ""),
                score=this.score,
                reply_to_msg_id=reply_to,
                edited=edited,
                legs=this.legs,
            )
        )
    return found


def beginning(text: str) -> str:
    """The first words of a text, about 240 characters, with an ellipsis where it goes on."""
    if len(text) <= _SNIPPET:
        return text
    cut = text[:_SNIPPET]
    return (cut[: cut.rfind(" ")] if " " in cut[_SNIPPET // 2 :] else cut) + " …"
