"""The time of arrival does not run backwards, unless the clock was altogether wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vkteams_daemon.daemon.polling.clock import Clock


def test_it_stands_still_where_the_clock_is_set_back_and_goes_on_with_it() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    hours = [0.0, 1, 2, 1, 1.5, 2, 2.5]
    times = iter([begin + timedelta(hours=hour) for hour in [0.0, *hours]])
    clock = Clock(lambda: next(times))
    assert [(clock.now() - begin) / timedelta(hours=1) for _ in hours] == [0, 1, 2, 2, 2, 2, 2.5]


def test_a_clock_that_was_years_ahead_is_not_followed() -> None:
    wrong, right = datetime(2099, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    times = iter([wrong, wrong, right])
    clock = Clock(lambda: next(times))
    assert [clock.now(), clock.now()] == [wrong, right]
