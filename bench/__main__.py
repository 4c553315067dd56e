"""Every benchmark behind docs/benchmarks.md, one after another: `make bench`, or `python -m bench`.

What they measure is said by `python -m bench.NAME --help`. The texts are those of the file that VKTEAMS_BENCH_DATA
names (JSON Lines, gzipped, a `text` in each), or built-in ones.
"""

from __future__ import annotations

import subprocess
import sys

_PARTS = ("ingest", "model", "embed", "start")


def main() -> int:
    """Run each in a process of its own; the exit code is the worst of theirs."""
    worst = 0
    for part in _PARTS:
        print(f"== bench.{part}", flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", f"bench.{part}"], check=False).returncode)
        print(flush=True)
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
