"""Waiting on a condition with a deadline; no test sleeps and hopes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], timeout: float = 30.0, what: str = "the condition", interval: float = 0.02) -> T:
    """The first true value of `condition()`; AssertionError when `timeout` seconds pass without one."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {timeout:g} s; last value: {value!r}")
        time.sleep(interval)
