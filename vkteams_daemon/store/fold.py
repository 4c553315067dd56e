"""How the facts about one message add up to its row; pure, so that replay and two bots come to the same result.

Versions are ordered by (edited_at, text), not by arrival: a late, repeated or twice-seen edit changes nothing that a
later one has said. A deletion is final. What was only seen in passing (`quoted`) fills a gap and never makes a version.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from vkteams_daemon.botapi.facts import Content, MessageFact

_BEGINNING = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Version:
    """An earlier text of a message, under its number."""

    version: int
    edited_at: datetime | None
    text: str | None
    format: Any
    parts: Any
    replaced_at: datetime


@dataclass(slots=True)
class Message:
    """A row of `messages` while facts are added to it.

    Attributes:
        version: the number of the current text; 0 while nothing is known of its content.
        earlier: the versions known so far as (edited_at, text), those in the database included.
        new_versions: the versions that the database does not have yet.
        stored_text, stored_version, stored_deleted: what the database has; None for a row it does not have.
    """

    chat_id: str
    msg_id: str
    sent_at: datetime
    received_at: datetime
    user_id: str | None = None
    edited_at: datetime | None = None
    deleted_at: datetime | None = None
    pinned_at: datetime | None = None
    version: int = 0
    text: str | None = None
    format: Any = None
    parts: Any = None
    reply_to_msg_id: str | None = None
    forward: Any = None
    thread: Any = None
    earlier: set[tuple[datetime, str]] = field(default_factory=set)
    new_versions: list[Version] = field(default_factory=list)
    stored_version: int | None = None
    stored_deleted: bool = False

    @property
    def newly_deleted(self) -> bool:
        """Whether these facts, and not earlier ones, deleted it."""
        return self.deleted_at is not None and not self.stored_deleted

    @property
    def to_embed(self) -> bool:
        """Whether its text is new to the embedding workers."""
        return bool(self.text) and self.deleted_at is None and self.version != (self.stored_version or 0)

    def remember(self, edited_at: datetime | None, text: str | None) -> None:
        """Note a version that the database has already."""
        self.earlier.add(_order(edited_at, text))

    def blank(self) -> None:
        """Erase what it says; that it was, by whom and when, remains."""
        self.text = self.format = self.parts = self.forward = None
        for version in self.new_versions:
            version.text = version.format = version.parts = None


def fold(message: Message, fact: MessageFact) -> None:
    """Add one fact to a message."""
    message.sent_at = fact.sent_at if message.version == 0 else message.sent_at
    if fact.deleted:
        message.deleted_at = min(message.deleted_at or fact.at, fact.at)
    if fact.pinned is not None:
        message.pinned_at = (message.pinned_at or fact.at) if fact.pinned else None
    if fact.content is not None:
        _add(message, fact.content, fact)


def fold_all(known: dict[tuple[str, str], Message], facts: Iterable[MessageFact], *, erase: bool) -> list[Message]:
    """Fold a batch, in order, into the rows the database has; returns every row that it touches.

    Args:
        known: the rows of the database that the facts speak of.
        facts: in the order of arrival.
        erase: whether a deleted message loses what it said.
    """
    touched: dict[tuple[str, str], Message] = {}
    for fact in facts:
        key = (fact.chat_id, fact.msg_id)
        message = touched.get(key)
        if message is None:
            message = known.get(key) or Message(fact.chat_id, fact.msg_id, fact.sent_at, fact.at)
            touched[key] = message
        fold(message, fact)
    for message in touched.values():
        if erase and message.deleted_at is not None:
            message.blank()
    return list(touched.values())


def _add(message: Message, content: Content, fact: MessageFact) -> None:
    if message.version == 0:
        message.version = 1
        _take(message, content)
        return
    new, current = _order(content.edited_at, content.text), _order(message.edited_at, message.text)
    if fact.quoted or new == current:
        _fill(message, content)
    elif new > current:
        _archive(message, message.edited_at, message.text, message.format, message.parts, content.edited_at or fact.at)
        _take(message, content)
    elif new not in message.earlier:
        _archive(message, *(content.edited_at, content.text, content.format, content.parts), fact.at)
        _fill(message, Content(content.user_id, None, None))


def _archive(
    message: Message, edited_at: datetime | None, text: str | None, format: Any, parts: Any, replaced_at: datetime
) -> None:
    message.earlier.add(_order(edited_at, text))
    message.new_versions.append(Version(message.version, edited_at, text, format, parts, replaced_at))
    message.version += 1


def _take(message: Message, content: Content) -> None:
    message.user_id = content.user_id or message.user_id
    message.edited_at, message.text = content.edited_at, content.text
    message.format, message.parts = content.format, content.parts
    # An edit that repeats neither the reply nor the forward it belongs to does not undo them.
    message.reply_to_msg_id = content.reply_to_msg_id or message.reply_to_msg_id
    message.forward = content.forward or message.forward
    message.thread = content.thread or message.thread


def _fill(message: Message, content: Content) -> None:
    for name in ("user_id", "format", "parts", "reply_to_msg_id", "forward", "thread"):
        if getattr(message, name) is None:
            setattr(message, name, getattr(content, name))


def _order(edited_at: datetime | None, text: str | None) -> tuple[datetime, str]:
    return edited_at or _BEGINNING, text or ""
