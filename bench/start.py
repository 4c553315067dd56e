"""The daemon as a process: how soon it is ready and says how it is, and what it takes, idle and after work.

    python -m bench.start [TEXTS.jsonl.gz] [--source NAME|DIR|WHEEL] [--messages N] [--seconds N]

A real vkteamsd with the bundled PostgreSQL listens to the simulator of the Bot API. The limits are those of the
project; they are absolute, so a busy machine fails them: the load is printed with them.
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
_STARTS, _ASKED = 5, 10
_RATE = 20.0  # messages a second of steady traffic
_PATIENCE = 300.0


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
        """Run a program of the project on it; it has to succeed."""
        command = [sys.executable, str(_BIN / program), "--config", str(self._config), *arguments]
        done = subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{program} {' '.join(arguments)}: exit code {done.returncode}: {done.stderr}")

    def status(self) -> Status:
        """What its status file says."""
        found = status_file.read(self._status)
        assert found, "the daemon has written its status"
        return found

    def wait(self, what: Callable[[Status], bool]) -> Status:
        """Wait until the status says so."""
        deadline = time.monotonic() + _PATIENCE
        while not what(found := self.status()):
            if time.monotonic() > deadline:
                raise SystemExit(f"the daemon does not come so far: {found}")
            time.sleep(0.1)
        return found


@contextmanager
def running(directory: Path, source: str) -> Iterator[tuple[Daemon, Simulator]]:
    """A daemon that has been started once, with an int8 model; stopped at the end."""
    installer.install(source, directory / "state" / "models", precision="int8")
    with Simulator() as simulator:
        daemon = Daemon(directory, simulator.url)
        daemon.run("vkteamsd")
        try:
            yield daemon, simulator
        finally:
            daemon.run("vkteamsctl", "daemon", "stop")


def restart(daemon: Daemon) -> float:
    """Seconds from the command to a daemon that is ready, with an existing database."""
    daemon.run("vkteamsctl", "daemon", "stop")
    return archive.timed(lambda: daemon.run("vkteamsd"))


def converse(daemon: Daemon, simulator: Simulator, texts: list[str]) -> Status:
    """Steady traffic; the status once all of it is stored and embedded."""
    before = daemon.status().events.saved
    due = time.monotonic()
    for number, text in enumerate(texts):
        due += 1 / _RATE
        time.sleep(max(0.0, due - time.monotonic()))
        simulator.say("681869378@chat.agent", f"user{number % 20}@corp.example", text)
    return worked_off(daemon, before + len(texts))


def worked_off(daemon: Daemon, saved: int) -> Status:
    """The status once so many events are stored and nothing waits for a vector."""
    return daemon.wait(lambda s: s.events.saved >= saved and s.embedding.embedded >= s.events.saved)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes(pid: int) -> int:
    """The most memory that it ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("proc(5) has VmHWM")


def show(what: str, value: float, unit: str, limit: float | None = None) -> None:
    """One line of the table."""
    verdict = "" if limit is None else f"{limit:10g} {unit:4} {'kept' if value <= limit else 'MISSED'}"
    print(f"{what:60}{value:10.3f} {unit:4}{verdict}")


def main() -> None:
    """Start, ask, talk, wait."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--source", default="all-MiniLM-L6-v2", metavar="NAME|DIR|WHEEL")
    parser.add_argument("--messages", type=int, default=3000, metavar="N", help="said at once, for the memory")
    parser.add_argument("--seconds", type=int, default=20, metavar="N", help="of steady traffic, and of idleness")
    options = parser.parse_args()
    texts = archive.read_texts(options.file, options.messages)
    with archive.place() as directory, running(directory, options.source) as (daemon, simulator):
        print(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores{'limit':>52}")
        show("from the command to ready, existing database (median)", median(restart(daemon) for _ in range(_STARTS)),
             "s", 2.0)  # fmt: skip
        asked = [archive.timed(lambda: daemon.run("vkteamsctl", "daemon", "status")) for _ in range(_ASKED)]
        show("vkteamsctl daemon status (median)", median(asked), "s", 0.15)
        talked = converse(daemon, simulator, texts[: int(options.seconds * _RATE)]).latency_ms
        show(f"from the poll's answer to the row, {_RATE:g} messages/s, p50", talked.poll_to_row.p50 or 0, "ms")
        show("the same, p99", talked.poll_to_row.p99 or 0, "ms", 50.0)
        show("from the row to its vector, p50", talked.row_to_vector.p50 or 0, "ms")
        show("the same, p99", talked.row_to_vector.p99 or 0, "ms")
        simulator_texts(simulator, texts)
        status = worked_off(daemon, len(texts))
        show(f"memory after {len(texts)} messages at once", status.rss_bytes / 1e6, "MB", 300.0)
        show("its peak", peak_bytes(status.pid) / 1e6, "MB")
        time.sleep(2)  # the index is looked after and the files are written
        before = cpu_seconds(status.pid)
        time.sleep(options.seconds)
        used = cpu_seconds(status.pid) - before
        show(f"CPU while idle, of a core, over {options.seconds} s", 100 * used / options.seconds, "%", 0.5)


def simulator_texts(simulator: Simulator, texts: list[str]) -> None:
    """All of them at once."""
    for number, text in enumerate(texts):
        simulator.say("681869379@chat.agent", f"user{number % 20}@corp.example", text)


if __name__ == "__main__":
    main()
