"""What the benchmarks share: the bundled PostgreSQL in a temporary directory, texts as a chat's events, and a meter.

The server is the one that vkteamsd starts by itself, with fsync on.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vkteams_daemon.botapi.events import Event, read
from vkteams_daemon.config import Config
from vkteams_daemon.embedding.install import samples
from vkteams_daemon.options import Daemon
from vkteams_daemon.store.database import Database
from vkteams_daemon.system.user import choose_owner

DATA = "VKTEAMS_BENCH_DATA"  # names a file of texts, if the command line names none
_CHATS, _USERS = 20, 200
_START = 1_700_000_000


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """A temporary directory that the server's user can traverse."""
    with tempfile.TemporaryDirectory(prefix="vkteams-bench-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        if os.geteuid() == 0:
            # PostgreSQL does not run as root, and these archives hold nothing of value.
            choose_owner("nobody").make_directory(Path(directory) / "state" / "postgresql", 0o750)
        yield Path(directory)


@contextlib.contextmanager
def database(directory: Path) -> Iterator[Database]:
    """A new archive below the directory, with a connection pool for several threads."""
    config = Config(daemon=Daemon(state_dir=str(directory / "state"), runtime_dir=str(directory / "run")))
    with Database(config, application="bench") as opened:
        yield opened


def read_texts(file: Path | None, count: int) -> list[str]:
    """So many texts of the file, a fixed sample in the file's order; without a file the built-in texts, numbered."""
    file = file or (Path(os.environ[DATA]) if os.environ.get(DATA) else None)
    if file is None:
        texts = samples.sample_texts()
        return [f"{texts[i % len(texts)]} {i // len(texts) or ''}".rstrip() for i in range(count)]
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        texts = [text for line in lines if (text := json.loads(line).get("text") or "").strip()]
    sample = sorted(random.Random(1).sample(range(len(texts)), min(count, len(texts))))
    return [texts[i] for i in sample]


def bodies(texts: Sequence[str], size: int, *, first_id: int = 1) -> list[bytes]:
    """Answers of events/get with `size` new messages each, as the Bot API writes them."""
    answers = []
    for start in range(0, len(texts), size):
        events = [_event(first_id + start + i, text) for i, text in enumerate(texts[start : start + size])]
        answers.append(json.dumps({"ok": True, "events": events}, ensure_ascii=False).encode())
    return answers


def batches(texts: Sequence[str], size: int, *, first_id: int = 1) -> list[list[Event]]:
    """The same answers, parsed."""
    now = datetime.now(UTC)
    return [read(body, now) for body in bodies(texts, size, first_id=first_id)]


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of some work: seconds on the clock, and seconds of CPU in this process and the server."""

    wall: float
    cpu: float

    def __mul__(self, times: float) -> Cost:
        """The cost of so many times the work."""
        return Cost(self.wall * times, self.cpu * times)

    def __add__(self, other: Cost) -> Cost:
        """The cost of both works, one after the other."""
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


class Best:
    """The lowest cost of each way, on the clock and of CPU."""

    def __init__(self) -> None:
        self._costs: dict[str, Cost] = {}

    def add(self, name: str, cost: Cost) -> None:
        """Add one more run of this way."""
        least = self._costs.get(name, cost)
        self._costs[name] = Cost(min(least.wall, cost.wall), min(least.cpu, cost.cpu))

    def __getitem__(self, name: str) -> Cost:
        return self._costs[name]


class Meter:
    """Measures the cost of work with the server below the directory.

    CPU time hardly depends on what else the machine does. On a quiet machine where every core has work, it is what the
    clock shows.
    """

    def __init__(self, directory: Path) -> None:
        self._server = directory / "state"

    def cost(self, work: Callable[[], object]) -> Cost:
        """Do the work, and return its cost."""
        cpu, wall = self._cpu(), time.perf_counter()
        work()
        return Cost(time.perf_counter() - wall, self._cpu() - cpu)

    def _cpu(self) -> float:
        """CPU seconds of this process, the server's processes, and its children that have ended (proc(5), stat)."""
        ticks = 0
        for file in self._server.rglob("postmaster.pid"):
            server = int(file.read_text().split()[0])
            while True:
                before, ticks = _ticks(server), sum(_ticks(child)[0] for child in _children(server))
                if before == (after := _ticks(server)):  # otherwise a child has ended meanwhile
                    ticks += sum(after)
                    break
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> tuple[int, int]:
    """CPU ticks of the process, and of its children that have ended; zeros if the process is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return 0, 0


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def timed(work: Callable[[], object]) -> float:
    """How many seconds the work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _event(number: int, text: str) -> dict[str, object]:
    chat, user = number % _CHATS, number * 7 % _USERS
    return {
        "eventId": number,
        "type": "newMessage",
        "payload": {
            "msgId": str(7_576_322_310_144_000_000 + number),
            "chat": {"chatId": f"{681869378 + chat}@chat.agent", "type": "group", "title": f"Room {chat}"},
            "from": {"userId": f"user{user}@corp.example", "firstName": f"First{user}", "lastName": f"Last{user}"},
            "timestamp": _START + number,
            "text": text,
        },
    }
