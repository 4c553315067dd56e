"""How long a search page takes while fifty people search: five searches a second, each of a person with other chats.

    python -m bench.page [--messages N] [--people N] [--rate N] [--seconds S] [--texts TEXTS.jsonl.gz]

The archive is made of the texts, varied so that no text repeats by chance, in 1,000 chats. Each person is in 40 of
them, and always in the largest. The page is a real process behind a proxy that signs the people in. A search waits for
no other: each begins at its time. The table has p50 and p95 of the whole page, and beside them the bare statement that
finds and ranks the same words in the same chats, alone on a connection of its own: no page can be quicker. No model is
installed: the searches are by words.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from bench.archive import database, read_texts, temporary_directory
from bench.relevance import percentile
from bench.scale_archive import BOT, VariedTexts, batches
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer

LIMIT = 150.0  # milliseconds: what p95 of a search page may take
_CHATS_OF_ONE = 40
_WARM_UP = 20  # searches
_BARE = (
    "SELECT m.chat_id, m.msg_id FROM messages m WHERE m.search @@ websearch_to_tsquery('vkteams', %(query)s)"
    " AND m.deleted_at IS NULL AND m.chat_id = ANY(%(chats)s)"
    " ORDER BY ts_rank(m.search, websearch_to_tsquery('vkteams', %(query)s)) DESC LIMIT 20"
)


def main() -> int:
    """Print the figures; 1 if p95 is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--rate", type=float, default=5.0, help="searches a second")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--texts", type=Path)
    asked = parser.parse_args()
    texts = read_texts(asked.texts, 20_000)
    with temporary_directory() as directory, database(directory) as opened:
        begin = time.monotonic()
        _fill(opened, VariedTexts(texts), asked.messages)
        chats = _people(opened, asked.people)
        print(f"{asked.messages} messages stored in {time.monotonic() - begin:.0f} s", flush=True)
        source = random.Random(1)
        questions = [
            (source.choice(list(chats)), _query(source, texts))
            for _ in range(int(asked.rate * asked.seconds) + _WARM_UP)
        ]
        with _page(directory) as port, opened.connect() as connection:
            for person, query in questions[:_WARM_UP]:
                _search(port, person, query)
            found = _under_load(port, questions[_WARM_UP:], asked.rate)
            bare = sorted(_bare(connection, chats[person], query) for person, query in questions[_WARM_UP:])
    times = sorted(milliseconds for milliseconds, _ in found)
    wrong = [status for _, status in found if status != 200]
    p95 = percentile(times, 0.95)
    print(f"{len(times)} searches of {asked.people} people, {asked.rate:g} a second; {len(wrong)} failed")
    print(f"{'':24}{'p50 ms':>10}{'p95 ms':>10}")
    print(f"{'search page':24}{percentile(times, 0.5):>10.1f}{p95:>10.1f}   limit {LIMIT:g}")
    print(f"{'bare statement, alone':24}{percentile(bare, 0.5):>10.1f}{percentile(bare, 0.95):>10.1f}")
    return 1 if wrong or p95 > LIMIT else 0


def _fill(opened: Database, texts: VariedTexts, count: int) -> None:
    writer = Writer(opened.connect, BOT)
    if not writer.acquire():
        raise SystemExit("another process listens to this bot")
    for events in batches(texts, 1, count):
        writer.store(events)
    writer.close()


def _people(opened: Database, count: int) -> dict[str, list[str]]:
    """The people, each with their chats."""
    source = random.Random(2)
    with opened.connect() as connection:
        rows = connection.execute(
            "SELECT chat_id FROM chat_user_counts GROUP BY chat_id ORDER BY sum(messages) DESC, chat_id"
        ).fetchall()
        largest, *others = [chat_id for (chat_id,) in rows]
        chats = {
            f"person-{n}@corp.example": [largest, *source.sample(others, min(_CHATS_OF_ONE - 1, len(others)))]
            for n in range(count)
        }
        connection.execute("INSERT INTO rosters (chat_id, tried_at, read_at) SELECT chat_id, now(), now() FROM chats")
        for person, own in chats.items():
            connection.execute(
                "INSERT INTO roster_members (chat_id, user_id, since, role)"
                " SELECT c, %s, '-infinity', 'member' FROM unnest(%s::text[]) AS c",
                (person, own),
            )
        connection.execute("ANALYZE")
    return chats


@contextmanager
def _page(directory: Path) -> Iterator[int]:
    """The page as a process of its own; its port."""
    file, log = directory / "page.toml", directory / "page.log"
    options = {
        "daemon": {"state_dir": str(directory / "state"), "runtime_dir": str(directory / "run")},
        "web": {"trusted_proxies": ["127.0.0.1"]},
        "embedding": {"models_dir": str(directory / "models")},
    }
    file.write_text(
        "\n".join(
            f"[{section}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in entries.items())
            for section, entries in options.items()
        )
    )
    program = Path(__file__).parents[1] / "bin" / "vkteamsctl"
    command = [sys.executable, str(program), "--config", str(file), "web", "serve", "--http", "127.0.0.1:0"]
    with log.open("w") as said:
        environment = os.environ | {"VKTEAMS_DAEMON_ALLOW_ROOT": "1"}
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not (found := re.search(r"the page is at http://127\.0\.0\.1:(\d+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the page did not start: {log.read_text()}")
            time.sleep(0.05)
        yield int(found[1])
    finally:
        process.terminate()
        process.wait(30)


def _query(source: random.Random, texts: list[str]) -> str:
    """One to three words of a message, as people type them."""
    while True:
        words = re.findall(r"\w{4,}", source.choice(texts))
        if len(words) >= 3:
            return " ".join(source.sample(words, source.choice((1, 2, 3))))


def _search(port: int, person: str, query: str) -> int:
    """The status of a search page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/?q={quote(query)}", headers={"X-Forwarded-User": person, "Accept-Language": "ru"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status


def _under_load(port: int, questions: list[tuple[str, str]], rate: float) -> list[tuple[float, int]]:
    """Milliseconds and status of each search; each begins at its time, whatever the others do."""
    found: list[tuple[float, int]] = []
    start = time.monotonic()

    def one(due: float, person: str, query: str) -> None:
        status = _search(port, person, query)
        found.append(((time.monotonic() - due) * 1000, status))

    threads = []
    for number, (person, query) in enumerate(questions):
        due = start + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        threads.append(threading.Thread(target=one, args=(due, person, query)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    return found


def _bare(connection: Connection, chats: list[str], query: str) -> float:
    """Milliseconds of the bare statement."""
    begin = time.perf_counter()
    connection.execute(_BARE, {"query": query, "chats": chats}).fetchall()
    return (time.perf_counter() - begin) * 1000


if __name__ == "__main__":
    sys.exit(main())
