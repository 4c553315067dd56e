"""A second model for a large archive, while messages arrive: whether search answers all the while, and what it costs.

    python -m bench.model_addition [TEXTS.jsonl.gz] [--models FIRST SECOND] [--messages N] [--rate N] [--before S]

A real vkteamsd with the bundled PostgreSQL has an archive of `--messages` messages, each with a vector of the first
model. The simulator sends `--rate` messages a second. Once a second another process asks the archive a question by
words, by meaning and by both. After `--before` seconds the second model is added, as people do it: `vkteamsctl model
add` and `vkteamsctl daemon restart`. The benchmark ends when search asks both models.

The time from an event to its row ends with the poll that acknowledges the event, because only committed events are
acknowledged. The aims: no search fails, each event is stored once, each message has its vectors, and p99 from the event
to its row is at most twice what it was. The figures of the restart stand apart: events wait for it in the Bot API.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from bench import archive
from bench.relevance import percentile
from bench.start import Daemon, embedded, running, say_at_once, show
from vkteams_daemon.config import Config
from vkteams_daemon.embedding.catalogue import DEFAULT_MODELS
from vkteams_daemon.embedding.install import installer
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.options import Daemon as Options
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.results import MODES, Mode
from vkteams_daemon.simulator import Simulator
from vkteams_daemon.store.database import Database

_CHATS = ("681869378@chat.agent", "681869379@chat.agent", "anna@corp.example")
_INTERVAL = 1.0  # seconds between two questions
_SETTLED = 120.0  # seconds; at the end, everything that was said must be stored and embedded by then


@dataclass(frozen=True, slots=True)
class Answered:
    """One search: when it was asked, how long it took, and what its coverage said.

    Attributes:
        at: Unix time.
        failure: why it failed, or that it found nothing; None otherwise.
    """

    at: float
    mode: Mode
    milliseconds: float
    models: tuple[str, ...]
    without_vector: int | None
    failure: str | None


def _configuration(directory: Path) -> Config:
    return Config(daemon=Options(state_dir=str(directory / "state"), runtime_dir=str(directory / "run")))


class Asker:
    """Asks one archive, in a process of its own: the questions must not slow the simulator down."""

    _archive: Archive

    @classmethod
    def open(cls, directory: Path) -> None:
        """Open the archive in this process."""
        cls._archive = Archive(_configuration(directory))

    @classmethod
    def ask(cls, query: str, mode: Mode) -> Answered:
        """Ask one question."""
        at, start = time.time(), time.perf_counter()
        try:
            found = cls._archive.search(query, mode=mode)
        except VkTeamsError as error:
            return Answered(at, mode, 1000 * (time.perf_counter() - start), (), None, str(error))
        milliseconds = 1000 * (time.perf_counter() - start)
        failure = None if found.hits else f"{query!r} finds nothing"
        return Answered(at, mode, milliseconds, found.coverage.models, found.coverage.without_vector, failure)


@dataclass(slots=True)
class Course:
    """What has happened: every answer, and the moments between the parts (Unix time; 0 before they have come).

    Attributes:
        given_up: whether search did not ask both models in time; `complete` is then the end of the patience.
    """

    answers: list[Answered] = field(default_factory=list)
    begun: float = 0.0
    added: float = 0.0
    restarted: float = 0.0
    complete: float = 0.0
    given_up: bool = False


@contextmanager
def talking(simulator: Simulator, texts: Sequence[str], rate: float) -> Iterator[None]:
    """Somebody says `rate` of these texts a second, again and again."""
    end = threading.Event()

    def talk() -> None:
        due = time.monotonic()
        for number in itertools.count():
            due += 1 / rate
            if end.wait(max(0.0, due - time.monotonic())):
                return
            chat = _CHATS[number % len(_CHATS)]
            simulator.say(chat, f"user{number % 200}@corp.example", f"{texts[number % len(texts)]} {number}")

    thread = threading.Thread(target=talk, name="talk")
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextmanager
def asking(directory: Path, queries: Sequence[str], answers: list[Answered]) -> Iterator[None]:
    """Another process asks a question in each mode every second; the answers are appended."""
    end = threading.Event()
    pool = ProcessPoolExecutor(1, get_context("spawn"), Asker.open, (directory,))

    def ask() -> None:
        due = time.monotonic()
        for query in itertools.cycle(queries):
            answers.extend([pool.submit(Asker.ask, query, mode).result() for mode in MODES])
            due = max(due + _INTERVAL, time.monotonic())
            if end.wait(max(0.0, due - time.monotonic())):
                return

    thread = threading.Thread(target=ask, name="ask")
    with pool:
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()


def pick_queries(texts: Sequence[str], count: int) -> list[str]:
    """Three neighbouring words of a text each; of six letters and more, so that none is a stop word."""
    source = random.Random(1)
    queries: list[str] = []
    while len(queries) < count:
        words = re.findall(r"\w{6,}", source.choice(texts))
        if len(words) >= 3:
            first = source.randrange(len(words) - 2)
            queries.append(" ".join(words[first : first + 3]))
    return queries


def run(
    daemon: Daemon, simulator: Simulator, directory: Path, texts: Sequence[str], model: str, rate: float,
    before: float, patience: float,
) -> Course:  # fmt: skip
    """Talk and ask, add the model after `before` seconds, and go on until search asks it beside the first."""
    course = Course(begun=time.time())
    with talking(simulator, texts, rate), asking(directory, pick_queries(texts, 200), course.answers):
        time.sleep(before)
        course.added = time.time()
        daemon.run("vkteamsctl", "model", "add", model)
        daemon.run("vkteamsctl", "daemon", "restart")
        course.restarted = time.time()
        deadline = time.monotonic() + patience
        while not course.complete:
            time.sleep(0.1)
            asked = [one.at for one in list(course.answers) if len(one.models) == 2]
            course.complete = min(asked, default=0.0)
            if not course.complete and time.monotonic() > deadline:
                course.complete, course.given_up = time.time(), True
        time.sleep(2 * _INTERVAL)  # some answers of both
    return course


def waits(simulator: Simulator) -> list[tuple[float, float]]:
    """Of each event that was acknowledged: when it was issued (Unix time), and the milliseconds until then."""
    entries = simulator.log()
    polls = [(entry.at, int(entry.detail["lastEventId"])) for entry in entries if entry.kind == "poll"]
    found, place = [], 0
    for entry in entries:
        if entry.event is None:
            continue
        while place < len(polls) and polls[place][1] < entry.event.number:
            place += 1
        if place < len(polls):
            found.append((entry.at, 1000 * (polls[place][0] - entry.at)))
    return found


def stored(directory: Path, issued: int) -> tuple[list[int], int]:
    """The ids of the stored events, and how many vectors are missing; waits a while for the last of both."""
    deadline = time.monotonic() + _SETTLED
    with Database(_configuration(directory), application="bench") as database, database.connection() as connection:
        while True:
            ids = [number for (number,) in connection.execute("SELECT event_id FROM events")]
            row = connection.execute(
                "SELECT count(*) FROM messages m, embedding_models o WHERE o.state = 'active' AND NOT EXISTS (SELECT"
                " FROM embeddings e WHERE (e.chat_id, e.msg_id, e.model_id) = (m.chat_id, m.msg_id, o.model_id))"
            ).fetchone()
            assert row is not None
            if (len(ids) >= issued and not row[0]) or time.monotonic() > deadline:
                return ids, int(row[0])
            time.sleep(_INTERVAL)


def report(course: Course, simulator: Simulator, ids: Sequence[int], without_vector: int) -> bool:
    """Print the figures; return whether every aim is reached."""
    rows = waits(simulator)
    steady = [ms for at, ms in rows if course.begun <= at < course.added]
    restart = [ms for at, ms in rows if course.added <= at < course.restarted]
    # The daemon works off what waited for it, before its latency is that of an event again.
    during = [ms for at, ms in rows if course.restarted + 1 <= at < course.complete]
    end = "search does not ask both models, given up" if course.given_up else "until search asks both models"
    show(f"{end}, from the command", course.complete - course.added, "s", 0.0 if course.given_up else None)
    show("of that, model add and daemon restart", course.restarted - course.added, "s")
    for mode in MODES:
        for name, start, end in (
            ("before", course.begun, course.added), ("meanwhile", course.added, course.complete),
        ):  # fmt: skip
            times = [one.milliseconds for one in course.answers if one.mode == mode and start <= one.at < end]
            show(f"search {mode}, {name}, p50 of {len(times)}", percentile(times, 0.5), "ms")
            show("the same, p95", percentile(times, 0.95), "ms")
    aim = 2 * percentile(steady, 0.99)
    show(f"from the event to its row before, p50 of {len(steady)}", percentile(steady, 0.5), "ms")
    show("the same, p99", percentile(steady, 0.99), "ms")
    show(f"from the event to its row meanwhile, p50 of {len(during)}", percentile(during, 0.5), "ms")
    show("the same, p99", percentile(during, 0.99), "ms", aim)
    show(f"from the event to its row across the restart, longest of {len(restart)}", max(restart, default=0.0), "ms")
    issued = [entry.event.number for entry in simulator.log() if entry.event]
    failures = [one for one in course.answers if one.failure]
    show("searches that failed or found nothing", len(failures), "", 0.0)
    show("events that are missing, or stored twice", len(set(issued) ^ set(ids)) + len(ids) - len(set(ids)), "", 0.0)
    show("vectors that are missing", without_vector, "", 0.0)
    for failure in failures[:10]:
        print(f"  {failure.at - course.added:+.1f} s, {failure.mode}: {failure.failure}")
    print("what the answers' coverage said, in order:")
    for models, group in itertools.groupby(course.answers, key=lambda one: one.models):
        part = list(group)
        waiting = [one.without_vector or 0 for one in part]
        print(f"  {part[0].at - course.added:+7.1f} s to {part[-1].at - course.added:+7.1f} s: models"
              f" {', '.join(models) or '-'}; without a vector {min(waiting)} to {max(waiting)}")  # fmt: skip
    stored_once = sorted(issued) == sorted(ids)
    complete = not course.given_up and not without_vector
    return complete and stored_once and not failures and percentile(during, 0.99) <= aim


def main() -> int:
    """Fill the archive, add a model to it; 0 if every aim is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--models", nargs=2, default=DEFAULT_MODELS[::-1], metavar=("FIRST", "SECOND"))
    parser.add_argument("--messages", type=int, default=20_000, metavar="N", help="messages before the second model")
    parser.add_argument("--rate", type=float, default=20.0, metavar="N", help="messages a second")
    parser.add_argument("--before", type=float, default=60.0, metavar="S", help="seconds before the second model")
    parser.add_argument("--patience", type=float, default=3600.0, metavar="S", help="most seconds for the second model")
    options = parser.parse_args()
    texts = archive.read_texts(options.file, options.messages)
    with archive.temporary_directory() as directory, running(directory, options.models[0]) as (daemon, simulator):
        second = installer.install(options.models[1], directory / "state" / "models", precision="int8")
        begin = time.monotonic()
        say_at_once(simulator, texts)
        embedded(daemon, len(texts), options.patience)
        seconds = time.monotonic() - begin
        print(f"load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores; stored and embedded"
              f" {len(texts)} messages in {seconds:.0f} s", flush=True)  # fmt: skip
        course = run(
            daemon, simulator, directory, texts, second.directory.name, options.rate, options.before, options.patience
        )
        ids, without_vector = stored(directory, simulator.state()["issued"])
        print(f"load {os.getloadavg()[0]:.1f} at the end")
        return 0 if report(course, simulator, ids, without_vector) else 1


if __name__ == "__main__":
    sys.exit(main())
