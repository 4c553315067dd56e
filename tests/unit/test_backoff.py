from __future__ import annotations

import random

import pytest

from vkteams_daemon.daemon.polling.backoff import FIRST, Backoff


def test_each_wait_is_drawn_from_a_range_that_doubles_up_to_the_cap() -> None:
    backoff = Backoff(60.0)
    for ceiling in (1, 2, 4, 8, 16, 32, 60, 60, 60):
        number = backoff.failures
        waits = []
        for _ in range(500):
            backoff.failures = number
            waits.append(backoff.failed())
        assert min(waits) >= FIRST
        assert max(waits) <= ceiling
        assert min(waits) < FIRST + 0.1 * (ceiling - FIRST), "not the full range"
        assert max(waits) > ceiling - 0.1 * (ceiling - FIRST), "not the full range"


def test_waits_are_random() -> None:
    first, second = Backoff(), Backoff()
    assert [first.failed() for _ in range(8)] != [second.failed() for _ in range(8)]


def test_success_starts_over() -> None:
    backoff = Backoff()
    for _ in range(10):
        backoff.failed()
    assert backoff.failures == 10
    backoff.succeeded()
    assert backoff.failures == 0
    assert backoff.failed() <= 2 * FIRST


def test_wait_is_never_shorter_than_the_server_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Backoff().failed(7.0) == 7.0
    assert Backoff(2.0).failed(3600.0) == 3600.0, "the cap is for our own waits, not for the server's wish"
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    backoff = Backoff()
    for _ in range(5):
        backoff.failed()
    assert backoff.failed(0.1) == 32.0


@pytest.mark.parametrize("longest", [0.5, 0.1, 0.0])
def test_a_cap_at_or_below_the_first_wait(longest: float) -> None:
    assert Backoff(longest).failed() == FIRST


def test_years_of_failures_overflow_nothing() -> None:
    backoff = Backoff()
    backoff.failures = 10**7
    assert FIRST <= backoff.failed() <= 60.0
