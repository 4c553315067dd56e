"""The daemon for hours: whether its memory, its files and its threads stay what they were.

    python -m bench.soak [TEXTS.jsonl.gz] [--source NAME|DIR|WHEEL] [--hours H] [--rate N]

A real vkteamsd with the bundled PostgreSQL listens to the simulator, which produces `--rate` events a second: new
messages, every tenth of them edited, every fiftieth deleted. Every ten seconds the benchmark samples what the process
uses. The slope of its memory is a line through the samples of the second half, when the process is warm. At the end
every event must be stored, and every message must have its vector. The limits are those of the project.

On a shared machine the times are those of its neighbours too. So each sample has the pressure on the processors: the
share of the last minute in which some process waited for one, in percent. The times of the quietest tenth of the
samples are printed beside those of all. `--samples FILE` keeps every sample, as JSON Lines.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
_INTERVAL = 10.0  # seconds between two samples
_REPORT = 60  # samples between two lines


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process uses at one moment.

    Attributes:
        p50, p99: milliseconds from the poll's answer to the row, over the last thousand answers.
        pressure: the share of the last minute in which some process of the machine waited for a processor, in percent.
    """

    seconds: float
    rss: int
    files: int
    threads: int
    p50: float
    p99: float
    pressure: float


def cpu_pressure() -> float:
    """The pressure on the processors over the last minute, in percent; 0 where the kernel does not measure it."""
    try:
        some = Path("/proc/pressure/cpu").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return 0.0
    return float(dict(pair.split("=") for pair in some.split()[1:])["avg60"])


def take_sample(daemon: Daemon, begin: float) -> Sample:
    """Take one sample."""
    status = daemon.status()
    process = Path(f"/proc/{status.pid}")
    return Sample(
        time.monotonic() - begin,
        status.rss_bytes,
        len(list((process / "fd").iterdir())),
        len(list((process / "task").iterdir())),
        status.latency_ms.poll_to_row.p50 or 0.0,
        status.latency_ms.poll_to_row.p99 or 0.0,
        cpu_pressure(),
    )


def talk(simulator: Simulator, number: int, text: str) -> int:
    """Say something, and sometimes edit or delete it; return how many events that makes."""
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


def soak(
    daemon: Daemon, simulator: Simulator, texts: list[str], seconds: float, rate: float, keep: Path | None
) -> tuple[int, list[Sample]]:
    """Talk for so long; return how many events there were, and the samples, which go to the file too."""
    begin = time.monotonic()
    samples: list[Sample] = []
    events, due = 0, 0.0
    for number in itertools.count():
        time.sleep(max(0.0, begin + due - time.monotonic()))
        count = talk(simulator, number, texts[number % len(texts)])
        events += count
        due += count / rate
        if due >= _INTERVAL * (len(samples) + 1):
            samples.append(take_sample(daemon, begin))
            if keep:
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(samples[-1])) + "\n")
            if len(samples) % _REPORT == 0:
                print(f"{samples[-1].seconds / 60:5.0f} min: {samples[-1]}", flush=True)
        if due >= seconds:
            return events, [*samples, take_sample(daemon, begin)]
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
    """Talk, sample, count; return 1 if a limit was exceeded or an event is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--source", default="all-MiniLM-L6-v2", metavar="NAME|DIR|WHEEL")
    parser.add_argument("--hours", type=float, default=2.0, metavar="H")
    parser.add_argument("--rate", type=float, default=20.0, metavar="N", help="events a second")
    parser.add_argument("--samples", type=Path, metavar="FILE", help="append every sample to it")
    options = parser.parse_args()
    texts = archive.read_texts(options.file, 2000)
    with archive.temporary_directory() as directory, running(directory, options.source) as (daemon, simulator):
        events, samples = soak(daemon, simulator, texts, options.hours * 3600, options.rate, options.samples)
        daemon.wait(lambda s: s.events.saved >= events and not s.embedding.queued)
        rows, without_vector = stored(directory)
    warm = samples[len(samples) // 2 :]
    tenth = -(-len(warm) // 10)
    quiet = sorted(warm, key=lambda one: one.pressure)[:tenth]

    def growth(value: Callable[[Sample], float]) -> float:
        return float(np.median([value(one) for one in warm[-tenth:]]) - np.median([value(one) for one in warm[:tenth]]))

    slope = float(np.polyfit([one.seconds / 3600 for one in warm], [one.rss / 1e6 for one in warm], 1)[0])
    figures: list[tuple[str, float, str, float | None]] = [
        ("memory, a line through the second half", slope, "MB/h", 1.0),
        ("memory at the end", samples[-1].rss / 1e6, "MB", 300.0),
        ("open files, growth within the second half", growth(lambda one: one.files), "", 0.0),
        ("threads, growth within the second half", growth(lambda one: one.threads), "", 0.0),
        ("from the poll's answer to the row, p99, median", float(np.median([o.p99 for o in warm])), "ms", 50.0),
        ("the same at its worst", max(o.p99 for o in warm), "ms", 50.0),
        ("the same, p50, median", float(np.median([o.p50 for o in warm])), "ms", None),
        ("the same in the quietest tenth, p99, median", float(np.median([o.p99 for o in quiet])), "ms", None),
        ("pressure on the processors, median", float(np.median([o.pressure for o in warm])), "%", None),
        ("pressure on the processors in the quietest tenth", max(o.pressure for o in quiet), "%", None),
        ("events that are missing, or too many", abs(events - rows), "", 0.0),
        ("messages without a vector", without_vector, "", 0.0),
    ]
    print(f"{events} events in {options.hours:g} h{'limit':>72}")
    for figure in figures:
        show(*figure)
    return int(any(limit is not None and value > limit for _, value, _, limit in figures))


if __name__ == "__main__":
    sys.exit(main())
