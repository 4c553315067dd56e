"""The daemon as a process: how fast it starts and reports its status, and what it uses, idle and after work.

    python -m bench.start [TEXTS.jsonl.gz] [--source NAME|DIR|WHEEL] [--messages N] [--seconds N]

A real vkteamsd with the bundled PostgreSQL listens to the simulator of the Bot API. The limits are those of the
project. They are absolute, so a busy machine exceeds them: the load is printed with them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench import archive
from vkteams_daemon.daemon import status as status_file
from vkteams_daemon.daemon.status import Status
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.simulator import TOKEN, Simulator

_BIN = Path(__file__).parents[1] / "bin"
_STARTS, _STATUS_CALLS = 5, 10
_RATE = 20.0  # messages a second of steady traffic
_MAX_WAIT = 300.0  # seconds


class Daemon:
    """vkteamsd with a configuration below the directory."""

    def __init__(self, directory: Path, url: str) -> None:
        self._config = directory / "vkteamsd.toml"
        self._status = directory / "run" / "vkteamsd.status.json"
        root = 'user = "root"\nallow_root = true\n' if os.geteuid() == 0 else ""
        self._config.write_text(
            f"[api]\nurl = {json.dumps(url)}\ntoken = {json.dumps(TOKEN)}\n[daemon]\n{root}status_interval = 1\n"
            f'runtime_dir = "{directory}/run"\nstate_dir = "{directory}/state"\n',
            encoding="utf-8",
        )
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(("VKTEAMS_", "DATA"))}
        self._environ["PYTHONPATH"] = str(_BIN.parent)

    def run(self, program: str, *arguments: str) -> None:
        """Run a program of the project with this configuration; it must succeed."""
        command = [sys.executable, str(_BIN / program), "--config", str(self._config), *arguments]
        result = subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{program} {' '.join(arguments)}: exit code {result.returncode}: {result.stderr}")

    def status(self) -> Status:
        """The content of its status file."""
        status = status_file.read(self._status)
        assert status, "the daemon has written its status"
        return status

    def wait(self, condition: Callable[[Status], bool], patience: float = _MAX_WAIT) -> Status:
        """Wait until the status fulfils the condition, for at most `patience` seconds."""
        deadline = time.monotonic() + patience
        while not condition(status := self.status()):
            if time.monotonic() > deadline:
                raise SystemExit(f"the daemon has not reached the state that was waited for: {status}")
            time.sleep(0.1)
        return status


@contextmanager
def running(directory: Path, source: str) -> Iterator[tuple[Daemon, Simulator]]:
    """A running daemon with an int8 model; it is stopped at the end."""
    installer.install(source, directory / "state" / "models", precision="int8")
    with Simulator() as simulator:
        daemon = Daemon(directory, simulator.url)
        daemon.run("vkteamsd")
        try:
            yield daemon, simulator
        finally:
            daemon.run("vkteamsctl", "daemon", "stop")


def restart(daemon: Daemon) -> float:
    """Seconds from the command until the daemon is ready, with an existing database."""
    daemon.run("vkteamsctl", "daemon", "stop")
    return archive.timed(lambda: daemon.run("vkteamsd"))


def converse(daemon: Daemon, simulator: Simulator, texts: list[str]) -> Status:
    """Produce steady traffic; return the status once all of it is stored and embedded."""
    before = daemon.status().events.saved
    due = time.monotonic()
    for number, text in enumerate(texts):
        due += 1 / _RATE
        time.sleep(max(0.0, due - time.monotonic()))
        simulator.say("681869378@chat.agent", f"user{number % 20}@corp.example", text)
    return embedded(daemon, before + len(texts))


def embedded(daemon: Daemon, saved: int, patience: float = _MAX_WAIT) -> Status:
    """The status once so many events are stored and nothing waits for a vector."""
    return daemon.wait(lambda s: s.events.saved >= saved and s.embedding.embedded >= s.events.saved, patience)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, in seconds; fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    """The peak of its resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("proc(5) has VmHWM")


def show(name: str, value: float, unit: str, limit: float | None = None) -> None:
    """One line of the table."""
    verdict = "" if limit is None else f"{limit:10g} {unit:4} {'kept' if value <= limit else 'MISSED'}"
    print(f"{name:60}{value:10.3f} {unit:4}{verdict}")


def main() -> None:
    """Measure starts, status calls, traffic, memory and idle CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--source", default="all-MiniLM-L6-v2", metavar="NAME|DIR|WHEEL")
    parser.add_argument(
        "--messages", type=int, default=3000, metavar="N", help="messages at once, to measure the memory"
    )
    parser.add_argument(
        "--seconds", type=int, default=20, metavar="N", help="length of the steady traffic, and of the idle time"
    )
    options = parser.parse_args()
    texts = archive.read_texts(options.file, options.messages)
    with archive.temporary_directory() as directory, running(directory, options.source) as (daemon, simulator):
        print(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores{'limit':>52}")
        show("from the command to ready, existing database (median)", median(restart(daemon) for _ in range(_STARTS)),
             "s", 2.0)  # fmt: skip
        status_times = [
            archive.timed(lambda: daemon.run("vkteamsctl", "daemon", "status")) for _ in range(_STATUS_CALLS)
        ]
        show("vkteamsctl daemon status (median)", median(status_times), "s", 0.15)
        latency = converse(daemon, simulator, texts[: int(options.seconds * _RATE)]).latency_ms
        show(f"from the poll's answer to the row, {_RATE:g} messages/s, p50", latency.poll_to_row.p50 or 0, "ms")
        show("the same, p99", latency.poll_to_row.p99 or 0, "ms", 50.0)
        show("from the row to its vector, p50", latency.row_to_vector.p50 or 0, "ms")
        show("the same, p99", latency.row_to_vector.p99 or 0, "ms")
        say_at_once(simulator, texts)
        status = embedded(daemon, len(texts))
        show(f"memory after {len(texts)} messages at once", status.rss_bytes / 1e6, "MB", 300.0)
        show("its peak", peak_bytes(status.pid) / 1e6, "MB")
        time.sleep(2)  # until the index is maintained and the files are written
        before = cpu_seconds(status.pid)
        time.sleep(options.seconds)
        used = cpu_seconds(status.pid) - before
        show(f"CPU while idle, of a core, over {options.seconds} s", 100 * used / options.seconds, "%", 0.5)


def say_at_once(simulator: Simulator, texts: list[str]) -> None:
    """Say all these texts without a pause."""
    for number, text in enumerate(texts):
        simulator.say("681869379@chat.agent", f"user{number % 20}@corp.example", text)


if __name__ == "__main__":
    main()
