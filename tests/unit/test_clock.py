"""The time of arrival does not run backwards, unless the clock was altogether wrong."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from vkteams_daemon.daemon.polling.clock import Clock


def test_clock_stands_still_while_the_system_clock_is_behind() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    hours = [0.0, 1, 2, 1, 1.5, 2, 2.5]
    times = iter([begin + timedelta(hours=hour) for hour in [0.0, *hours]])
    clock = Clock(lambda: next(times))
    assert [(clock.now() - begin) / timedelta(hours=1) for _ in hours] == [0, 1, 2, 2, 2, 2, 2.5]


def test_clock_follows_a_correction_of_years() -> None:
    wrong, right = datetime(2099, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    times = iter([wrong, wrong, right])
    clock = Clock(lambda: next(times))
    assert [clock.now(), clock.now()] == [wrong, right]
