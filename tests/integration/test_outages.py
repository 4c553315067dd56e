"""Gaps that nobody has seen happen: an outage longer than the API keeps events, and ids that start over."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.harness.talk import START, Talk
from tests.harness.waiting import until
from vkteams_daemon.botapi.events import read
from vkteams_daemon.daemon.outages import outage_loop
from vkteams_daemon.daemon.polling import poll_series
from vkteams_daemon.daemon.polling.acknowledged import AcknowledgedFile
from vkteams_daemon.daemon.polling.poll_series import PollSeries
from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.search.archive_coverage import coverage
from vkteams_daemon.search.scope import Scope
from vkteams_daemon.store import gaps
from vkteams_daemon.store.admin import cursors

BOT = "1000000001"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


Pause = tuple[datetime, datetime]


def _note(
    talk: Talk, first: datetime, last: datetime, retention: float | None = None, pauses: tuple[Pause, ...] = ()
) -> gaps.Missing | None:
    with talk.connection() as connection:
        found = gaps.note_polls(connection, BOT, gaps.Polls(first, last, pauses), retention)
    assert len(found) <= 1
    return found[0] if found else None


def _sentences(talk: Talk, since: datetime | None = None) -> tuple[str, ...]:
    with talk.connection() as connection:
        return coverage(connection, Scope(since=since)).gaps


def test_an_outage_of_more_than_a_day_is_a_possible_gap_and_said_so(talk: Talk) -> None:
    assert _note(talk, START, START + HOUR) is None
    assert _note(talk, START, START + 2 * HOUR) is None
    assert _note(talk, START + DAY + HOUR, START + DAY + 2 * HOUR) is None
    found = _note(talk, START + 5 * DAY, START + 5 * DAY)
    assert found is not None
    assert (found.from_time, found.to_time) == (START + DAY + 2 * HOUR, START + 5 * DAY)
    assert _note(talk, START + 5 * DAY, START + 6 * DAY) is None
    other_host_polled = ((START + DAY, START + 6 * DAY + HOUR),)
    assert _note(talk, START, START + 7 * DAY, pauses=other_host_polled) is None
    (sentence,) = _sentences(talk)
    assert "possible: " in sentence and "[api] retention" in sentence
    assert _sentences(talk, START + 7 * DAY) == (), "it does not touch the question's time"


def test_a_known_retention_makes_a_gap_of_what_the_api_has_forgotten(talk: Talk) -> None:
    kept = (7 * DAY).total_seconds()
    _note(talk, START, START, kept)
    assert _note(talk, START + 6 * DAY, START + 6 * DAY, kept) is None
    found = _note(talk, START + 20 * DAY, START + 20 * DAY, kept)
    assert found is not None
    assert (found.from_time, found.to_time) == (START + 6 * DAY, START + 13 * DAY)
    assert "possible" not in found.reason


def test_a_pause_inside_one_series_is_none_while_the_database_was_away(talk: Talk) -> None:
    _note(talk, START, START)
    assert _note(talk, START, START + 9 * DAY) is None


def test_a_restart_while_the_database_was_away_is_no_gap_and_a_long_pause_there_is_one(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was polled meanwhile is known from the state directory."""
    clock = [0.0]
    monkeypatch.setattr(poll_series, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def process(start: datetime, hours: int) -> PollSeries:
        series, acknowledged = PollSeries(), AcknowledgedFile(tmp_path, BOT)
        if acknowledged.polls:
            series.resume(acknowledged.polls)
        for minute in range(0, 60 * hours + 1, 5):
            series.add(start + timedelta(minutes=minute))
            clock[0] += 300
            assert series.polls
            acknowledged.note_polls(series.polls)
        return series

    _note(talk, START, START)
    process(START, 30)
    clock[0] = 0.0  # the machine was restarted as well
    polls = process(START + timedelta(hours=30, minutes=3), 30).polls
    assert polls
    assert _note(talk, polls.first, polls.last, pauses=polls.pauses) is None
    pause = polls.last, polls.last + 3 * DAY
    series = process(pause[1], 1)
    assert series.polls
    found = _note(talk, series.polls.first, series.polls.last, pauses=series.polls.pauses)
    assert found is not None
    assert (found.from_time, found.to_time) == pause
    series.noted(series.polls)
    assert (series.polls.first, series.polls.pauses) == (pause[1], ())


def test_the_loop_notes_the_series_of_the_poll_loop(talk: Talk, caplog: pytest.LogCaptureFixture) -> None:
    talk.execute("UPDATE bots SET polled_at = %s", START)
    series, stopping = PollSeries(), threading.Event()
    now = datetime.now(UTC)
    series.add(now)
    loop = threading.Thread(
        target=outage_loop, args=(talk.database, lambda: BOT, series, lambda: "24h", stopping, Pulse("outages"), 0.01)
    )
    loop.start()
    try:
        until(lambda: talk.rows("SELECT polled_at FROM bots") == [(now,)], 30, "the poll to be noted")
    finally:
        stopping.set()
        loop.join(30)
    assert "events of bot 1000000001 may be missing from the archive" in caplog.text
    assert talk.rows("SELECT reason FROM gaps") == [(gaps.OUTAGE,)]


def test_ids_that_start_over_are_a_gap_until_it_is_dismissed(talk: Talk) -> None:
    for number in range(1, 4):
        talk.say(str(number), "old")
    body = {"events": [{"eventId": 2, "type": "newMessage", "payload": {
        "msgId": "9", "chat": {"chatId": "c", "type": "group"}, "timestamp": 1, "text": "new"}}]}  # fmt: skip
    now = datetime.now(UTC)
    assert talk.writer.store(read(json.dumps(body).encode(), now)).restarted
    (gap,) = talk.rows("SELECT reason, from_event_id, from_time IS NOT NULL, to_time FROM gaps")
    assert gap == (gaps.RESTARTED, 4, True, now)
    assert any(gaps.RESTARTED in sentence for sentence in _sentences(talk))
    with talk.connection() as connection:
        gaps.dismiss(connection, 1, "me")
    assert _sentences(talk) == ()


def test_a_restart_by_hand_is_a_gap_too(talk: Talk) -> None:
    talk.say("1", "old")
    talk.writer.close()
    cursors.restart_cursor(talk.database.connect, BOT)
    assert talk.rows("SELECT reason, from_event_id FROM gaps") == [(gaps.RESTARTED, 2)]
