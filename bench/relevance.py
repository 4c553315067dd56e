"""How well the library finds conversations: questions of a public support channel, asked of an archive without them.

    python -m bench.relevance DATA [--part dev|train] [--archive DIR] [--chats N] [--questions N] [--ways NAME …]
        [--models NAME …] [--each]

DATA holds `ubuntu-irc-PART.jsonl.gz` (chat, n, ts, user, text) and `ubuntu-irc-PART.replies.tsv` (chat, n, n: which
message answers which). These links connect messages to conversations. They are the gold standard, and the archive does
not know them. A question has a question mark, five words or more, and at least two other messages in its conversation.
The first question of each conversation is asked, and held out of the archive. The other messages of its conversation
are relevant.

The writer and the embedding workers build the archive under DIR, and the next run uses it again. All ways ask
`Archive`, as vkteamsctl and agents do. With --each, each of several models is asked alone too.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import math
import os
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from vkteams_daemon.botapi import events
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.workers.worker import Worker
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding import catalogue
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.options import Daemon, Embedding
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.messages import MessageKey
from vkteams_daemon.search.results import Hit, Mode
from vkteams_daemon.store import embedding_models, vector_index
from vkteams_daemon.store.admin import word_counts
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.system.user import choose_owner

TOP = 10
_BATCH = 2000
_K = 60  # the constant of reciprocal rank fusion, as its authors set it


@dataclass(frozen=True, slots=True)
class IrcMessage:
    """One message of the data; `n` counts along its chat, `ts` is in seconds."""

    chat: str
    n: int
    ts: int
    user: str
    text: str

    @property
    def key(self) -> MessageKey:
        """Its chat_id and msg_id in the archive."""
        return f"{self.chat}@chat.agent", str(self.n)


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the keys of the messages that it should find."""

    message: IrcMessage
    relevant: frozenset[MessageKey]


