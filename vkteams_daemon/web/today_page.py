"""What happened in a visitor's chats since they last looked, chat by chat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.history.results import ChatSummary
from vkteams_daemon.search.messages import ArchivedMessage

FIRST_LOOK = timedelta(days=1)  # what somebody sees who has never looked
_MOST = timedelta(days=31)
_CHATS = 20
_MESSAGES = 5  # of each chat


@dataclass(frozen=True, slots=True)
class News:
    """What is new in a chat.

    Attributes:
        chat: with how much was said.
        newest: the newest messages, oldest first.
        left_out: how many earlier ones there are.
    """

    chat: ChatSummary
    newest: list[ArchivedMessage]
    left_out: int


def parse_since(text: str | None, now: datetime) -> datetime | None:
    """The moment of an address; None if it is none of the last month."""
    try:
        moment = datetime.fromisoformat(text or "")
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if now - _MOST <= moment <= now else None


def since_last_look(looked: int, now: datetime) -> datetime:
    """The moment from which a visitor has seen nothing; `looked` is in seconds since 1970, 0 for never."""
    last = datetime.fromtimestamp(looked, UTC) if looked else now - FIRST_LOOK
    return min(max(last, now - _MOST), now)


def chats(archive: Archive, since: datetime) -> list[ChatSummary]:
    """The chats in which something was said since a moment (aware), the one that spoke last first."""
    return [chat for chat in archive.chats(since=since, limit=_CHATS) if chat.messages]


def mark(archive: Archive, chats: Sequence[ChatSummary], since: datetime) -> str:
    """A short text that differs if something was said, edited or deleted, or the visitor's chats are others.

    Args:
        archive: as the visitor sees it.
        chats: those of the page.
        since: what the page shows begins here (aware).
    """
    edits = archive.edits_by_chat([chat.chat_id for chat in chats], since) if chats else {}
    said = repr([(chat.chat_id, chat.messages, chat.last_message_at, edits.get(chat.chat_id, 0)) for chat in chats])
    return hashlib.sha256(said.encode()).hexdigest()[:24]


def read(archive: Archive, chats: Sequence[ChatSummary], since: datetime) -> list[News]:
    """What is new in these chats since a moment (aware)."""
    news = []
    for chat in chats:
        newest = archive.latest(chat_ids=[chat.chat_id], since=since, limit=_MESSAGES)
        news.append(News(chat, newest, max(0, chat.messages - len(newest))))
    return news
