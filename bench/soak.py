"""The daemon for hours: whether its memory, its files and its threads stay what they were.

    python -m bench.soak [TEXTS.jsonl.gz] [--source NAME|DIR|WHEEL] [--hours H] [--rate N]

A real vkteamsd with the bundled PostgreSQL listens to the simulator, which hands out `--rate` events a second: new
messages, every tenth of them edited, every fiftieth deleted. What the process takes is looked at every ten seconds; its
memory's slope is a line through what was seen in the second half, when it is warm. At the end every event has to be
stored, and every message to have its vector. The limits are those of the project.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import archive
from bench.start import Daemon, running, show
from vkteams_daemon.config import Config
from vkteams_daemon.options import Daemon as Options
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store.database import Database

_CHATS = ("681869378@chat.agent", "681869379@chat.agent", "anna@corp.example")
_EVERY = 10.0  # seconds between two looks
_REPORT = 60  # looks between two lines


@dataclass(frozen=True, slots=True)
class Look:
    """What the process takes at one moment; milliseconds from the poll's answer to the row."""

    at: float
    rss: int
    files: int
    threads: int
    p99: float


def look(daemon: Daemon, begin: float) -> Look:
    """Look once."""
    status = daemon.status()
    process = Path(f"/proc/{status.pid}")
    return Look(
        time.monotonic() - begin,
        status.rss_bytes,
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        status.latency_ms.poll_to_row.p99 or 0.0,
    )


def talk(simulator: Simulator, number: int, text: str) -> int:
    """Say something, now and then edit or delete it; how many events that was."""
    payload: dict[str, Any] = simulator.say(
        _CHATS[number % len(_CHATS)], f"user{number % 200}@corp.example", f"{text} {number}"
    )["payload"]
    if number % 50 == 49:
        simulator.event("deletedMessage", {key: payload[key] for key in ("chat", "msgId", "timestamp")})
    elif number % 10 == 9:
        simulator.event("editedMessage", {**payload, "text": f"{payload['text']}!", "editedTimestamp": time.time()})
    else:
        return 1
    return 2


def soak(daemon: Daemon, simulator: Simulator, texts: list[str], seconds: float, rate: float) -> tuple[int, list[Look]]:
    """Talk for so long; how many events there were, and what was seen meanwhile."""
    begin = time.monotonic()
    looks: list[Look] = []
    events, due = 0, 0.0
    for number in itertools.count():
        time.sleep(max(0.0, begin + due - time.monotonic()))
        count = talk(simulator, number, texts[number % len(texts)])
        events += count
        due += count / rate
        if due >= _EVERY * (len(looks) + 1):
            looks.append(look(daemon, begin))
            if len(looks) % _REPORT == 0:
                print(f"{looks[-1].at / 60:5.0f} min: {looks[-1]}", flush=True)
        if due >= seconds:
            return events, [*looks, look(daemon, begin)]
    raise AssertionError("unreachable")


def stored(directory: Path) -> tuple[int, int]:
    """How many events the archive has, and how many of its messages lack a vector."""
    config = Config(daemon=Options(state_dir=str(directory / "state"), runtime_dir=str(directory / "run")))
    with Database(config, application="bench") as database, database.connection() as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM events), count(*) FROM messages m WHERE deleted_at IS NULL AND NOT EXISTS"
            " (SELECT FROM embeddings e WHERE e.chat_id = m.chat_id AND e.msg_id = m.msg_id)"
        ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def main() -> int:
    """Talk, look, count; exit code 1 where a limit was missed or an event."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--source", default="all-MiniLM-L6-v2", metavar="NAME|DIR|WHEEL")
    parser.add_argument("--hours", type=float, default=2.0, metavar="H")
    parser.add_argument("--rate", type=float, default=20.0, metavar="N", help="events a second")
    options = parser.parse_args()
    texts = archive.read_texts(options.file, 2000)
    with archive.place() as directory, running(directory, options.source) as (daemon, simulator):
        events, looks = soak(daemon, simulator, texts, options.hours * 3600, options.rate)
        daemon.wait(lambda s: s.events.saved >= events and not s.embedding.queued)
        rows, silent = stored(directory)
    warm = looks[len(looks) // 2 :]
    tenth = -(-len(warm) // 10)

    def grown(what: Callable[[Look], float]) -> float:
        return float(np.median([what(one) for one in warm[-tenth:]]) - np.median([what(one) for one in warm[:tenth]]))

    slope = float(np.polyfit([one.at / 3600 for one in warm], [one.rss / 1e6 for one in warm], 1)[0])
    figures = [
        ("memory, a line through the second half", slope, "MB/h", 1.0),
        ("memory at the end", looks[-1].rss / 1e6, "MB", 300.0),
        ("open files, more at the end of it than at its beginning", grown(lambda one: one.files), "", 0.0),
        ("threads, the same", grown(lambda one: one.threads), "", 0.0),
        ("from the poll's answer to the row, p99, median", float(np.median([o.p99 for o in warm])), "ms", 50.0),
        ("the same at its worst", max(o.p99 for o in warm), "ms", 50.0),
        ("events that are missing, or too many", abs(events - rows), "", 0.0),
        ("messages without a vector", silent, "", 0.0),
    ]
    print(f"{events} events in {options.hours:g} h{'limit':>72}")
    for figure in figures:
        show(*figure)
    return int(any(value > limit for _, value, _, limit in figures))


if __name__ == "__main__":
    sys.exit(main())
