"""How the facts about one message add up to its row; pure, so that replay and two bots come to the same result.

Versions are ordered by (edited_at, text), not by arrival: a late, repeated or twice-seen edit ends where it would have
stood had it come in time. A deletion is final. What was only seen in passing (`quoted`) stands in until the message
itself is known, and never makes a version. Only pins follow the order of arrival: nothing else tells them apart.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import zip_longest
from operator import attrgetter
from typing import Any

from vkteams_daemon.botapi.facts import Content, MessageFact

BEGINNING = datetime.min.replace(tzinfo=UTC)

COLUMNS = (
    "chat_id", "msg_id", "user_id", "sent_at", "edited_at", "deleted_at", "pinned_at", "version", "text", "format",
    "parts", "reply_to_msg_id", "forward", "thread", "received_at",
)  # fmt: skip
_ROW = attrgetter(*COLUMNS)


@dataclass(slots=True)
class Version:
    """An earlier text of a message."""

    edited_at: datetime | None
    text: str | None
    format: Any
    parts: Any


@dataclass(slots=True)
class Message:
    """A row of `messages` while facts are added to it.

    Attributes:
        version: the number of the current text; 0 while it was only seen in passing, or not at all.
        earlier: the versions before it, oldest first.
        older: how many versions before `earlier` were not loaded: what is added does not touch them.
        stored_row, stored_versions: what the database has, as `row` and `version_rows` give it; None without a row.
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
    earlier: list[Version] = field(default_factory=list)
    older: int = 0
    stored_row: tuple[Any, ...] | None = None
    stored_versions: Sequence[tuple[Any, ...]] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Its key in `messages`."""
        return self.chat_id, self.msg_id

    @property
    def row(self) -> tuple[Any, ...]:
        """Its row, in the order of COLUMNS."""
        return _ROW(self)

    @property
    def version_rows(self) -> list[tuple[Any, ...]]:
        """Its rows of `message_versions`: key, number, edited_at, text, format, parts, and when the next one came."""
        following: list[Version | Message] = [*self.earlier[1:], self]
        return [
            (*self.key, number, v.edited_at, v.text, v.format, v.parts, after.edited_at or self.sent_at)
            for number, (v, after) in enumerate(zip(self.earlier, following, strict=False), self.older + 1)
        ]

    @property
    def changed_version_rows(self) -> list[tuple[Any, ...]]:
        """Those of `version_rows` that the database does not have."""
        # Both are numbered from the same version on, so each is held against the one of its number.
        pairs = zip_longest(self.version_rows, self.stored_versions)
        return [row for row, stored in pairs if row is not None and row != stored]

    @property
    def silent(self) -> bool:
        """Whether there is nothing in it to find: deleted, or without a text."""
        return self.deleted_at is not None or not self.text

    @property
    def was_silent(self) -> bool:
        """The same of what the database has."""
        stored = self.stored_row
        return stored is None or stored[_DELETED_AT] is not None or not stored[_TEXT]

    @property
    def to_embed(self) -> bool:
        """Whether its text is new to the embedding workers."""
        return not self.silent and (self.stored_row is None or self.stored_row[_TEXT] != self.text)

    def remember(self, versions: Iterable[Version], older: int = 0) -> None:
        """Take what it holds now, with these earlier versions after `older` others, for what the database has."""
        self.earlier, self.older = list(versions), older
        self.stored_row, self.stored_versions = self.row, self.version_rows

    def blank(self) -> None:
        """Erase what it says and said; that it was, by whom and when, remains."""
        self.text = self.format = self.parts = self.forward = None
        for version in self.earlier:
            version.text = version.format = version.parts = None


_TEXT, _DELETED_AT = COLUMNS.index("text"), COLUMNS.index("deleted_at")


def versions_from(fact: MessageFact, *, erase: bool) -> datetime:
    """From when on a message's versions, and the last one before, are needed for adding this fact."""
    if fact.content and not fact.quoted:
        return fact.content.edited_at or BEGINNING
    return BEGINNING if erase and fact.deleted else fact.at


def fold(message: Message, fact: MessageFact, *, erase: bool = False) -> None:
    """Add one fact to a message; with `erase`, what a deleted one says is not taken in any more."""
    message.sent_at = min(message.sent_at, fact.sent_at)
    message.received_at = min(message.received_at, fact.at)
    if fact.deleted:
        message.deleted_at = min(message.deleted_at or fact.at, fact.at)
    if fact.pinned is not None:
        message.pinned_at = (message.pinned_at or fact.at) if fact.pinned else None
    if fact.content is None:
        return
    if erase and message.deleted_at is not None:
        _keep_author(message, fact.content, fact.quoted)
    elif fact.quoted:
        _see(message, fact.content)
    else:
        _add(message, fact.content)


def first_seen(fact: MessageFact) -> Message:
    """A message of which nothing is known yet, before its first fact is added."""
    return Message(fact.chat_id, fact.msg_id, fact.sent_at, fact.at)


def is_said(fact: MessageFact) -> bool:
    """Whether this is the message itself, said for the first time."""
    return fact.content is not None and fact.content.edited_at is None and not fact.quoted


def fold_all(message: Message, facts: Iterable[MessageFact], *, erase: bool) -> Message:
    """The message after these facts, in the order of their arrival.

    Args:
        message: as the database has it, or first_seen; it is changed.
        facts: what was said of it.
        erase: whether a deleted message loses what it said.
    """
    for fact in facts:
        fold(message, fact, erase=erase)
    if erase and message.deleted_at is not None:
        message.blank()
    return message


def _add(message: Message, content: Content) -> None:
    if message.version == 0:
        # Whatever a copy has shown of it gives way to the message itself.
        message.reply_to_msg_id = message.forward = message.thread = None
        _take(message, content)
    else:
        new, current = _order(content), _order(message)
        if new == current:
            _fill(message, content, "format", "parts")
        elif new > current:
            message.earlier.append(Version(message.edited_at, message.text, message.format, message.parts))
            _take(message, content)
        elif new not in map(_order, message.earlier):
            late = Version(content.edited_at, content.text, content.format, content.parts)
            insort(message.earlier, late, key=_order)
        # These belong to the message, not to one of its versions: an edit may not repeat them.
        _fill(message, content, "user_id", "reply_to_msg_id", "forward", "thread")
    message.version = message.older + len(message.earlier) + 1


def _see(message: Message, copy: Content) -> None:
    """The latest copy stands in until the message itself is known; of that a copy has nothing to add but its author."""
    if message.version == 0:
        _take(message, copy)
    _fill(message, copy, "user_id")


def _keep_author(message: Message, content: Content, quoted: bool) -> None:
    _fill(message, content, "user_id")
    if not quoted:
        message.version = message.version or 1


def _take(message: Message, content: Content) -> None:
    message.user_id = content.user_id or message.user_id
    message.edited_at, message.text = content.edited_at, content.text
    message.format, message.parts = content.format, content.parts
    message.reply_to_msg_id = content.reply_to_msg_id or message.reply_to_msg_id
    message.forward = content.forward or message.forward
    message.thread = content.thread or message.thread


def _fill(message: Message, content: Content, *names: str) -> None:
    for name in names:
        if getattr(message, name) is None:
            setattr(message, name, getattr(content, name))


def _order(version: Message | Content | Version) -> tuple[datetime, str]:
    return version.edited_at or BEGINNING, version.text or ""
