"""How storing, counting and searching by words go on as an archive grows to a million messages and beyond.

    python -m bench.scale --events N [--archive DIR] [--texts TEXTS.jsonl.gz] [--results FILE.json]

The archive is made of the texts, varied so that no text repeats by chance, in 1,000 chats: the largest has a seventh of
the messages, the 1 % chat and the 0.01 % chat are there. It is kept below DIR: the next run adds what is missing. Each
figure stands beside its ceiling, and `--results` writes all of them as JSON. CPU figures are those of this process and
the server together; on a busy machine only they mean something.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.archive import Meter, read_texts
from bench.relevance import percentile
from vkteams_daemon.botapi.events import Event, read
from vkteams_daemon.config import Config
from vkteams_daemon.options import Daemon
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.store.admin import word_counts
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.system import garbage
from vkteams_daemon.system.user import choose_owner

BOT = "1000000001"
_BATCH = 1000
_WINDOW = 10_000  # events whose storing is measured together
_CHATS, _USERS = 1000, 5000
_START = 1_600_000_000
_SECONDS = 20  # between two messages
_QUERIES = 100  # of each kind
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Figure:
    """One result; the ceiling is the most that it should be, or None."""

    name: str
    value: float
    unit: str
    ceiling: float | None = None


class VariedTexts:
    """The texts over and over; from the second time on each has words of another text in it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [text.split() for text in texts]

    def __getitem__(self, number: int) -> str:
        turn, index = divmod(number, len(self._texts))
        words = self._texts[index]
        if turn:
            source = random.Random(number)
            other = source.choice(self._texts)
            at = source.randrange(len(words) + 1)
            words = [*words[:at], *other[: source.randint(1, 4)], *words[at + 1 :]]
        return " ".join(words)


def chat_of(number: int) -> str:
    """The chat of a message: chat k has about 1 / k of the messages of the first."""
    return f"{int(_CHATS ** random.Random(number).random())}@chat.agent"


def batch(texts: VariedTexts, first: int, last: int) -> list[Event]:
    """The events with these ids, as the Bot API delivers them."""
    events = [
        {
            "eventId": number,
            "type": "newMessage",
            "payload": {
                "msgId": str(7_576_322_310_144_000_000 + number),
                "chat": {"chatId": (chat := chat_of(number)), "type": "group", "title": f"Room {chat}"},
                "from": {
                    "userId": f"u{number * 7919 % _USERS}@corp.example",
                    "firstName": f"U{number * 7919 % _USERS}",
                },
                "timestamp": _START + number * _SECONDS,
                "text": texts[number],
            },
        }
        for number in range(first, last + 1)
    ]
    return read(json.dumps({"ok": True, "events": events}).encode(), datetime.now(UTC))


def build(database: Database, texts: VariedTexts, count: int, meter: Meter) -> Iterator[Figure]:
    """Store what is missing; the CPU of each event in the first and in the last window of those stored now."""
    writer = Writer(database.connect, BOT)
    assert writer.acquire()
    assert writer.cursor is not None
    windows: list[float] = []
    at, until = writer.cursor.last_event_id, count
    while at < until:
        last = min(at + _WINDOW, until)
        batches = [batch(texts, first, min(first + _BATCH - 1, last)) for first in range(at + 1, last + 1, _BATCH)]
        cost = meter.cost(lambda batches=batches: [writer.store(events) for events in batches])  # type: ignore[misc]
        windows.append(1e6 * cost.cpu / (last - at))
        at = last
    writer.close()
    if not windows:
        return
    with database.connect() as connection:
        connection.execute("SET statement_timeout = 0")
        word_counts.count_words(connection)
        connection.execute("VACUUM ANALYZE")
    yield Figure("storing an event, first 10,000 of this run", windows[0], "µs CPU")
    yield Figure("storing an event, last 10,000", windows[-1], "µs CPU", 1.2 * windows[0])


