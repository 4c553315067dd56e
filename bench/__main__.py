"""The benchmarks that need no data of their own, one after another: `make bench`, or `python -m bench`.

`python -m bench.NAME --help` says what each one measures. VKTEAMS_BENCH_DATA names the file of their texts (JSON Lines,
gzipped, a `text` in each line); without it they use built-in texts.
"""

from __future__ import annotations

import subprocess
import sys

_PARTS = ("ingest", "model", "embed", "start", "russian")


def main() -> int:
    """Run each in a process of its own; return the highest of their exit codes."""
    worst = 0
    for part in _PARTS:
        print(f"== bench.{part}", flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", f"bench.{part}"], check=False).returncode)
        print(flush=True)
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
