"""Folds the facts about one message into its row. The fold is pure, so replay and two bots come to the same result.

Versions are ordered by (edited_at, text) and not by arrival. So a late or repeated edit takes the place that it would
have had in time, and so does an edit that two bots deliver. A deletion is final. A quoted copy of a message, as in a
pin, fills the row until the message itself arrives, and never makes a version. Pins and unpins follow the order of
arrival, because they carry nothing else to order them by.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from operator import attrgetter
from typing import Any

from msgspec import Struct, field

from vkteams_daemon.botapi.facts import Content, MessageFact

BEGINNING = datetime.min.replace(tzinfo=UTC)

COLUMNS = (
    "chat_id", "msg_id", "user_id", "sent_at", "edited_at", "deleted_at", "pinned_at", "version", "text", "format",
    "parts", "reply_to_msg_id", "forward", "thread", "received_at",
)  # fmt: skip
_ROW = attrgetter(*COLUMNS)


class Version(Struct):
    """An earlier text of a message."""

    edited_at: datetime | None
    text: str | None
    format: Any
    parts: Any


class Message(Struct):
    """A row of `messages` while facts are added to it.

    Attributes:
        version: the number of the current text; 0 while only a copy, or no text at all, is known.
        earlier: the versions before the current text, oldest first, from the first loaded one on.
        unloaded: how many older versions were not loaded; the new facts do not change them.
        stored_row, stored_versions: `row` and `version_rows` as the database has them; None and () without a row.
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
    unloaded: int = 0
    stored_row: tuple[Any, ...] | None = None
    stored_versions: Sequence[tuple[Any, ...]] = ()

    @property
    def key(self) -> tuple[str, str]:
        """The primary key: chat_id, msg_id."""
        return self.chat_id, self.msg_id

    @property
    def row(self) -> tuple[Any, ...]:
        """The row of `messages`, in the order of COLUMNS."""
        return _ROW(self)

    @property
    def version_rows(self) -> list[tuple[Any, ...]]:
        """The rows of `message_versions`: key, number, edited_at, text, format, parts, replaced_at."""
        following: list[Version | Message] = [*self.earlier[1:], self]
        return [
            (*self.key, number, v.edited_at, v.text, v.format, v.parts, after.edited_at or self.sent_at)
            for number, (v, after) in enumerate(zip(self.earlier, following, strict=False), self.unloaded + 1)
        ]

    @property
    def changed_version_rows(self) -> list[tuple[Any, ...]]:
        """The rows of `version_rows` that the database does not have in this form."""
        # Both lists begin with the same version number, so rows at one position have one number.
        pairs = zip_longest(self.version_rows, self.stored_versions)
        return [row for row, stored in pairs if row is not None and row != stored]

    @property
    def searchable(self) -> bool:
        """Whether search can find it: it has a text and is not deleted."""
        return self.deleted_at is None and bool(self.text)

    @property
    def was_searchable(self) -> bool:
        """Whether search can find the stored row."""
        stored = self.stored_row
        return stored is not None and stored[_DELETED_AT] is None and bool(stored[_TEXT])

    @property
    def to_embed(self) -> bool:
        """Whether its text is new to the embedding workers."""
        return self.searchable and (self.stored_row is None or self.stored_row[_TEXT] != self.text)

    def mark_stored(self, versions: Iterable[Version], unloaded: int = 0) -> None:
        """Set the loaded versions, and take the present state for the stored one.

        Args:
            versions: the loaded versions, oldest first.
            unloaded: how many older versions the database has.
        """
        self.earlier, self.unloaded = list(versions), unloaded
        self.stored_row, self.stored_versions = self.row, self.version_rows

    def erase_content(self) -> None:
        """Erase the texts of all versions. Keys, author and times stay."""
        self.text = self.format = self.parts = self.forward = None
        for version in self.earlier:
            version.text = version.format = version.parts = None


