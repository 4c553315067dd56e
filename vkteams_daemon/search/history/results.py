"""What the archive answers about its history: conversations, chats, people and numbers.

The docstring below a field describes it to readers of the library and, in the schema of a tool, to agents. This module
imports no database driver: the MCP server builds its schemas before it needs the database.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from vkteams_daemon.search.messages import ArchivedMessage
from vkteams_daemon.store.admin.sizes import TableSize

Kind = Literal["recent", "topic", "user-profile", "around"]
KINDS: tuple[Kind, ...] = ("recent", "topic", "user-profile", "around")


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages of one chat, oldest first.

    The messages of a thread stand with the message that the thread hangs on.
    """

    chat_id: str
    chat_title: str | None
    messages: list[ArchivedMessage]
    left_out: int = 0
    """How many messages belong to the conversation and did not fit the budget."""
    matches: tuple[str, ...] = ()
    """The msg_ids of the messages that were asked for, or found."""
    thread: str | None = None
    """For a thread: the beginning of the message that it hangs on; empty if that is unknown."""


@dataclass(frozen=True, slots=True)
class Place:
    """A chat in which a person wrote, and how many messages."""

    chat_id: str
    chat_title: str | None
    messages: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class Profile:
    """One person: how many messages they wrote, where and when."""

    user_id: str
    name: str | None
    messages: int
    chats: int
    """The number of chats in which they wrote."""
    first_at: datetime | None
    last_at: datetime | None
    places: list[Place] = field(default_factory=list)
    """The chats in which they wrote most, at most twenty."""


@dataclass(frozen=True, slots=True)
class Context:
    """Conversations, the best or the newest first."""

    kind: Kind
    conversations: list[Conversation]
    tokens: int
    """How many tokens the messages take, an estimate."""
    cut: bool = False
    """Whether a message was left out or shortened to fit the budget."""
    left_out: int = 0
    """How many messages were left out, including those of chats that are not shown at all."""
    profile: Profile | None = None
    note: str | None = None
    """Why there is nothing, or why the answer is weaker than it looks."""
    named: tuple[str, ...] = ()
    """The person and the chat that names in the question were taken for, a sentence each."""


@dataclass(frozen=True, slots=True)
class ChatSummary:
    """A chat. Deleted messages are not counted."""

    chat_id: str
    title: str | None
    """The title; for a thread its parent's, for a private chat the other person's name; null if unknown."""
    type: str | None
    """group, channel or private; null if unknown."""
    parent_chat_id: str | None
    """For a thread: the chat of the message that it hangs on."""
    parent_msg_id: str | None
    """For a thread: the message that it hangs on."""
    messages: int
    users: int
    """How many people wrote in the chat."""
    first_message_at: datetime | None
    last_message_at: datetime | None


@dataclass(frozen=True, slots=True)
class UserSummary:
    """A person or a bot. Deleted messages are not counted."""

    user_id: str
    name: str | None
    """First and last name, otherwise the nick; null if unknown."""
    nick: str | None
    is_bot: bool | None
    """Null if the API has not said it."""
    messages: int
    chats: int
    """The number of chats in which they wrote."""
    first_message_at: datetime | None
    last_message_at: datetime | None


By = Literal["person", "chat", "day"]


@dataclass(frozen=True, slots=True)
class Group:
    """The messages of a person, a chat or a day."""

    name: str
    """The person's name, the chat's title, or the date of the day; an id if no name is known."""
    messages: int
    id: str | None = None
    """user_id or chat_id."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many messages there are."""

    messages: int
    groups: list[Group] = field(default_factory=list)
    """The largest first; days by date."""
    more: int = 0
    """How many groups are left out."""
    note: str | None = None
    """Why the number is not what it seems."""


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """A model of the archive and its vectors."""

    model_id: int
    name: str
    dims: int
    state: str
    vectors: int
    """One for each chunk of a message."""
    messages: int
    """Messages that have a vector."""
    indexed: bool | None
    """Whether the vectors have an index; null for a reader who may not see every chat."""


@dataclass(frozen=True, slots=True)
class ChatStatistics:
    """A chat and its messages."""

    chat_id: str
    title: str | None
    messages: int
    """Includes deleted messages."""
    edited: int
    deleted: int
    last_message_at: datetime


@dataclass(frozen=True, slots=True)
class UserStatistics:
    """A person and the messages that they wrote."""

    user_id: str
    name: str | None
    messages: int
    """Includes deleted messages."""
    edited: int
    deleted: int
    last_message_at: datetime


@dataclass(frozen=True, slots=True)
class DayStatistics:
    """A day of the reader's zone and the messages that were sent on it."""

    day: date
    messages: int
    """Includes deleted messages."""
    edited: int
    deleted: int


@dataclass(frozen=True, slots=True)
class Lag:
    """How long the newest messages, at most a thousand, took, in seconds; null if there are none to measure.

    `p50` is the median; 99 of 100 messages took at most `p99`. The API gives the time of sending in whole seconds.
    """

    sent_to_stored_p50: float | None = None
    """From the time of sending to the arrival here."""
    sent_to_stored_p99: float | None = None
    stored_to_vector_p50: float | None = None
    """From the arrival to the vector, for messages that were not edited."""
    stored_to_vector_p99: float | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of the archive, of one chat, or since a moment."""

    events: int
    quarantined: int
    """Events that could not be read; their bytes are kept."""
    messages: int
    """Includes deleted messages."""
    edited: int
    deleted: int
    versions: int
    """Earlier texts that are kept."""
    chats: int
    """The chats of the counted messages."""
    users: int
    """The authors of the counted messages."""
    first_message_at: datetime | None
    last_message_at: datetime | None
    last_event_at: datetime | None
    queued: int
    """Vectors that messages wait for, one a message and model; includes parked ones."""
    parked: int
    """Queued messages that failed too often and are not tried again."""
    oldest_queued_at: datetime | None
    """Since when the first queued message waits."""
    models: list[ModelStatistics] = field(default_factory=list)
    busiest: list[ChatStatistics] = field(default_factory=list)
    """The chats with most messages, at most twenty; empty for a single chat."""
    authors: list[UserStatistics] = field(default_factory=list)
    """The people who wrote most messages, at most twenty."""
    days: list[DayStatistics] = field(default_factory=list)
    """The newest days (UTC) with messages, oldest first, at most thirty."""
    lag: Lag = field(kw_only=True)
    """How far the archive is behind."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Bytes by table with its indexes, and of the whole `database`; empty if only a part was counted."""
    tables: list[TableSize] = field(default_factory=list)
    """The same by table and index."""
