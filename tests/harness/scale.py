"""How much of a long test is done: the full size under FAULTS=full, otherwise less; what was reduced is printed."""

from __future__ import annotations

import os
from typing import Any

_FULL = os.environ.get("FAULTS") == "full"
_reduced: dict[str, str] = {}


def scaled(what: str, *, full: int, quick: int) -> int:
    """The full count under FAULTS=full, else the quick one, which the test run's summary then names."""
    if _FULL or quick >= full:
        return full
    _reduced[what] = f"{quick} instead of {full}"
    return quick


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was scaled down."""
    if _reduced:
        terminalreporter.section("scaled down (the full size: make faults)")
        for what, how in sorted(_reduced.items()):
            terminalreporter.line(f"{what}: {how}")
