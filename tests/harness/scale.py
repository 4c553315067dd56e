"""How much of a long test is done: the full size under FAULTS=full, otherwise less; what was reduced is printed.

Under FAULTS=full, FAULTS_SCALE=0.4 plays 0.4 of each full size, but never less than the quick one.

Where the tests run in several processes (pytest-xdist), each hands its counts and figures to the one that prints the
summary. `python -m tests.faults` reads them from the file that FAULTS_FIGURES names.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

FULL = os.environ.get("FAULTS") == "full"
SCALE = float(os.environ.get("FAULTS_SCALE", "1"))
_sizes: dict[str, tuple[int, int]] = {}
_figures: dict[str, float] = {}


def scaled(what: str, *, full: int, quick: int) -> int:
    """The full count under FAULTS=full, else the quick one; the test run's summary names what is less than full."""
    count = _of(full, quick)
    _sizes[what] = (count, full)
    return count


def _of(full: int, quick: int) -> int:
    return min(full, max(quick, round(full * SCALE)) if FULL else quick)


def figure(what: str, value: float) -> None:
    """Keep a measured figure, its unit in `what`; of several the highest counts."""
    _figures[what] = max(value, _figures.get(what, value))


def drawn(what: str, names: Iterable[str], *, quick: int) -> Any:
    """A mark that runs a test once for each name, as its argument `name`; without FAULTS=full for fewer of them.

    Then the names are `quick` groups, and each run of the tests draws one name of each group by chance. All processes
    that share the tests see the same groups.
    """
    every = list(names)
    count = _of(len(every), quick)
    groups = [tuple(every[n::count]) for n in range(count)]
    ids = [group[0] if len(group) == 1 else f"one of {', '.join(group)}" for group in groups]
    values = [(what, len(every), count, group) for group in groups]
    return pytest.mark.parametrize("name", values, ids=ids, indirect=True)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name that `drawn` gives the test."""
    what, full, quick, group = request.param
    scaled(what, full=full, quick=quick)
    return random.choice(group)


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