_TEXT, _DELETED_AT = COLUMNS.index("text"), COLUMNS.index("deleted_at")


def versions_needed_since(fact: MessageFact, *, erase: bool) -> datetime:
    """The moment from which `fold` needs the versions of a message for this fact, and the last version before it."""
    if fact.content and not fact.quoted:
        return fact.content.edited_at or BEGINNING
    return BEGINNING if erase and fact.deleted else fact.at


def fold(message: Message, fact: MessageFact, *, erase: bool = False) -> None:
    """Add one fact to a message. With `erase`, a deleted message takes in no content."""
    message.sent_at = min(message.sent_at, fact.sent_at)
    message.received_at = min(message.received_at, fact.at)
    if fact.deleted:
        message.deleted_at = min(message.deleted_at or fact.at, fact.at)
    if fact.pinned is not None:
        message.pinned_at = (message.pinned_at or fact.at) if fact.pinned else None
    if fact.content is None:
        return
    if erase and message.deleted_at is not None:
        _add_author(message, fact.content, fact.quoted)
    elif fact.quoted:
        _add_copy(message, fact.content)
    else:
        _add_version(message, fact.content)


def new_message(fact: MessageFact) -> Message:
    """An empty message for its first fact; the fact itself is not added."""
    return Message(fact.chat_id, fact.msg_id, fact.sent_at, fact.at)


def is_original(fact: MessageFact) -> bool:
    """Whether the fact is the message itself: no edit, and no copy of it."""
    return fact.content is not None and fact.content.edited_at is None and not fact.quoted


def fold_all(message: Message, facts: Iterable[MessageFact], *, erase: bool) -> Message:
    """Add these facts to the message and return it.

    Args:
        message: from the database, or from `new_message`; it is changed.
        facts: in the order of their arrival.
        erase: whether a deleted message loses its texts.
    """
    for fact in facts:
        fold(message, fact, erase=erase)
    if erase and message.deleted_at is not None:
        message.erase_content()
    return message


def _add_version(message: Message, content: Content) -> None:
    if message.version == 0:
        # The message itself replaces everything that a copy has filled in.
        message.reply_to_msg_id = message.forward = message.thread = None
        _set_content(message, content)
    else:
        new, current = _version_order(content), _version_order(message)
        if new == current:
            _fill_missing(message, content, "format", "parts")
        elif new > current:
            message.earlier.append(Version(message.edited_at, message.text, message.format, message.parts))
            _set_content(message, content)
        elif new not in map(_version_order, message.earlier):
            late = Version(content.edited_at, content.text, content.format, content.parts)
            insort(message.earlier, late, key=_version_order)
        # These belong to the message and not to a version, and an edit does not always repeat them.
        _fill_missing(message, content, "user_id", "reply_to_msg_id", "forward", "thread")
    message.version = message.unloaded + len(message.earlier) + 1


def _add_copy(message: Message, copy: Content) -> None:
    """The latest copy fills the row until the message itself arrives. After that a copy can only add the author."""
    if message.version == 0:
        _set_content(message, copy)
    _fill_missing(message, copy, "user_id")


def _add_author(message: Message, content: Content, quoted: bool) -> None:
    _fill_missing(message, content, "user_id")
    if not quoted:
        message.version = message.version or 1


def _set_content(message: Message, content: Content) -> None:
    message.user_id = content.user_id or message.user_id
    message.edited_at, message.text = content.edited_at, content.text
    message.format, message.parts = content.format, content.parts
    message.reply_to_msg_id = content.reply_to_msg_id or message.reply_to_msg_id
    message.forward = content.forward or message.forward
    message.thread = content.thread or message.thread


def _fill_missing(message: Message, content: Content, *names: str) -> None:
    for name in names:
        if getattr(message, name) is None:
            setattr(message, name, getattr(content, name))


def _version_order(version: Message | Content | Version) -> tuple[datetime, str]:
    return version.edited_at or BEGINNING, version.text or ""
