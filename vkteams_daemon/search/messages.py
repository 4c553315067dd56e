"""Messages of the archive as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class ArchivedMessage:
    """A message as it is read; never a deleted one.

    Attributes:
        author: the name, or the id where none is known; None where the message has no author.
        text: as it stands now; "" where it has none (a sticker).
        parts: the kinds of its parts: file, sticker, voice, forward, …
    """

    chat_id: str
    msg_id: str
    user_id: str | None
    author: str | None
    sent_at: datetime
    text: str
    reply_to_msg_id: str | None
    edited: bool
    parts: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str]:
        """chat_id and msg_id."""
        return self.chat_id, self.msg_id


@dataclass(frozen=True, slots=True)
class MessageWithThread:
    """One message, and those that it is linked with by replies and threads, oldest first, itself left out."""

    message: ArchivedMessage
    chat_title: str | None
    thread: list[ArchivedMessage]