def questions(texts: VariedTexts, count: int) -> dict[str, list[str]]:
    """Queries of each kind, from a sample of the texts."""
    source = random.Random(1)
    sample = [texts[source.randrange(1, count + 1)] for _ in range(20_000)]
    messages: dict[str, int] = {}
    for text in sample:
        for word in set(re.findall(r"[a-zа-я]{4,}", text.lower())):
            messages[word] = messages.get(word, 0) + 1
    by_count = sorted(messages, key=lambda word: -messages[word])
    rare = [word for word in by_count if 2 <= messages[word] <= 4]
    pairs = [words for text in sample if len(words := re.findall(r"\w{4,}", text)) >= 4]
    return {
        "a rare word": source.sample(rare, min(_QUERIES, len(rare))),
        "a common word": by_count[:_QUERIES],
        "two words": [" ".join(source.sample(words, 2)) for words in pairs[:_QUERIES]],
        "a phrase": [f'"{text}"' for text in (" ".join(text.split()[:3]) for text in sample[:_QUERIES])],
        "a whole question": [text for text in sample if text.endswith("?") and len(text.split()) > 5][:_QUERIES],
    }


def search_times(archive: Archive, texts: VariedTexts, count: int) -> Iterator[Figure]:
    """How long searches by words take."""
    for kind, queries in questions(texts, count).items():
        archive.search(queries[0], mode="text")
        times = []
        for query in queries:
            start = time.perf_counter()
            archive.search(query, mode="text")
            times.append(1000 * (time.perf_counter() - start))
        yield Figure(f"text search, {kind}, p50", percentile(times, 0.5), "ms")
        yield Figure(f"text search, {kind}, p95", percentile(times, 0.95), "ms", 30)


def count_times(archive: Archive) -> Iterator[Figure]:
    """How long statistics and lists take; the best of some tries."""
    some = [f"{n}@chat.agent" for n in (1, 10, 500)]
    ways: dict[str, Callable[[], object]] = {
        "database stats": archive.statistics,
        "database stats of three chats": lambda: archive.statistics(chat_ids=some),
        "context chats": archive.chats,
        "context users": lambda: archive.users(limit=100),
        "context users of three chats": lambda: archive.users(chat_ids=some, limit=100),
    }
    for name, ask in ways.items():
        times = []
        for _ in range(_TRIES):
            start = time.perf_counter()
            ask()
            times.append(1000 * (time.perf_counter() - start))
        yield Figure(name, min(times), "ms", 50)


def main() -> None:
    """Build or complete the archive, measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--archive", type=Path, default=Path("/tmp/vkteams-scale"), metavar="DIR")
    parser.add_argument("--texts", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    options = parser.parse_args()
    home = options.archive / str(options.events)
    if os.geteuid() == 0:
        # PostgreSQL does not run as root, and this archive holds nothing of value.
        choose_owner("nobody").make_directory(home / "state" / "postgresql", 0o750)
    config = Config(daemon=Daemon(state_dir=str(home / "state"), runtime_dir=str(home / "run")))
    texts = VariedTexts(
        read_texts(options.texts, 10**9 if options.texts or os.environ.get("VKTEAMS_BENCH_DATA") else 5000)
    )
    figures: list[Figure] = []
    garbage.exempt_present()  # as in the daemon
    garbage.collect_rarely()

    def show(more: Iterator[Figure]) -> None:
        for figure in more:
            figures.append(figure)
            ceiling = f"{figure.ceiling:10.1f}" if figure.ceiling is not None else ""
            print(f"{figure.name:52}{figure.value:10.1f} {figure.unit:8}{ceiling}", flush=True)

    print(f"{options.events} messages\n{'':52}{'measured':>10} {'':8}{'ceiling':>10}")
    with Database(config, application="bench") as database:
        show(build(database, texts, options.events, Meter(home)))
    with Archive(config) as archive:
        show(count_times(archive))
        show(search_times(archive, texts, options.events))
    if options.results:
        results = {
            "events": options.events, "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}", "python": platform.python_version(),
            "figures": [asdict(figure) for figure in figures],
        }  # fmt: skip
        options.results.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
