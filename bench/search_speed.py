"""How long a search takes in a large archive, and how many of the exact nearest messages the index finds.

    python -m bench.search_speed DATA [--part train|dev] [--archive DIR] [--questions N]

The archive is the one of bench.relevance, built if it is missing: the training part has 192,734 messages in 153 chats.
The queries run in this process, through `Archive`, with the model loaded: short queries (two or three words of a
message), whole questions, and both in one chat of about 1,250 messages. The table gives the time on the clock and the
CPU time of this process and the server together. On a busy machine only the CPU time means something.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.relevance import TOP, IrcMessage, Question, configuration, fill, percentile, read
from vkteams_daemon.config import Config
from vkteams_daemon.embedding import catalogue
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.results import MODES, Mode
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.embedding_models import active_models


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of one search: on the clock, and of CPU in this process and in the server."""

    clock: float
    cpu: float


def queries(messages: Sequence[IrcMessage], count: int) -> list[str]:
    """Two or three words of a message each; words of four letters and more, so that few are stop words."""
    source = random.Random(1)
    texts: list[str] = []
    while len(texts) < count:
        words = re.findall(r"\w{4,}", source.choice(messages).text)
        if len(words) >= 3:
            texts.append(" ".join(source.sample(words, source.choice((2, 3)))))
    return texts


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(ask: Callable[[str], object], texts: Sequence[str], backend: int) -> list[Cost]:
    """The cost of each search; the server's ticks are too coarse for one search, so each gets an equal share."""
    costs, before = [], cpu_seconds(backend)
    for text in texts:
        clock, own = time.perf_counter(), time.process_time()
        ask(text)
        costs.append((time.perf_counter() - clock, time.process_time() - own))
    server = (cpu_seconds(backend) - before) / len(texts)
    return [Cost(1000 * clock, 1000 * (own + server)) for clock, own in costs]


def show(name: str, costs: Sequence[Cost]) -> None:
    """One row of the table."""
    clock, cpu = [c.clock for c in costs], [c.cpu for c in costs]
    print(
        f"{name:44}{percentile(clock, 0.5):9.1f}{percentile(clock, 0.95):8.1f}"
        f"{percentile(cpu, 0.5):12.1f}{percentile(cpu, 0.95):8.1f}",
        flush=True,
    )


def recall(archive: Archive, config: Config, connection: Connection, questions: Sequence[Question]) -> float:
    """The share of semantic search's first ten hits that are as near as the exact ten nearest."""
    (model,) = active_models(connection)
    embed = Model.load(catalogue.find_directory(config.models_dir, config.embedding.models[0]))
    near = 0
    for question in questions:
        hits = archive.search(question.message.text, mode="semantic", limit=TOP).hits
        vector = str(embed.embed_texts([question.message.text], query=True)[0].tolist())
        # Adding 0 keeps the planner from the index: every vector is compared.
        exact = connection.execute(
            f"SELECT (embedding::halfvec({model.dims}) <=> %s::halfvec({model.dims})) + 0 AS distance FROM embeddings"
            f" WHERE model_id = %s AND kind = 'message' ORDER BY distance LIMIT {TOP}".encode(),
            (vector, model.model_id),
        ).fetchall()
        # Repeated texts are equally near, so each of them is right.
        near += sum(1 - hit.score <= exact[-1][0] + 1e-6 for hit in hits)
    return near / (TOP * len(questions))


def main() -> None:
    """Build the archive, ask the queries, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--part", choices=("dev", "train"), default="train")
    parser.add_argument("--archive", type=Path, default=Path("/tmp/vkteams-relevance"), metavar="DIR")
    parser.add_argument("--models", nargs="+", default=["all-MiniLM-L6-v2"], metavar="NAME", help="--recall: one")
    parser.add_argument("--questions", type=int, default=200, metavar="N")
    parser.add_argument("--recall", action="store_true", help="measure only the recall")
    options = parser.parse_args()
    messages, questions = read(options.data, options.part, None)
    config = configuration(options.archive, options.part, None, options.models)
    held_out = {question.message.key for question in questions}
    messages = [message for message in messages if message.key not in held_out]
    fill(config, messages)
    questions = questions[:: max(1, len(questions) // options.questions)]
    chat = [questions[0].message.key[0]]
    with Archive(config) as archive, Database(config) as database:
        archive.search("warm", mode="hybrid")
        backend = backend_pid(database)
        print(f"{len(messages)} messages\n{'':44}ms p50      p95   cpu p50     p95")
        texts = {
            "two or three words": queries(messages, options.questions),
            "questions": [q.message.text for q in questions],
        }
        for mode in MODES if not options.recall else ():
            for name, sample in texts.items():
                show(f"{mode}, {name}", measure(_asking(archive, mode), sample, backend))
                show(f"{mode}, {name}, in one chat", measure(_asking(archive, mode, chat), sample, backend))
        with database.connect() as connection:
            share = recall(archive, config, connection, questions)
            print(f"recall@{TOP} of semantic search against the exact answer: {share:.4f}")


def backend_pid(database: Database) -> int:
    """The process id of the server process behind the archive's one connection."""
    with database.connection() as connection:
        row = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'vkteams-search'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _asking(archive: Archive, mode: Mode, chat_ids: list[str] | None = None) -> Callable[[str], object]:
    return lambda text: archive.search(text, mode=mode, chat_ids=chat_ids, limit=TOP)


if __name__ == "__main__":
    main()
