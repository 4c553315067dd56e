"""From the Bot API's answers to committed rows, against the usual way and against COPY.

    python -m bench.ingest [TEXTS.jsonl.gz] [--events N] [--batch N ...] [--rounds N]

Ours: answers of events/get with `--batch` new messages each are stored, one transaction an answer. By default all
messages come in one answer, as after a long outage, and then in answers of 1,000. The rival: one transaction an event,
with the same rows, from ten threads that keep their connections. The ceiling: COPY of the same rows into the same
tables with the same indexes, in transactions of the same size; once from Python's values, as a program would do it, and
once from bytes that the server has encoded beforehand. No time includes connecting, or parsing JSON, which is shown on
its own. Every way runs `--rounds` times, in turn, on empty tables; its best time counts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from bench import archive
from bench.archive import Best, Meter
from vkteams_daemon.botapi.events import Event, read
from vkteams_daemon.store import embedding_models
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.system import garbage

BOT = "1000000001"
THREADS = 10
Work = Callable[[], object]
_TABLES = ("events", "chats", "users", "messages", "embedding_queue")
_EVENT = (
    "INSERT INTO events (bot_id, generation, event_id, type, chat_id, user_id, subject, occurred_at, received_at,"
    " payload) VALUES (%s, 1, %s, %s, %s, %s, %s, %s, %s, %s::jsonb)"
)
_MESSAGE = (
    "INSERT INTO messages (chat_id, msg_id, user_id, sent_at, version, text, search, received_at)"
    " VALUES (%(chat)s, %(message)s, %(user)s, %(sent_at)s, 1, %(text)s,"
    " to_tsvector('vkteams', %(text)s), %(received)s)"
    " ON CONFLICT DO NOTHING"
)
_CHAT = "INSERT INTO chats (chat_id, type, title, seen_at) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
_USER = "INSERT INTO users (user_id, first_name, last_name, seen_at) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"
_QUEUE = "INSERT INTO embedding_queue (chat_id, msg_id, model_id, kind) VALUES (%s, %s, 1, 'message')"


@dataclass(frozen=True, slots=True)
class Copy:
    """One table's rows of one transaction, as the server encodes them and as Python's values."""

    encoded_into: str
    encoded: bytes
    rows_into: str
    types: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def empty(database: Database) -> None:
    """Delete all rows, and leave the server nothing to do."""
    with database.connection() as connection:
        more = "bots, message_versions, embeddings, chat_user_counts, chat_hour_counts"
        connection.execute(f"TRUNCATE {', '.join(_TABLES)}, {more}".encode())
        connection.execute("CHECKPOINT")


@contextlib.contextmanager
def ours(database: Database, bodies: Sequence[bytes]) -> Iterator[Work]:
    """One transaction an answer, through the writer."""
    answers = _read(bodies)
    writer = Writer(database.connect, BOT)
    assert writer.acquire()

    def work() -> None:
        for events in answers:
            writer.store(events)

    yield work
    writer.close()


@contextlib.contextmanager
def rival(database: Database, bodies: Sequence[bytes]) -> Iterator[Work]:
    """One transaction an event, from ten threads with a connection each."""
    events = [event for answer in _read(bodies) for event in answer]

    def work(first: int) -> None:
        for event in events[first::THREADS]:
            with connections[first].transaction():
                _store_one(connections[first], event)

    with contextlib.ExitStack() as opened:
        connections = [opened.enter_context(database.connect()) for _ in range(THREADS)]
        pool = opened.enter_context(ThreadPoolExecutor(THREADS))
        yield lambda: list(pool.map(work, range(THREADS)))


def _read(bodies: Sequence[bytes]) -> list[list[Event]]:
    now = datetime.now(UTC)
    return [read(body, now) for body in bodies]


def _store_one(connection: Connection, event: Event) -> None:
    connection.execute(
        _EVENT,
        (BOT, event.event_id, event.type, event.chat_id, event.user_id, event.subject, event.occurred_at,
         event.received_at, event.payload),
    )  # fmt: skip
    (chat,), (user,), message = event.facts.chats, event.facts.users, event.facts.message
    connection.execute(_CHAT, (chat.chat_id, chat.type, chat.title, event.received_at))
    connection.execute(_USER, (user.user_id, user.first_name, user.last_name, event.received_at))
    assert message and message.content
    connection.execute(
        _MESSAGE,
        {"chat": event.chat_id, "message": event.subject, "user": event.user_id, "sent_at": message.sent_at,
         "text": message.content.text, "received": event.received_at},
    )  # fmt: skip
    connection.execute(_QUEUE, (event.chat_id, event.subject))


def portions(database: Database, batch: int) -> list[list[Copy]]:
    """The rows of the tables, in portions of `batch` rows."""
    with database.connect() as connection:
        starts = range(0, _count(connection, "events"), batch)
        return [[_portion(connection, table, start, batch) for table in _TABLES] for start in starts]


def _portion(connection: Connection, table: str, start: int, size: int) -> Copy:
    types: dict[str, str] = dict(
        connection.execute(
            "SELECT attname, typname FROM pg_attribute JOIN pg_type t ON t.oid = atttypid WHERE attrelid = %s::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
            (table,),
        ).fetchall()
    )
    # Python has no value for -infinity; it is the column's default.
    with_value = {name: kind for name, kind in types.items() if name != "not_before"}
    columns = ", ".join(types)
    # A tsvector is sent as the writer sends it.
    values = ", ".join(f"tsvectorsend({name})" if kind == "tsvector" else name for name, kind in with_value.items())
    portion = f"FROM {table} ORDER BY {'event_id' if table == 'events' else 'ctid'} OFFSET {start} LIMIT {size}"
    with connection.cursor().copy(f"COPY (SELECT {columns} {portion}) TO STDOUT BINARY".encode()) as copy:
        encoded = b"".join(copy)
    rows = connection.execute(f"SELECT {values} {portion}".encode()).fetchall()
    return Copy(
        encoded_into=f"COPY {table} ({columns}) FROM STDIN BINARY",
        encoded=encoded,
        rows_into=f"COPY {table} ({', '.join(with_value)}) FROM STDIN BINARY",
        types=tuple(with_value.values()),
        rows=[tuple(_as_written(value) for value in row) for row in rows],
    )


def _as_written(value: Any) -> Any:
    """JSON as text, as a program gets it from the network."""
    return Jsonb(json.dumps(value), dumps=str) if isinstance(value, dict | list) else value


@contextlib.contextmanager
def copied(
    database: Database, transactions: Sequence[Sequence[Copy]], copy: Callable[[Connection, Copy], None]
) -> Iterator[Work]:
    """COPY, one transaction a portion."""
    with database.connect() as connection:

        def work() -> None:
            for portion in transactions:
                with connection.transaction():
                    for part in portion:
                        copy(connection, part)

        yield work


def copy_encoded(connection: Connection, part: Copy) -> None:
    """COPY of the encoded rows."""
    with connection.cursor().copy(part.encoded_into.encode()) as copy:
        copy.write(part.encoded)


def copy_rows(connection: Connection, part: Copy) -> None:
    """COPY of Python's values."""
    with connection.cursor().copy(part.rows_into.encode()) as copy:
        copy.set_types(part.types)
        for row in part.rows:
            copy.write_row(row)


