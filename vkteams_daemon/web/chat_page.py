"""The page of a chat: its messages by day, the one that was looked for in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from urllib.parse import quote

from markupsafe import Markup

from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.history.chat_view import ChatView, ShownMessage
from vkteams_daemon.web import markup
from vkteams_daemon.web.language import Language

PAGE = 60  # messages
_TOGETHER = timedelta(minutes=5)  # after a longer pause, a message shows its author's name again


@dataclass(frozen=True, slots=True)
class Row:
    """A message as the page shows it.

    Attributes:
        shown: the message.
        body: the author's own words.
        starts: whether its author's name stands above it.
        hit: whether it is the message that was looked for.
    """

    shown: ShownMessage
    body: Markup
    starts: bool
    hit: bool


@dataclass(frozen=True, slots=True)
class Day:
    """The messages of a day."""

    date: date
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class ChatPage:
    """What the page shows; `older` and `newer` are addresses."""

    view: ChatView
    days: list[Day]
    older: str | None
    newer: str | None


def read(archive: Archive, chat_id: str, parameters: dict[str, str], language: Language) -> ChatPage:
    """The newest messages of a chat, or those before, after or on the day that the address names.

    Raises:
        NotFound: the visitor sees no such chat or message.
    """
    if (before := _id(parameters.get("before"))) is not None:
        view = archive.chat_view(chat_id, direction="before", message=before, limit=PAGE)
    elif (after := _id(parameters.get("after"))) is not None:
        view = archive.chat_view(chat_id, direction="after", message=after, limit=PAGE)
    elif (day := _day(parameters.get("day"))) is not None:
        moment = datetime.combine(day, time(), tzinfo=language.zone)
        view = archive.chat_view(chat_id, direction="after", moment=moment, limit=PAGE)
    else:
        view = archive.chat_view(chat_id, limit=PAGE)
    return _page(view, language, None)


def read_around(archive: Archive, chat_id: str, msg_id: str, language: Language) -> ChatPage:
    """A message with what was said before and after it.

    Raises:
        NotFound: the visitor sees no such message.
    """
    return _page(archive.chat_view(chat_id, message=msg_id, limit=PAGE), language, msg_id)


def chat_address(chat_id: str) -> str:
    """The address of a chat."""
    return f"/c/{quote(chat_id, safe='@')}"


def _page(view: ChatView, language: Language, hit: str | None) -> ChatPage:
    days: list[Day] = []
    earlier: ShownMessage | None = None
    for shown in view.messages:
        day = language.day(shown.message.sent_at)
        if not days or days[-1].date != day:
            days.append(Day(day, []))
            earlier = None
        is_hit = shown.message.msg_id == hit
        body = markup.formatted(shown.runs, markup.MAX_WHOLE if is_hit else markup.MAX_SHOWN)
        days[-1].rows.append(Row(shown, body, _starts(earlier, shown), is_hit))
        earlier = shown
    address = chat_address(view.chat_id)
    first, last = _ends(view.messages)
    return ChatPage(
        view, days,
        f"{address}?before={quote(first, safe='')}" if view.older and first else None,
        f"{address}?after={quote(last, safe='')}" if view.newer and last else None,
    )  # fmt: skip


def _ends(messages: Sequence[ShownMessage]) -> tuple[str | None, str | None]:
    return (messages[0].message.msg_id, messages[-1].message.msg_id) if messages else (None, None)


def _starts(earlier: ShownMessage | None, shown: ShownMessage) -> bool:
    if earlier is None or earlier.message.user_id != shown.message.user_id:
        return True
    return shown.message.sent_at - earlier.message.sent_at > _TOGETHER


def _id(text: str | None) -> str | None:
    return text if text and "\0" not in text and len(text) < 400 else None


def _day(text: str | None) -> date | None:
    try:
        day = date.fromisoformat(text or "")
    except ValueError:
        return None
    return day if 1970 <= day.year < 9999 else None
