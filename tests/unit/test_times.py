from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from vkteams_daemon.errors import UsageError
from vkteams_daemon.times import parse_age, parse_since, parse_until

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "ago"),
    [
        ("90s", timedelta(seconds=90)), ("15m", timedelta(minutes=15)), (" 2h ", timedelta(hours=2)),
        ("7d", timedelta(days=7)), ("4w", timedelta(weeks=4)),
    ],
)  # fmt: skip
def test_durations_count_back_from_now(said: str, ago: timedelta) -> None:
    assert parse_since(said, NOW) == parse_until(said, NOW) == NOW - ago


@pytest.mark.parametrize(
    ("said", "moment"),
    [
        ("2026-11-24T08:30", datetime(2026, 11, 24, 8, 30, tzinfo=UTC)),
        ("2026-11-24 08:30:15.5", datetime(2026, 11, 24, 8, 30, 15, 500000, tzinfo=UTC)),
        ("2026-11-24T08:30Z", datetime(2026, 11, 24, 8, 30, tzinfo=UTC)),
        ("2026-11-24T08:30+03:00", datetime(2026, 11, 24, 5, 30, tzinfo=UTC)),
        ("20261124T0830", datetime(2026, 11, 24, 8, 30, tzinfo=UTC)),
    ],
)  # fmt: skip
def test_times_are_utc_unless_they_say_otherwise(said: str, moment: datetime) -> None:
    for found in (parse_since(said, NOW), parse_until(said, NOW)):
        assert (found, found.utcoffset()) == (moment, timedelta(0))


@pytest.mark.parametrize("said", ["2026-11-24", " 2026-11-24 ", "20261124"])
def test_a_date_is_its_whole_day(said: str) -> None:
    assert parse_since(said, NOW) == datetime(2026, 11, 24, tzinfo=UTC)
    assert parse_until(said, NOW) == datetime(2026, 11, 25, tzinfo=UTC)


def test_ages_count_from_now() -> None:
    assert abs(parse_since("1h") - (datetime.now(timezone(timedelta(hours=5))) - timedelta(hours=1))) < timedelta(
        minutes=1
    )


@pytest.mark.parametrize(
    "said", ["", "tomorrow", "5", "-5d", "1.5h", "2026-13-01", "2026-11-24T25:00", "99999999999d", "999999999w", "٥d"]
)  # fmt: skip
def test_a_text_that_is_no_time_is_refused(said: str) -> None:
    for read in (parse_since, parse_until):
        with pytest.raises(UsageError, match="is not a time: write 2h, 7d, 2026-11-24"):
            read(said, NOW)


@pytest.mark.parametrize("said", ["0d", "yesterday", "9999999w", "999999999w"])
def test_a_text_that_is_no_duration_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match="is not"):
        parse_age(said)
    assert parse_age("9999d") == timedelta(days=9999)


def test_the_last_day_of_the_calendar_has_no_next() -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_until("9999-12-31", NOW)
