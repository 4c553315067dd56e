"""A bot that is connected but deaf is noticed by its own rhythm."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from vkteams_daemon.config import Config
from vkteams_daemon.daemon.rhythm import MIN_EVENTS, PERIODS, Rhythm
from vkteams_daemon.store.database import Database

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
WEEK = timedelta(weeks=1)


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO bots (bot_id, nick) VALUES ('b', NULL), ('other', NULL)")
        yield connection


def _arrive(connection: psycopg.Connection, at: datetime, count: int = 1, bot_id: str = "b") -> None:
    connection.execute(
        "INSERT INTO events (bot_id, generation, event_id, type, occurred_at, received_at, payload)"
        " SELECT %s, 1, (SELECT count(*) FROM events) + n, 'newMessage', at, at, '{}'"
        " FROM generate_series(1, %s::int) AS n, LATERAL (SELECT %s + n * interval '1 second' AS at) AS arrival",
        (bot_id, count, at),
    )


class Noticed:
    """What a check has said."""

    def __init__(self) -> None:
        self.sentence: str | None = None
        self.reconnected = 0
        self.rhythm = Rhythm(Database(Config()), lambda: "b", self.warn, self.reconnect, clock=lambda: NOW)

    def warn(self, sentence: str | None) -> None:
        self.sentence = sentence

    def reconnect(self) -> None:
        self.reconnected += 1


def test_silence_where_every_week_had_events_is_noticed(connection: psycopg.Connection) -> None:
    noticed = Noticed()
    for week in range(1, PERIODS + 1):
        _arrive(connection, NOW - week * WEEK - timedelta(minutes=20), MIN_EVENTS)
    _arrive(connection, NOW - timedelta(hours=1))
    noticed.rhythm.check(connection, "b")
    noticed.rhythm.check(connection, "b")
    assert noticed.sentence is not None and "no event has come since 2026-11-30 11:00 UTC" in noticed.sentence
    assert noticed.reconnected == 1
    _arrive(connection, NOW - timedelta(minutes=1))
    noticed.rhythm.check(connection, "b")
    assert noticed.sentence is None


@pytest.mark.parametrize(
    "reason", ["a quiet hour", "few events", "a young archive", "a short silence", "another bot", "no event"]
)
def test_silence_that_proves_nothing(connection: psycopg.Connection, reason: str) -> None:
    weeks = {"a quiet hour": {1, 3}, "a young archive": {1, 2}, "no event": set()}.get(reason, {1, 2, 3})
    for week in weeks:
        at = NOW - week * WEEK - timedelta(minutes=20)
        count = 4 if reason == "few events" else MIN_EVENTS
        _arrive(connection, at, count, "other" if reason == "another bot" else "b")
    if weeks:
        _arrive(connection, NOW - timedelta(minutes=25 if reason == "a short silence" else 60))
    noticed = Noticed()
    noticed.rhythm.check(connection, "b")
    assert (noticed.sentence, noticed.reconnected) == (None, 0)
