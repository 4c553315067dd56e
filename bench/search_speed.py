"""How long a search takes in a large archive, and how many of the exact nearest messages the index finds.

    python -m bench.search_speed DATA [--part train|dev] [--archive DIR] [--questions N]

The archive is the one of bench.relevance, built where it is missing: the training part has 192,734 messages in 153
chats. Asked in-process, through `Archive`, by a warm model: short queries (two or three words of a message), whole
questions, and both in one chat of about 1,250 messages. Besides the time on the clock the time on the processor is
given, this process's and the server's together: on a busy machine only that one means something.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.relevance import TOP, ArchivedMessage, Question, configuration, fill, percentile, read
from vkteams_daemon.config import Config
from vkteams_daemon.embedding import catalogue
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.results import MODES, Mode
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.models import active_model


@dataclass(frozen=True, slots=True)
class Cost:
    """Milliseconds of one search: on the clock, and on the processor here and in the server."""

    clock: float
    processor: float


def queries(messages: Sequence[ArchivedMessage], count: int) -> list[str]:
    """Two or three words of a message each; words of four letters and more, so that few are stop words."""
    chosen = random.Random(1)
    found: list[str] = []
    while len(found) < count:
        words = re.findall(r"\w{4,}", chosen.choice(messages).text)
        if len(words) >= 3:
            found.append(" ".join(chosen.sample(words, chosen.choice((2, 3)))))
    return found


def spent(process: int) -> float:
    """Seconds that a process has had of the processor."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def cost(ask: Callable[[str], object], texts: Sequence[str], backend: int) -> list[Cost]:
    """What each search costs; the server's ticks are too coarse for one, so they are shared out."""
    costs, before = [], spent(backend)
    for text in texts:
        clock, own = time.perf_counter(), time.process_time()
        ask(text)
        costs.append((time.perf_counter() - clock, time.process_time() - own))
    server = (spent(backend) - before) / len(texts)
    return [Cost(1000 * clock, 1000 * (own + server)) for clock, own in costs]


def show(name: str, costs: Sequence[Cost]) -> None:
    """One row of the table."""
    clock, processor = [c.clock for c in costs], [c.processor for c in costs]
    print(
        f"{name:44}{percentile(clock, 0.5):9.1f}{percentile(clock, 0.95):8.1f}"
        f"{percentile(processor, 0.5):12.1f}{percentile(processor, 0.95):8.1f}",
        flush=True,
    )


def recall(archive: Archive, config: Config, connection: Connection, questions: Sequence[Question]) -> float:
    """The share of semantic search's first ten that are as near as the exact ten nearest."""
    model, embed = active_model(connection), Model.load(catalogue.find(config.models_dir, config.embedding.model))
    assert model is not None
    found = 0
    for question in questions:
        hits = archive.search(question.said.text, mode="semantic", limit=TOP).hits
        vector = str(embed.embed_texts([question.said.text], query=True)[0].tolist())
        # The sum with nothing keeps the index out: every vector is measured.
        exact = connection.execute(
            f"SELECT (embedding::halfvec({model.dims}) <=> %s::halfvec({model.dims})) + 0 AS distance FROM embeddings"
            f" WHERE model_id = %s AND kind = 'message' ORDER BY distance LIMIT {TOP}".encode(),
            (vector, model.model_id),
        ).fetchall()
        # Repeated texts are equally near: whichever of them is found is right.
        found += sum(1 - hit.score <= exact[-1][0] + 1e-6 for hit in hits)
    return found / (TOP * len(questions))


def main() -> None:
    """Build the archive, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--part", choices=("dev", "train"), default="train")
    parser.add_argument("--archive", type=Path, default=Path("/tmp/vkteams-relevance"), metavar="DIR")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", metavar="NAME")
    parser.add_argument("--questions", type=int, default=200, metavar="N")
    parser.add_argument("--recall", action="store_true", help="measure nothing but the recall")
    options = parser.parse_args()
    messages, questions = read(options.data, options.part, None)
    config = configuration(options.archive, options.part, None, options.model)
    held_out = {question.said.key for question in questions}
    messages = [said for said in messages if said.key not in held_out]
    fill(config, messages)
    asked = questions[:: max(1, len(questions) // options.questions)]
    chat = [asked[0].said.key[0]]
    with Archive(config) as archive, Database(config) as database:
        archive.search("warm", mode="hybrid")
        backend = database_sessions(database)[0][0]
        print(f"{len(messages)} messages\n{'':44}ms p50      p95   cpu p50     p95")
        texts = {"two or three words": queries(messages, options.questions), "questions": [q.said.text for q in asked]}
        for mode in MODES if not options.recall else ():
            for name, said in texts.items():
                show(f"{mode}, {name}", cost(_asking(archive, mode), said, backend))
                show(f"{mode}, {name}, in one chat", cost(_asking(archive, mode, chat), said, backend))
        with database.connect() as connection:
            share = recall(archive, config, connection, asked)
            print(f"recall@{TOP} of semantic search against the exact answer: {share:.4f}")


def database_sessions(database: Database) -> list[tuple[int, ...]]:
    """The server's process that serves the archive's one connection."""
    with database.connection() as connection:
        return connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'vkteams-search'"
        ).fetchall()


def _asking(archive: Archive, mode: Mode, chat_ids: list[str] | None = None) -> Callable[[str], object]:
    return lambda text: archive.search(text, mode=mode, chat_ids=chat_ids, limit=TOP)


if __name__ == "__main__":
    main()