def read(data: Path, part: str, chats: int | None) -> tuple[list[IrcMessage], list[Question]]:
    """The messages, and one question for each conversation that has one.

    Args:
        data: the directory.
        part: `dev` or `train`.
        chats: only the first so many chats.
    """
    with gzip.open(data / f"ubuntu-irc-{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        messages = [IrcMessage(**json.loads(line)) for line in lines]
    chat_names = set(list(dict.fromkeys(message.chat for message in messages))[:chats])
    messages = [message for message in messages if message.chat in chat_names]
    by_place = {(message.chat, message.n): message for message in messages}
    links = [line.split() for line in (data / f"ubuntu-irc-{part}.replies.tsv").read_text(encoding="utf-8").split("\n")]
    questions = []
    for conversation in _connected((c, int(a), int(b)) for c, a, b in (x for x in links if x) if c in chat_names):
        members = sorted((by_place[place] for place in conversation), key=lambda message: message.n)
        first = next((one for one in members if "?" in one.text and len(one.text.split()) >= 5), None)
        if first is not None and len(members) >= 3:
            questions.append(Question(first, frozenset(one.key for one in members if one is not first)))
    return messages, questions


def _connected(links: Iterable[tuple[str, int, int]]) -> list[list[tuple[str, int]]]:
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def root(place: tuple[str, int]) -> tuple[str, int]:
        while parent.setdefault(place, place) != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for chat, first, second in links:
        parent[root((chat, first))] = root((chat, second))
    groups = defaultdict(list)
    for place in list(parent):
        groups[root(place)].append(place)
    return list(groups.values())


def configuration(directory: Path, part: str, chats: int | None, names: Sequence[str]) -> Config:
    """The archive of a part below the directory; installs its models there if they are missing."""
    home = str(directory / f"{part}-{chats or 'all'}")
    if os.geteuid() == 0:
        # PostgreSQL does not run as root, and this archive is of a public channel.
        choose_owner("nobody").make_directory(Path(home) / "postgresql", 0o750)
    config = Config(
        daemon=Daemon(state_dir=home, runtime_dir=home),
        embedding=Embedding(models=tuple(names), models_dir=str(directory / "models")),
    )
    install(config.models_dir, names)
    return config


def install(models_dir: Path, names: Sequence[str]) -> None:
    """Install those of the models that the directory lacks."""
    for name in set(names) - {installed.name for installed in catalogue.installed_models(models_dir)}:
        installer.install(name, models_dir)


@contextlib.contextmanager
def asked_by(config: Config, names: Sequence[str]) -> Iterator[Archive]:
    """The archive as somebody asks it who has installed only these of its models."""
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            (Path(directory) / name).symlink_to(catalogue.find_directory(config.models_dir, name))
        state = str(config.daemon.state_dir)
        only = Config(
            daemon=Daemon(state_dir=state, runtime_dir=state),
            embedding=Embedding(models=tuple(names), models_dir=directory),
        )
        with Archive(only) as archive:
            yield archive


def model_sets(names: Sequence[str]) -> list[list[str]]:
    """Each model alone, then all together."""
    return [[name] for name in names] + ([list(names)] if len(names) > 1 else [])


def fill(config: Config, messages: Sequence[IrcMessage]) -> None:
    """Write those of the messages that the archive lacks, and embed them; takes minutes the first time."""
    database = Database(config)
    database.open()
    try:
        writer = Writer(database.connect, "bench")
        writer.acquire()
        assert writer.cursor is not None
        missing = list(enumerate(messages, 1))[writer.cursor.last_event_id :]
        for start in range(0, len(missing), _BATCH):
            body = {"ok": True, "events": [_event(n, message) for n, message in missing[start : start + _BATCH]]}
            writer.store(events.read(json.dumps(body).encode(), datetime.now(UTC)))
        writer.close()
        embed(config, database)
    finally:
        database.close()


def _event(number: int, message: IrcMessage) -> dict[str, object]:
    chat_id, msg_id = message.key
    return {
        "eventId": number,
        "type": "newMessage",
        "payload": {
            "msgId": msg_id,
            "chat": {"chatId": chat_id, "type": "group", "title": message.chat},
            "from": {"userId": f"{message.user}@irc", "firstName": message.user},
            "timestamp": message.ts,
            "text": message.text,
        },
    }


def embed(config: Config, database: Database, workers: int = 2) -> None:
    """Empty the embedding queue of each model, then build its index; only these models are asked afterwards."""
    models = [Model.load(catalogue.find_directory(config.models_dir, name)) for name in config.embedding.models]
    chosen = [model.fingerprint for model in models]
    for model in models:
        with database.connection() as connection:
            stored = embedding_models.register(connection, model.name, model.fingerprint, model.dims, chosen)
            embedding_models.enqueue_missing(connection, stored.model_id)
        load = partial(_loaded, model)

        def work(_: int, load: Callable[[Model | None], Model] = load) -> None:
            worker = Worker(database, load, WorkerStats(), is_leader=False)
            while worker.round():
                pass

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
        with database.connect() as connection:
            vector_index.ensure_index(connection, stored.model_id, stored.dims)
            embedding_models.activate_if_complete(connection, stored)
    with database.connect() as connection:
        embedding_models.retire_others(connection, chosen)
        word_counts.count_words(connection)
        connection.execute("VACUUM ANALYZE")


def _loaded(model: Model, _: Model | None) -> Model:
    return model


def ways(archive: Archive) -> dict[str, Callable[[str], list[Hit]]]:
    """Every way to ask, by its name in the table."""

    def any_word(query: str, limit: int = TOP) -> list[Hit]:
        words = re.findall(r"\w[\w'./-]*", query)
        joined = " OR ".join(word for word in words if word.lower() != "or")
        return archive.search(joined, mode="text", limit=limit).hits

    def by(mode: Mode) -> Callable[[str], list[Hit]]:
        return lambda query: archive.search(query, mode=mode, limit=TOP).hits

    def fused(query: str) -> list[Hit]:
        scores: dict[MessageKey, float] = defaultdict(float)
        hits: dict[MessageKey, Hit] = {}
        for ranking in (any_word(query, 100), archive.search(query, mode="semantic", limit=100).hits):
            for rank, hit in enumerate(ranking, 1):
                scores[hit.key] += 1 / (_K + rank)
                hits[hit.key] = hit
        return [hits[key] for key in sorted(scores, key=lambda key: -scores[key])[:TOP]]

    return {
        "any word": any_word,
        "text": by("text"),
        "semantic": by("semantic"),
        "rank fusion": fused,
        "hybrid": by("hybrid"),
    }


def score(question: Question, keys: Sequence[MessageKey]) -> tuple[float, float, float, float]:
    """success, recall, reciprocal rank and nDCG of the first ten hits; a repeated hit counts once."""
    gains = [key in question.relevant for key in dict.fromkeys(keys[:TOP])]
    first = next((rank for rank, gain in enumerate(gains, 1) if gain), None)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(TOP, len(question.relevant)) + 1))
    gained = sum(1 / math.log2(rank + 1) for rank, gain in enumerate(gains, 1) if gain)
    return float(any(gains)), sum(gains) / len(question.relevant), 1 / first if first else 0.0, gained / ideal


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def measure(ask: Callable[[str], list[Hit]], questions: Sequence[Question]) -> tuple[list[float], float, float]:
    """The mean of each figure, and the 50th and 95th percentile of the time of a question, in milliseconds."""
    figures, times = [], []
    for question in questions:
        start = time.perf_counter()
        hits = ask(question.message.text)
        times.append(1000 * (time.perf_counter() - start))
        figures.append(score(question, [hit.key for hit in hits]))
    means = [sum(column) / len(column) for column in zip(*figures, strict=True)]
    return means, percentile(times, 0.5), percentile(times, 0.95)


