"""What the benchmarks stand on: the bundled PostgreSQL in a temporary directory, and texts as a chat's events.

The server is the one that vkteamsd starts for itself, with fsync on.
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

DATA = "VKTEAMS_BENCH_DATA"  # names a file of texts where the command line names none
_CHATS, _USERS = 20, 200
_START = 1_700_000_000


@contextlib.contextmanager
def place() -> Iterator[Path]:
    """A temporary directory that the server's user can pass through."""
    with tempfile.TemporaryDirectory(prefix="vkteams-bench-", dir="/tmp") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory)


@contextlib.contextmanager
def database(directory: Path) -> Iterator[Database]:
    """A new archive below the directory, with a pool for several threads."""
    config = Config(daemon=Daemon(state_dir=str(directory / "state"), runtime_dir=str(directory / "run")))
    with Database(config, application="bench") as opened:
        yield opened


def read_texts(file: Path | None, count: int) -> list[str]:
    """That many texts of the file, a fixed sample in their order; without a file the built-in ones, numbered."""
    named = file or (Path(os.environ[DATA]) if os.environ.get(DATA) else None)
    if named is None:
        texts = samples.texts()
        return [f"{texts[i % len(texts)]} {i // len(texts) or ''}".rstrip() for i in range(count)]
    with gzip.open(named, "rt", encoding="utf-8") as lines:
        texts = [text for line in lines if (text := json.loads(line).get("text") or "").strip()]
    chosen = sorted(random.Random(1).sample(range(len(texts)), min(count, len(texts))))
    return [texts[i] for i in chosen]


def bodies(texts: Sequence[str], size: int, *, first_id: int = 1) -> list[bytes]:
    """Answers of events/get with `size` new messages each, as the Bot API writes them."""
    answers = []
    for start in range(0, len(texts), size):
        events = [_event(first_id + start + i, text) for i, text in enumerate(texts[start : start + size])]
        answers.append(json.dumps({"ok": True, "events": events}, ensure_ascii=False).encode())
    return answers


def batches(texts: Sequence[str], size: int, *, first_id: int = 1) -> list[list[Event]]:
    """The same answers, read."""
    now = datetime.now(UTC)
    return [read(body, now) for body in bodies(texts, size, first_id=first_id)]


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took: seconds by the clock, and seconds of CPU of this process and of the server."""

    wall: float
    cpu: float

    def __mul__(self, times: float) -> Cost:
        """The cost of so many times as much."""
        return Cost(self.wall * times, self.cpu * times)

    def __add__(self, other: Cost) -> Cost:
        """The cost of both, one after another."""
        return Cost(self.wall + other.wall, self.cpu + other.cpu)


class Best:
    """The least that each way has taken, by the clock and of CPU."""

    def __init__(self) -> None:
        self._costs: dict[str, Cost] = {}

    def note(self, name: str, cost: Cost) -> None:
        """One more run of this way."""
        least = self._costs.get(name, cost)
        self._costs[name] = Cost(min(least.wall, cost.wall), min(least.cpu, cost.cpu))

    def __getitem__(self, name: str) -> Cost:
        return self._costs[name]


class Meter:
    """Takes the cost of things done with the server below the directory.

    The CPU's share hardly depends on what else the machine does, and on a quiet one, where every core has work, it is
    what the clock shows.
    """

    def __init__(self, directory: Path) -> None:
        self._server = directory / "state"

    def cost(self, work: Callable[[], object]) -> Cost:
        """Do it."""
        cpu, wall = self._cpu(), time.perf_counter()
        work()
        return Cost(time.perf_counter() - wall, self._cpu() - cpu)

    def _cpu(self) -> float:
        """Of this process, of the server's processes and of those it has already ended (proc(5), stat)."""
        ticks = 0
        for file in self._server.rglob("postmaster.pid"):
            server = int(file.read_text().split()[0])
            while True:
                before, ticks = _ticks(server), sum(_ticks(child)[0] for child in _children(server))
                if before == (after := _ticks(server)):  # otherwise one has ended meanwhile
                    ticks += sum(after)
                    break
        return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> tuple[int, int]:
    """CPU of the process, and of its children that have ended; zeros when it has gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return 0, 0


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
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
