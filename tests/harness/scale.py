"""How much of a long test is done: the full size under FAULTS=full, otherwise less; what was reduced is printed.

Where the tests run in several processes (pytest-xdist), each hands what it reduced to the one that prints the summary.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

FULL = os.environ.get("FAULTS") == "full"
_reduced: dict[str, str] = {}


def scaled(what: str, *, full: int, quick: int) -> int:
    """The full count under FAULTS=full, else the quick one, which the test run's summary then names."""
    if FULL or quick >= full:
        return full
    _reduced[what] = f"{quick} instead of {full}"
    return quick


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that may take minutes: in the end no process is alone with one. The rest stays random."""
    items.sort(key=lambda item: not any(mark.args[0] > 120 for mark in item.iter_markers("timeout")))


def pytest_sessionfinish(session: Any) -> None:
    """In a process that others have started for their tests: hand over what was scaled down."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["scaled down"] = _reduced


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what such a process scaled down; one that died has said nothing."""
    _reduced.update(getattr(node, "workeroutput", {}).get("scaled down", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was scaled down."""
    if _reduced:
        terminalreporter.section("scaled down (the full size: make faults)")
        for what, how in sorted(_reduced.items()):
            terminalreporter.line(f"{what}: {how}")