def _count(connection: Connection, table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else 0


def measure(database: Database, texts: Sequence[str], batch: int, rounds: int, meter: Meter) -> None:
    """Run every way in turn, and print events a second and ratios."""
    bodies = archive.bodies(texts, batch)
    empty(database)
    with ours(database, bodies) as work:
        work()
    rows = portions(database, batch)
    ways: dict[str, Callable[[], contextlib.AbstractContextManager[Work]]] = {
        "one transaction an answer (ours)": lambda: ours(database, bodies),
        f"one transaction an event from {THREADS} threads": lambda: rival(database, bodies),
        "COPY of the same rows from Python's values": lambda: copied(database, rows, copy_rows),
        "COPY of the same rows, encoded beforehand": lambda: copied(database, rows, copy_encoded),
        "reading the answers alone": lambda: contextlib.nullcontext(lambda: _read(bodies)),
    }
    _, one_by_one, values, encoded, _ = ways
    garbage.exempt_present()  # as in the daemon; and no way pays for the objects of another
    garbage.collect_rarely()
    best = Best()
    for _ in range(rounds):
        for name, way in ways.items():
            empty(database)
            with way() as work:
                best.add(name, meter.cost(work))
    print(f"{len(texts)} events in answers of {batch}; on the clock, and by the CPU of program and server")
    headings = (
        "events/s", "x one by one", "of COPY, values", "of COPY, encoded", "CPU us/event", "x one by one",
        "of COPY, values",
    )  # fmt: skip
    print(f"{'':44}" + "".join(f"{heading:>17}" for heading in headings))
    for name in ways:
        wall, cpu = best[name].wall, best[name].cpu
        ratios = [best[other].wall / wall for other in (one_by_one, values, encoded)]
        by_cpu = [best[other].cpu / cpu for other in (one_by_one, values)]
        print(f"{name:44}{len(texts) / wall:17.0f}" + "".join(f"{ratio:17.2f}" for ratio in ratios)
              + f"{1e6 * cpu / len(texts):17.1f}" + "".join(f"{ratio:17.2f}" for ratio in by_cpu))  # fmt: skip


def main() -> None:
    """Create the archive and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, metavar="TEXTS.jsonl.gz")
    parser.add_argument("--events", type=int, default=10000, metavar="N")
    parser.add_argument("--batch", type=int, nargs="+", metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args()
    with archive.temporary_directory() as directory, archive.database(directory) as database:
        texts = archive.read_texts(options.file, options.events)
        with database.connection() as connection:
            embedding_models.register(connection, "bench", "bench", 384)
        for batch in options.batch or (len(texts), 1000):
            measure(database, texts, batch, options.rounds, Meter(directory))
            print()


if __name__ == "__main__":
    main()
