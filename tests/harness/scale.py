"""How much of a long test is done: the full size under FAULTS=full, otherwise less; what was reduced is printed.

Where the tests run in several processes (pytest-xdist), each hands its counts and figures to the one that prints the
summary. `python -m tests.faults` reads them from the file that FAULTS_FIGURES names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("FAULTS") == "full"
_sizes: dict[str, tuple[int, int]] = {}
_figures: dict[str, float] = {}


def scaled(what: str, *, full: int, quick: int) -> int:
    """The full count under FAULTS=full, else the quick one, which the test run's summary then names."""
    count = full if FULL or quick >= full else quick
    _sizes[what] = (count, full)
    return count


def figure(what: str, value: float) -> None:
    """Keep a measured figure, its unit in `what`; of several the highest counts."""
    _figures[what] = max(value, _figures.get(what, value))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with those that may take minutes: in the end no process is alone with one. The rest stays random."""
    items.sort(key=lambda item: not any(mark.args[0] > 120 for mark in item.iter_markers("timeout")))


def pytest_sessionfinish(session: Any) -> None:
    """In a process that others have started for their tests: hand over its sizes and figures. Else write them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["scale"] = (_sizes, _figures)
    elif file := os.environ.get("FAULTS_FIGURES"):
        sizes = {what: count for what, (count, _) in _sizes.items()}
        Path(file).write_text(json.dumps({"sizes": sizes, "figures": _figures}), encoding="utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over the sizes and figures of such a process; one that died has said nothing."""
    sizes, figures = getattr(node, "workeroutput", {}).get("scale", ({}, {}))
    _sizes.update({what: tuple(counts) for what, counts in sizes.items()})
    for what, value in figures.items():
        figure(what, value)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was scaled down, and what was measured."""
    reduced = {what: counts for what, counts in _sizes.items() if counts[0] < counts[1]}
    if reduced:
        terminalreporter.section("scaled down (the full size: make faults)")
        for what, (count, full) in sorted(reduced.items()):
            terminalreporter.line(f"{what}: {count} instead of {full}")
    if _figures:
        terminalreporter.section("measured")
        for what, value in sorted(_figures.items()):
            terminalreporter.line(f"{what}: {value:.3g}")
