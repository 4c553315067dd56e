from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from vkteams_daemon.errors import UsageError
from vkteams_daemon.times import (
    SystemZone,
    check_span,
    choose_zone,
    in_zone,
    named_zone,
    parse_age,
    parse_since,
    parse_until,
    shown,
    shown_span,
)

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC)
MOSCOW = named_zone("Europe/Moscow")


@pytest.fixture(autouse=True)
def _utc() -> Iterator[None]:
    with in_zone(UTC):
        yield


@pytest.fixture
def set_tz(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def set_to(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_to
    monkeypatch.undo()
    time.tzset()


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
def test_times_are_the_readers_unless_they_say_otherwise(said: str, moment: datetime) -> None:
    for found in (parse_since(said, NOW), parse_until(said, NOW)):
        assert (found, found.utcoffset()) == (moment, timedelta(0))


@pytest.mark.parametrize("said", ["2026-11-24", " 2026-11-24 ", "20261124"])
def test_a_date_is_its_whole_day(said: str) -> None:
    assert parse_since(said, NOW) == datetime(2026, 11, 24, tzinfo=UTC)
    assert parse_until(said, NOW) == datetime(2026, 11, 25, tzinfo=UTC)
    with in_zone(MOSCOW):
        assert parse_since(said, NOW) == datetime(2026, 11, 23, 21, tzinfo=UTC)
        assert parse_until(said, NOW) == datetime(2026, 11, 24, 21, tzinfo=UTC)


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


def test_what_was_understood_is_shown_in_the_readers_zone() -> None:
    with in_zone(MOSCOW):
        since, until = parse_since("вчера", NOW), parse_until("вчера", NOW)
        assert shown_span(since, until) == "since Tue 2026-11-24 00:00 MSK, until Wed 2026-11-25 00:00 MSK"
        with pytest.raises(UsageError, match="no time lies") as refused:
            check_span(until, since)
    assert "00:00 MSK" in refused.value.hint


def test_what_has_two_meanings_is_refused_with_what_to_write() -> None:
    with pytest.raises(UsageError, match=r"11/24/2026.? is not clear: .*Write 24\.11\.2026"):
        parse_since("11/24/2026", NOW)


def test_a_zone_that_does_not_exist_is_refused() -> None:
    for name in ("Europe/Moskau", "../etc/passwd", "", "Europe"):
        with pytest.raises(UsageError, match="is not a time zone"):
            named_zone(name)


def test_the_persons_zone_comes_before_the_configured_one(set_tz: Callable[[str], None]) -> None:
    set_tz("Europe/Berlin")
    with in_zone(choose_zone("Europe/Moscow")):
        assert shown(NOW) == "Wed 2026-11-25 13:30 CET"
    set_tz("")
    with in_zone(choose_zone("Europe/Moscow")):
        assert shown(NOW) == "Wed 2026-11-25 15:30 MSK"


@pytest.mark.parametrize("name", ["Europe/Moscow", "Europe/Berlin", "UTC"])
def test_the_zone_of_the_machine_has_the_changes_of_its_clocks(set_tz: Callable[[str], None], name: str) -> None:
    set_tz(name)
    zone: tzinfo = SystemZone()
    # Moscow: summer time until 2010, +04:00 from 2011, +03:00 from 26 October 2014. Berlin: summer time every year.
    for moment in (
        datetime(2010, 7, 1, tzinfo=UTC), datetime(2010, 12, 1, tzinfo=UTC), datetime(2013, 1, 1, tzinfo=UTC),
        datetime(2014, 10, 25, 21, 59, tzinfo=UTC), datetime(2014, 10, 25, 22, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 1, 30, 0, 5, tzinfo=UTC),
    ):  # fmt: skip
        local, named = moment.astimezone(zone), moment.astimezone(named_zone(name))
        assert (local.replace(tzinfo=None), local.fold, local.utcoffset()) == (
            named.replace(tzinfo=None), named.fold, named.utcoffset(),
        )  # fmt: skip
        assert local.astimezone(UTC) == moment