def rows(archive: Archive, questions: Sequence[Question], names: Sequence[str]) -> Iterator[str]:
    """The table, line by line."""
    yield f"{'':16}success@10 recall@10  MRR@10 nDCG@10  ms p50 ms p95"
    for name, ask in ways(archive).items():
        if names and name not in names:
            continue
        means, middle, slow = measure(ask, questions)
        yield f"{name:16}{means[0]:10.3f}{means[1]:10.3f}{means[2]:8.3f}{means[3]:8.3f}{middle:8.1f}{slow:7.1f}"


def main() -> None:
    """Build the archive, ask the questions, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--part", choices=("dev", "train"), default="dev")
    parser.add_argument("--archive", type=Path, default=Path("/tmp/vkteams-relevance"), metavar="DIR")
    parser.add_argument("--models", nargs="+", default=["all-MiniLM-L6-v2"], metavar="NAME")
    parser.add_argument("--each", action="store_true", help="ask each model alone, too")
    parser.add_argument("--chats", type=int, metavar="N", help="only the first N chats")
    parser.add_argument("--questions", type=int, metavar="N", help="ask N of the questions, evenly chosen")
    parser.add_argument("--ways", nargs="*", default=(), metavar="NAME")
    options = parser.parse_args()
    messages, questions = read(options.data, options.part, options.chats)
    config = configuration(options.archive, options.part, options.chats, options.models)
    held_out = {question.message.key for question in questions}
    fill(config, [message for message in messages if message.key not in held_out])
    print(f"{options.part}: {len(messages) - len(held_out)} messages, {len(questions)} questions")
    step = max(1, len(questions) // (options.questions or len(questions)))
    for names in model_sets(options.models) if options.each else [options.models]:
        print(" + ".join(names))
        with asked_by(config, names) as archive:
            for line in rows(archive, questions[::step], options.ways):
                print(line, flush=True)


if __name__ == "__main__":
    main()
