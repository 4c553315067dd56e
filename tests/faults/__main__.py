"""The fault table at full size, row by row: `make faults`, `make faults ROW=4`, `make faults ROW='1 2 3'`.

    python -m tests.faults [--quick | --scale X] [--report FILE] [ROW ...]

`make faults ROW=18 SCALE=0.3` plays 0.3 of the row's sizes, where the full ones take too long. Its line says so.

Each row runs in a process of its own. Its outcome, its counts and its figures are printed as a line of the table of
docs/reliability.md, and appended to the report (JSON Lines). The exit code is 1 if a row failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.faults.rows import ROWS, Row

ROOT = Path(__file__).parents[2]


def command(row: Row, scale: float = 1.0) -> list[str]:
    """The command that plays a row."""
    if row.command:
        words = {"python": sys.executable, "HOURS": f"{row.hours * scale:g}"}
        return [words.get(part, part) for part in row.command]
    tests = [f"tests/{test}" for test in row.tests]
    return [sys.executable, "-m", "pytest", "-n0", "-q", "--timeout=0", *tests]


def play(number: int, *, quick: bool, scale: float = 1.0) -> dict[str, Any]:
    """Play one row; returns what there is to say about it."""
    row = ROWS[number]
    print(f"\n== row {number}: {row.title}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "figures.json"
        environment = os.environ | {
            "FAULTS": "" if quick else "full", "FAULTS_SCALE": str(scale), "FAULTS_FIGURES": str(file),
        }  # fmt: skip
        process = subprocess.Popen(
            command(row, scale), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        last = ""
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        process.wait()
        measured = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"sizes": {}, "figures": {}}
    counts = re.findall(r"\d+ (?:passed|failed|skipped|errors?|xfailed)", last)
    return {
        "row": number,
        "title": row.title,
        "outcome": "failed" if process.returncode else "passed",
        "tests": ", ".join(counts),
        "scale": scale,
        **measured,
        "seconds": round(time.monotonic() - began),
        "commit": _commit(),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True, capture_output=True, check=False
    )
    return done.stdout.strip() or "unknown"


def table_line(result: dict[str, Any]) -> str:
    """The result as a line of the table in docs/reliability.md."""
    sizes = [f"{what}: {count:,}" for what, count in result["sizes"].items()]
    figures = [f"{what}: {value:.3g}" for what, value in result["figures"].items()]
    scale = [] if result["scale"] == 1 else [f"at {result['scale']:g} of the full size"]
    size = "; ".join([*scale, *sizes, *([result["tests"]] if result["tests"] else [])])
    outcome = "; ".join([result["outcome"], *figures])
    cells = (result["row"], size, f"{result['seconds']} s", result["ended_at"][:10], f"`{result['commit']}`", outcome)
    return f"| {' | '.join(map(str, cells))} |"


def main() -> int:
    """Play the rows; 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Play the fault table, row by row.")
    parser.add_argument("rows", nargs="*", type=int, metavar="ROW", help="all of them without one")
    parser.add_argument("--quick", action="store_true", help="scaled down, as `make test` runs it")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="so much of each full size")
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "faults.jsonl", help="the results are appended")
    options = parser.parse_args()
    if unknown := [number for number in options.rows if number not in ROWS]:
        parser.error(f"there is no row {unknown[0]}; the rows are {min(ROWS)} to {max(ROWS)}")
    results = []
    options.report.parent.mkdir(parents=True, exist_ok=True)
    for number in options.rows or ROWS:
        result = play(number, quick=options.quick, scale=options.scale)
        results.append(result)
        with options.report.open("a", encoding="utf-8") as report:
            report.write(json.dumps(result, ensure_ascii=False) + "\n")
    print("\n| row | size | took | date | commit | outcome |\n| --- | --- | --- | --- | --- | --- |")
    print("\n".join(map(table_line, results)))
    return int(any(result["outcome"] == "failed" for result in results))


if __name__ == "__main__":
    sys.exit(main())
