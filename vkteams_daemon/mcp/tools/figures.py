"""What the tools answer in numbers: the archive's, and the daemon's."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from vkteams_daemon.mcp.answers import Answer


class ModelStatistics(Answer):
    """A model of the archive, and what has its vectors."""

    model_id: int
    name: str
    dims: int
    state: str
    vectors: int
    messages: int
    indexed: bool


class _Counted(Answer):
    messages: int
    """Deleted ones included."""
    edited: int
    deleted: int


class ChatStatistics(_Counted):
    """A chat and its messages."""

    chat_id: str
    title: str | None = None
    last_message_at: datetime


class UserStatistics(_Counted):
    """Somebody, and the messages they wrote."""

    user_id: str
    name: str | None = None
    last_message_at: datetime


class DayStatistics(_Counted):
    """A day (UTC), and the messages that were sent on it."""

    day: date


class Lag(Answer):
    """How long the newest messages took, in seconds: the median, and all but one of a hundred."""

    sent_to_stored_p50: float | None = None
    sent_to_stored_p99: float | None = None
    stored_to_vector_p50: float | None = None
    stored_to_vector_p99: float | None = None


class IndexSize(Answer):
    """An index and its bytes."""

    name: str
    octets: int


class TableSize(Answer):
    """A table and its bytes, indexes included."""

    name: str
    rows: int | None = None
    """The planner's estimate."""
    octets: int
    indexes: list[IndexSize] = []


class Statistics(_Counted):
    """The numbers of the archive, or of what was asked about."""

    events: int
    quarantined: int
    """Events that could not be read; their bytes are kept."""
    versions: int
    """Earlier texts that are kept."""
    chats: int
    users: int
    first_message_at: datetime | None = None
    last_message_at: datetime | None = None
    last_event_at: datetime | None = None
    queued: int
    """Messages that wait for a vector."""
    parked: int
    """Of these, the ones that failed too often."""
    oldest_queued_at: datetime | None = None
    models: list[ModelStatistics] = []
    busiest: list[ChatStatistics] = []
    """The chats with most messages, twenty at most."""
    authors: list[UserStatistics] = []
    """Who wrote most of them, twenty at most."""
    days: list[DayStatistics] = []
    """The newest days with messages, thirty at most."""
    lag: Lag
    sizes: dict[str, int] = {}
    """Bytes by table, where the whole archive was counted."""
    tables: list[TableSize] = []


class Daemon(Answer):
    """How the daemon is that fills the archive."""

    status: str
    """running, standby, starting, degraded, stopping, stale, dead, not running or unknown."""
    pid: int | None = None
    uptime: float | None = None
    """Seconds."""
    events_processed: int | None = None
    last_activity: datetime | None = None
    age: float | None = None
    """Seconds since its status file was written."""
    file: dict[str, Any] | None = None
    """The status file; for a client with a token without what its errors say."""
