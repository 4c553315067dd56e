"""The fault table: every row names tests that there are, and docs/reliability.md has every row."""

from __future__ import annotations

import re
import sys

import pytest

from tests.faults.__main__ import command, table_line
from tests.faults.rows import ROWS
from tests.harness import scale
from tests.harness.daemon import ROOT

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", ROWS)
def test_row_names_tests_that_exist(number: int) -> None:
    row = ROWS[number]
    assert bool(row.tests) != bool(row.command)
    for test in row.tests:
        name, _, function = test.partition("::")
        text = (ROOT / "tests" / name).read_text(encoding="utf-8")
        assert not function or f"def {function}(" in text, test
    assert command(row)[0] in (sys.executable, "make")


def test_every_test_of_faults_belongs_to_a_row() -> None:
    named = {test.partition("::")[::2] for row in ROWS.values() for test in row.tests}
    for path in (ROOT / "tests" / "faults").glob("test_*.py"):
        file = f"faults/{path.name}"
        for function in re.findall(r"(?m)^def (test_\w+)\(", path.read_text(encoding="utf-8")):
            assert {(file, ""), (file, function)} & named, f"{file}::{function}: tests/faults/rows.py"


def test_the_page_describes_every_row_and_has_its_outcome() -> None:
    faults, _, outcomes = PAGE.partition("\n## The fault table\n")[2].partition("\n## Outcomes\n")
    described = dict(re.findall(r"(?m)^\| (\d+) \| ([^|]+) \|", faults))
    assert described == {str(number): row.title for number, row in ROWS.items()}
    assert sorted({int(number) for number in re.findall(r"(?m)^\| (\d+) \|", outcomes)}) == sorted(ROWS)


def test_result_is_a_line_of_the_table() -> None:
    result = {
        "row": 4, "title": "x", "outcome": "passed", "scale": 1.0, "tests": "1 passed", "sizes": {"seconds": 1800},
        "figures": {"memory grew by, MB": 1.234}, "seconds": 1830, "commit": "abc1234",
        "ended_at": "2026-11-30T10:00:00+00:00",
    }  # fmt: skip
    assert table_line(result) == (
        "| 4 | seconds: 1,800; 1 passed | 1830 s | 2026-11-30 | `abc1234` | passed; memory grew by, MB: 1.23 |"
    )
    assert table_line({**result, "scale": 0.3}).startswith("| 4 | at 0.3 of the full size; seconds: 1,800; 1 passed |")


def test_a_scale_shortens_a_row_and_never_below_the_quick_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "FULL", True)
    monkeypatch.setattr(scale, "_sizes", {})
    monkeypatch.setattr(scale, "SCALE", 0.25)
    assert scale.scaled("x", full=200, quick=20) == 50
    assert scale.scaled("x", full=200, quick=100) == 100
    assert scale.scaled("x", full=10, quick=20) == 10
    assert command(ROWS[13], 0.25)[-1] == "0.5"
