"""How storing, counting, searching and embedding go on as an archive grows to a million messages and beyond.

    python -m bench.scale --events N [--archive DIR] [--texts TEXTS.jsonl.gz] [--results FILE.json] [--only PART ...]

The archive (bench.scale_archive) is kept below DIR: the next run adds what is missing. Its largest chat has a tenth of
the messages; there are chats of 1 % and of 0.01 %. Each run of `ingest` adds 20,000 messages, so that storing is
measured each time. Each figure stands beside its ceiling, and `--results` writes all of them as JSON. Figures of CPU
are of this process and the server together; on a busy machine only they mean something, and the ratios.

Parts: ingest (events), count, text, vectors, meaning (semantic and hybrid search), embed (while events arrive). The
archive gets vectors if one of the last three is asked for: `--only ingest count` makes ten million messages in an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from bench import scale_archive
from bench.archive import Meter, read_texts, timed
from bench.relevance import percentile
from bench.scale_archive import BOT, CHATS, SECONDS, START, VariedTexts, VariedVectors
from vkteams_daemon.access import Access
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.workers.worker import Stopped, Worker
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.results import Mode
from vkteams_daemon.store import embedding_models, vector_index
from vkteams_daemon.store.admin import search_index, word_counts
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.rebuild import search_terms
from vkteams_daemon.store.words import searched_texts
from vkteams_daemon.system import garbage, priority

PARTS = ("ingest", "count", "text", "vectors", "meaning", "embed")
_WITH_VECTORS = {"vectors", "meaning", "embed"}
MORE = 10_000  # messages that each run adds twice: to begin with, and to measure
_ROUNDS = 4  # in which they are added, in turn with a small archive
TOP = 10
_QUERIES = 100  # of each kind
_SOME = 30  # of a kind that takes long
_EXACT = 30  # queries whose hits are compared with an exact scan
_TRIES = 5
_RATE = 20  # events a second while the archive is embedded again
_PERIOD = 20.0  # seconds of that
_OVERTIME = 3  # times as long it may take at most
_STEADY = 10**9  # the numbers of these events are higher
_ONE_PERCENT, _TINY = "14@chat.agent", "999@chat.agent"


@dataclass(frozen=True, slots=True)
class Figure:
    """One result; the ceiling is the most that it should be, or with `at_least` the least, or None."""

    name: str
    value: float
    unit: str
    ceiling: float | None = None
    at_least: bool = False


class Scale:
    """The archive and its measurements.

    Args:
        home: its directory.
        events: how many messages it has at least.
        texts: its texts.
        queries: how many questions of each kind are asked.
    """

    def __init__(self, home: Path, events: int, texts: VariedTexts, queries: int) -> None:
        self.home, self.events, self.texts = home, events, texts
        self.questions = {kind: some[:queries] for kind, some in questions(texts, events).items()}
        self.config: Config = scale_archive.configuration(home)
        self.meter = Meter(home)
        self.model: Model = scale_archive.load_model(self.config)
        self.vectors = VariedVectors(home.parent / "vectors.npy", texts.originals, self.model)

    def run(self, parts: Sequence[str]) -> Iterator[Figure]:
        """Build or complete the archive, and measure these parts."""
        with Database(self.config, application="bench") as database:
            yield from self.build(database, vectors=not _WITH_VECTORS.isdisjoint(parts))
            if "ingest" in parts:
                yield from self.storing(database)
            if "vectors" in parts:
                yield from self.storing_vectors(database)
            _merge_words(database)
            with Archive(self.config) as archive:
                if "count" in parts:
                    yield from count_times(archive, self.meter)
                if "text" in parts:
                    yield from text_times(archive, self.questions, self.meter)
                if "meaning" in parts:
                    yield from self.meaning(archive, database)
            if "embed" in parts:
                yield from self.embedding(database)

    def build(self, database: Database, *, vectors: bool) -> Iterator[Figure]:
        """Store the messages and vectors that are missing, and make the index; make old index terms again."""
        count = scale_archive.store(database, self.texts, self.events, self.meter)
        with database.connect() as connection:
            connection.execute("SET statement_timeout = 0")
            [(old,)] = connection.execute(
                f"SELECT count(*) FROM messages WHERE search_version < {searched_texts.VERSION}".encode()
            ).fetchall()
            if old:  # the archive is from before an upgrade
                search_terms.refill(connection)
            made = vectors and self._embedded(connection) < self.events
            if vectors:
                yield from self.build_vectors(connection)
            if old or count is not None or made:
                word_counts.count_words(connection)
                connection.execute("VACUUM ANALYZE")

    def build_vectors(self, connection: Connection) -> Iterator[Figure]:
        """Store the vectors that are missing, and make the index. What later runs have added needs none."""
        model = scale_archive.register(connection, self.model)
        embedded = self._embedded(connection)
        has_index = vector_index.has_index(connection, model.model_id)
        if embedded < self.events:
            store = partial(scale_archive.store_vectors, connection, model, self.vectors, embedded + 1, self.events)
            cost = self.meter.cost(store)
            if not has_index:
                yield Figure("a vector, without the index", 1e6 * cost.cpu / (self.events - embedded), "µs CPU")
        connection.execute("DELETE FROM embedding_queue")
        if not has_index:
            built = self.meter.cost(lambda: vector_index.ensure_index(connection, model.model_id, model.dims))
            (self.home / "index.json").write_text(json.dumps({"vectors": self.events, **asdict(built)}))

    def _embedded(self, connection: Connection) -> int:
        """How many of the first messages have vectors."""
        model = scale_archive.register(connection, self.model)
        [(embedded,)] = connection.execute(
            "SELECT count(*) FROM embeddings WHERE model_id = %s", (model.model_id,)
        ).fetchall()
        return int(embedded)

    def storing(self, database: Database) -> Iterator[Figure]:
        """What an event costs in a small archive and in this one.

        The same messages go into both, in turn. Each has one writer, as a daemon, which has stored as many messages
        before: the server's process meets a page of an index more slowly the first time. The server merges the words of
        some thousand messages at once into their index. So the mean counts, and the merge of all their words.
        """
        with database.connect() as connection:
            first = _last(connection) + 1
            models = connection.execute("SELECT FROM embedding_models WHERE state <> 'retired'").rowcount
        young, grown = [], []
        with contextlib.ExitStack() as opened:
            directory = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="vkteams-bench-", dir="/tmp")))
            directory.chmod(0o711)
            config = scale_archive.configuration(directory / "archive")
            small = opened.enter_context(Database(config, application="bench"))
            if models:  # each queues what it stores
                with small.connect() as connection:
                    scale_archive.register(connection, self.model)
            one, other = scale_archive.open_writer(small), scale_archive.open_writer(database)
            opened.callback(other.close)
            opened.callback(one.close)
            meter, size = Meter(directory / "archive"), MORE // _ROUNDS
            for at in range(first, first + 2 * MORE, size):
                if at == first + MORE:
                    _merge_words(small)
                    _merge_words(database)
                    young, grown = [], []
                young.append(scale_archive.store_part([one, other], self.texts, at, at + size - 1, meter))
                grown.append(scale_archive.store_part([other, one], self.texts, at, at + size - 1, self.meter))
            least = sum(young) / _ROUNDS + 1e6 * meter.cost(partial(_merge_words, small)).cpu / MORE
            most = sum(grown) / _ROUNDS + 1e6 * self.meter.cost(partial(_merge_words, database)).cpu / MORE
        yield Figure("storing an event among 10,000", least, "µs CPU")
        yield Figure(f"storing an event among {first - 1}", most, "µs CPU", 1.2 * least)

    def storing_vectors(self, database: Database) -> Iterator[Figure]:
        """What a vector costs with the index kept and with the index built afterwards."""
        with database.connect() as connection:
            connection.execute("SET statement_timeout = 0")
            model = scale_archive.register(connection, self.model)
            first, some = self._embedded(connection) + 1, MORE // 5
            if _last(connection) < first + some:
                scale_archive.store(database, self.texts, first + some, self.meter)
            connection.execute("DELETE FROM embedding_queue")
            store = partial(scale_archive.store_vectors, connection, model, self.vectors, first, first + some - 1)
            kept = 1e6 * self.meter.cost(store).cpu / some
            built = json.loads((self.home / "index.json").read_text())
            after = 1e6 * built["cpu"] / built["vectors"]
            yield Figure("a vector, the index kept", kept, "µs CPU")
            yield Figure("the index built afterwards, a vector", after, "µs CPU", kept / 3)
            yield Figure("the index built afterwards, altogether", built["wall"], "s")

    def meaning(self, archive: Archive, database: Database) -> Iterator[Figure]:
        """Semantic and hybrid search: time, recall against an exact scan, whole answers in small scopes."""
        queries = {kind: some for kind, some in self.questions.items() if kind in ("two words", "a whole question")}
        for kind, some in queries.items():
            legs: list[float] = []
            for mode in _MODES:
                ceiling = {"text": 30.0, "semantic": 15.0}.get(mode) or 1.3 * max(legs)
                ask = partial(archive.search, mode=mode)
                figures = list(search_times(f"{mode} search beside the others, {kind}", ask, some, self.meter, ceiling))
                legs.append(figures[2].value)
                yield from figures
        whole = queries["a whole question"]
        newest = datetime.fromtimestamp(START + self.events * SECONDS, UTC)
        scopes: dict[str, dict[str, Any]] = {
            "in a chat of 1 %": {"chat_ids": [_ONE_PERCENT]},
            "in a chat of 0.01 %": {"chat_ids": [_TINY]},
            "of the last week": {"since": newest - timedelta(days=7)},
        }
        for name, scope in scopes.items():
            ask = partial(archive.search, mode="semantic", limit=TOP, **scope)
            yield from search_times(f"semantic search {name}", ask, whole, self.meter, 15)
            fewest = min(len(ask(query).hits) for query in whole)
            whole_answer = min(TOP, archive.count(**scope).messages)
            yield Figure(f"semantic search {name}, fewest hits", fewest, "hits", whole_answer, at_least=True)
        with database.connect() as connection:
            connection.execute("SET statement_timeout = 0")
            share = self.recall(archive, connection, whole[:_EXACT])
        yield Figure(f"semantic search, recall@{TOP} against an exact scan", share, "", 0.98, at_least=True)

    def recall(self, archive: Archive, connection: Connection, queries: Sequence[str]) -> float:
        """The share of the first hits that are as near as the exact nearest."""
        near = 0
        for query in queries:
            hits = archive.search(query, mode="semantic", limit=TOP).hits
            vector = str(self.model.embed_texts([query], query=True)[0].tolist())
            # Adding 0 keeps the planner from the index: every vector is compared.
            exact = connection.execute(
                f"SELECT (embedding::halfvec({self.model.dims}) <=> %s::halfvec({self.model.dims})) + 0 AS distance"
                f" FROM embeddings WHERE kind = 'message' ORDER BY distance LIMIT {TOP}".encode(),
                (vector,),
            ).fetchall()
            near += sum(1 - hit.score <= exact[-1][0] + 1e-6 for hit in hits)
        return near / (TOP * len(queries))

    def embedding(self, database: Database) -> Iterator[Figure]:
        """How long an event takes to its row, alone and while two workers embed the archive again for a new model."""
        quiet = self.latencies(database)
        model, stop = scale_archive.load_model(self.config), threading.Event()
        model.fingerprint, model.name = "bench again", "again"  # as if it were another model
        with database.connect() as connection:
            stored = embedding_models.register(connection, model.name, model.fingerprint, model.dims, None)
            connection.execute(
                "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind) SELECT chat_id, msg_id, %s, 'message'"
                " FROM messages ORDER BY sent_at DESC LIMIT 50000",
                (stored.model_id,),
            )
            stats = WorkerStats()

            def work(_: int) -> None:
                worker = Worker(database, lambda _: model, stats, model_threads=runs, stop=stop, is_leader=False)
                with contextlib.suppress(Stopped):
                    while worker.round():
                        pass

            try:
                threads = partial(ThreadPoolExecutor, 2, initializer=priority.lower)  # as in the daemon
                with threads() as pool, threads() as runs:
                    working = [pool.submit(work, number) for number in range(2)]
                    busy = self.latencies(database)
                    stop.set()
                    for each in working:
                        each.result()
            finally:
                connection.execute("UPDATE embedding_models SET state = 'retired' WHERE fingerprint = 'bench again'")
                embedding_models.delete_retired(connection)
        yield Figure("from the event to its row, p99", percentile(quiet, 0.99), "ms")
        yield Figure("the same while re-embedding, p99", percentile(busy, 0.99), "ms", 2 * percentile(quiet, 0.99))

    def latencies(self, database: Database) -> list[float]:
        """Milliseconds from an event to its row, at a steady rate; the events are said in a chat of their own."""
        writer = Writer(database.connect, f"{BOT}-steady")
        assert writer.acquire()
        assert writer.cursor is not None
        at, times, due = max(writer.cursor.last_event_id, _STEADY), [], time.monotonic()
        end = due + _OVERTIME * _PERIOD
        for number in range(at + 1, at + int(_RATE * _PERIOD) + 1):
            if time.monotonic() > end:
                break  # it falls behind; the events that were stored show by how much
            due += 1 / _RATE
            time.sleep(max(0.0, due - time.monotonic()))
            [events] = scale_archive.batches(self.texts, number, number)
            times.append(1000 * timed(partial(writer.store, events)))
        writer.close()
        return times


_MODES: tuple[Mode, ...] = ("text", "semantic", "hybrid")


def _merge_words(database: Database) -> None:
    """Merge the words of new messages into their index, as the daemon does each minute."""
    with database.connect() as connection:
        search_index.merge_pending(connection)


def _last(connection: Connection) -> int:
    """The last event that is stored."""
    [(last,)] = connection.execute("SELECT last_event_id FROM bots WHERE bot_id = %s", (BOT,)).fetchall()
    return int(last)


def _times(ask: Callable[[str], object], queries: Sequence[str]) -> list[float]:
    """Milliseconds of each question; the first one is asked twice."""
    ask(queries[0])
    return [1000 * timed(partial(ask, query)) for query in queries]


def questions(texts: VariedTexts, count: int) -> dict[str, list[str]]:
    """Queries of each kind, from a sample of the texts."""
    source = random.Random(1)
    sample = [texts[source.randrange(1, count + 1)] for _ in range(20_000)]
    messages: dict[str, int] = {}
    for text in sample:
        for word in set(re.findall(r"[a-zа-я]{4,}", text.lower())):
            messages[word] = messages.get(word, 0) + 1
    by_count = sorted(messages, key=lambda word: (-messages[word], word))
    rare = [word for word in by_count if 2 <= messages[word] <= 4]
    middling = [word for word in by_count if len(sample) / 200 <= messages[word] <= len(sample) / 50]
    pairs = [words for text in sample if len(words := re.findall(r"\w{4,}", text)) >= 4]
    return {
        "a rare word": source.sample(rare, min(_QUERIES, len(rare))),
        "a common word": by_count[:_QUERIES],
        "a word in every hundredth message": middling[:_QUERIES],
        "two words": [" ".join(source.sample(words, 2)) for words in pairs[:_QUERIES]],
        "a phrase": [f'"{text}"' for text in (" ".join(text.split()[:3]) for text in sample[:_QUERIES])],
        "a whole question": [text for text in sample if text.endswith("?") and len(text.split()) > 5][:_QUERIES],
    }


def text_times(archive: Archive, asked: dict[str, list[str]], meter: Meter) -> Iterator[Figure]:
    """How long searches by words take."""
    for kind, queries in asked.items():
        yield from search_times(f"text search, {kind}", partial(archive.search, mode="text"), queries, meter, 30)
    half = archive.seen_by(Access("bench", chats=frozenset(f"{n}@chat.agent" for n in range(1, CHATS, 2))))
    for kind in ("two words", "a whole question"):
        name = f"text search, {kind}, a reader of 500 chats"
        yield from search_times(name, partial(half.search, mode="text"), asked[kind][:_SOME], meter, 30)


def search_times(
    name: str, ask: Callable[[str], object], queries: Sequence[str], meter: Meter, ceiling: float | None
) -> Iterator[Figure]:
    """The time of a kind of question on the clock, and the mean of its CPU."""
    if not queries:  # the built-in texts have no rare words
        return
    cold, times = _times(ask, queries), list[float]()
    cost = meter.cost(lambda: times.extend(_times(ask, queries)))
    yield Figure(f"{name}, p95 the first time", percentile(cold, 0.95), "ms")
    yield Figure(f"{name}, p50", percentile(times, 0.5), "ms")
    yield Figure(f"{name}, p95", percentile(times, 0.95), "ms", ceiling)
    yield Figure(f"{name}, CPU", 1000 * cost.cpu / (len(queries) + 1), "ms")


def count_times(archive: Archive, meter: Meter) -> Iterator[Figure]:
    """How long statistics and lists take, also for a reader who may see some chats alone; the best of some tries."""
    some = [f"{n}@chat.agent" for n in (1, 10, 500)]
    half = archive.seen_by(Access("bench", chats=frozenset(f"{n}@chat.agent" for n in range(1, CHATS, 2))))
    ways: dict[str, Callable[[], object]] = {
        "database stats": archive.statistics,
        "database stats of three chats": lambda: archive.statistics(chat_ids=some),
        "database stats of a reader of 500 chats": half.statistics,
        "context chats": archive.chats,
        "context chats of a reader of 500 chats": half.chats,
        "context users": lambda: archive.users(limit=100),
        "context users of three chats": lambda: archive.users(chat_ids=some, limit=100),
        "context users of a reader of 500 chats": lambda: half.users(limit=100),
    }
    for name, ask in ways.items():
        ask()
        costs = [meter.cost(ask) for _ in range(_TRIES)]
        yield Figure(name, 1000 * min(cost.wall for cost in costs), "ms", 50)
        yield Figure(f"{name}, CPU", 1000 * sum(cost.cpu for cost in costs) / _TRIES, "ms")


def main() -> None:
    """Build or complete the archive, measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--archive", type=Path, default=Path("/tmp/vkteams-scale"), metavar="DIR")
    parser.add_argument("--texts", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--results", type=Path, metavar="FILE.json")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--queries", type=int, default=100, metavar="N", help="questions of each kind (100)")
    options = parser.parse_args()
    many = 10**9 if options.texts or os.environ.get("VKTEAMS_BENCH_DATA") else 5000
    scale = Scale(
        options.archive / str(options.events),
        options.events,
        VariedTexts(read_texts(options.texts, many)),
        options.queries,
    )
    figures: list[Figure] = []
    garbage.exempt_present()  # as in the daemon
    garbage.collect_rarely()
    print(f"{options.events} messages, load {os.getloadavg()[0]:.1f}\n{'':58}{'measured':>10} {'':8}{'limit':>12}")
    for figure in scale.run(options.only):
        figures.append(figure)
        limit = f"{'≥' if figure.at_least else '≤'}{figure.ceiling:11.4g}" if figure.ceiling is not None else ""
        print(f"{figure.name:58}{figure.value:10.4g} {figure.unit:8}{limit}", flush=True)
    if options.results:
        results = {
            "events": options.events, "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}", "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(), "figures": [asdict(figure) for figure in figures],
        }  # fmt: skip
        options.results.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
