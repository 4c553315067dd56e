"""An archive that the writer writes and workers embed, and workers in processes of their own.

`chat`    a chat in a fresh archive, in which people say, edit and delete
`model`   the small model, with its runs counted
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.harness.batches import wrong_counts
from tests.harness.cluster import on_cluster
from tests.harness.writer import awake
from vkteams_daemon.botapi.events import read
from vkteams_daemon.config import Config
from vkteams_daemon.daemon.workers.worker import Worker
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.model import Chunk, Model, Vectors
from vkteams_daemon.options import Database as DatabaseOptions
from vkteams_daemon.store import embedding_models
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.embedding_models import StoredModel
from vkteams_daemon.store.ingest.writer import Writer

_ROOT = Path(__file__).parents[2]
ROOM = "681869378@chat.agent"
_START = 1_764_000_000


class Chat:
    """Messages of one chat, stored as the daemon stores them, and the archive's queue and vectors."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(Config(database=DatabaseOptions(url=url, pool_size=8, distributed=on_cluster(url))))
        self.database.open(migrate=False)
        self._writer: Writer | None = None
        self._number = 0

    @property
    def writer(self) -> Writer:
        """The writer, holding the bot's lock."""
        if self._writer is None or not self._writer.holds_lock:
            self._writer = Writer(self.database.connect, "1000000001")
        return awake(self._writer)

    def say(self, *texts: str, first: int = 1) -> None:
        """Store new messages `m1`, `m2`, … in one batch; `first` is the number of the first one."""
        self._store([("newMessage", {"msgId": f"m{first + i}", "text": text}) for i, text in enumerate(texts)])

    def edit(self, msg_id: str, text: str) -> None:
        """Store an edit, later than every event before it. Without a text the message becomes a sticker."""
        content = {"text": text} if text else {"parts": [{"type": "sticker", "payload": {"fileId": "f1"}}]}
        self._store([("editedMessage", {"msgId": msg_id, "editedTimestamp": _START + self._number + 1} | content)])

    def delete(self, msg_id: str) -> None:
        """Store a deletion."""
        self._store([("deletedMessage", {"msgId": msg_id})])

    def register(self, model: Model) -> StoredModel:
        """Register the model in the archive."""
        with self.database.connection() as connection:
            return embedding_models.register(connection, model.name, model.fingerprint, model.dims)

    def worker(self, model: Model, stats: WorkerStats | None = None, **settings: Any) -> Worker:
        """A worker with that model."""
        return Worker(self.database, lambda _: model, stats or WorkerStats(), **settings)

    def embed(self, model: Model, **settings: Any) -> WorkerStats:
        """Work off everything that is due and settle; what was done."""
        stats = WorkerStats()
        worker = self.worker(model, stats, **settings)
        while worker.round() or worker.maintain(idle=True):
            pass
        return stats

    def rows(self, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
        """Run a statement on a new connection; returns its rows."""
        with self.database.connect() as connection:
            return connection.execute(statement.encode(), arguments or None).fetchall()

    def execute(self, statement: str, *arguments: Any) -> int:
        """Run a statement on a new connection; returns the number of rows it touched."""
        with self.database.connect() as connection:
            return connection.execute(statement.encode(), arguments or None).rowcount

    def queued(self) -> dict[str, int]:
        """{msg_id: attempts} of the queue."""
        return dict(self.rows("SELECT msg_id, attempts FROM embedding_queue"))  # type: ignore[arg-type]

    def chunks(self) -> dict[str, int]:
        """{msg_id: number of vectors} over all models."""
        return dict(self.rows("SELECT msg_id, count(*)::int FROM embeddings GROUP BY msg_id"))  # type: ignore[arg-type]

    def likeness(self, model: Model, msg_id: str, text: str) -> float:
        """The cosine of the message's first vector of this model with the text's vector."""
        vector = model.embed(model.chunks(text)[:1])[0]
        ((cosine,),) = self.rows(
            "SELECT 1 - (embedding <=> %s::halfvec) FROM embeddings e JOIN embedding_models m USING (model_id)"
            " WHERE msg_id = %s AND chunk = 0 AND m.fingerprint = %s",
            str(vector.tolist()), msg_id, model.fingerprint,
        )  # fmt: skip
        return float(cosine)

    def connection(self) -> Connection:
        """A new connection, which the test closes."""
        return self.database.connect()

    def close(self) -> None:
        """Close every connection."""
        if self._writer is not None:
            self._writer.close()
        self.database.close()

    def _store(self, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        made = []
        for kind, payload in events:
            self._number += 1
            common = {
                "chat": {"chatId": ROOM, "type": "group", "title": "Ops"},
                "from": {"userId": "a.ivanova@corp.example", "firstName": "Anna"},
                "timestamp": _START + self._number,
            }
            made.append({"eventId": self._number, "type": kind, "payload": common | payload})
        self.writer.store(read(json.dumps({"ok": True, "events": made}).encode(), datetime.now(UTC)))


class WatchedModel:
    """A model that counts its runs, and calls `before` with the chunks of each run before it."""

    def __init__(self, model: Model, before: Callable[[Sequence[Chunk]], None] | None = None) -> None:
        self._model = model
        self._before = before
        self._lock = threading.Lock()
        self.runs = 0
        self.embedded: list[Chunk] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def embed(self, chunks: Sequence[Chunk]) -> Vectors:
        """Embed one batch, and count it."""
        with self._lock:
            self.runs += 1
            self.embedded += chunks
        if self._before:
            self._before(chunks)
        return self._model.embed(chunks)


_WORK = """
import sys
from pathlib import Path
from tests.harness.embedding import Chat, WatchedModel
from vkteams_daemon.embedding.model import Model

held = sys.argv[3] == "held"

def before(chunks):
    if held:
        print("in the model", flush=True)
        sys.stdin.readline()

chat = Chat(sys.argv[1])
worker = chat.worker(WatchedModel(Model.load(Path(sys.argv[2])), before), claim=int(sys.argv[4]), is_leader=False)
print("ready", flush=True)
sys.stdin.readline()
while worker.round():
    pass
print("empty", flush=True)
chat.close()
"""


class WorkerProcess:
    """A worker in a process of its own; it waits for `go`.

    Args:
        url: the archive.
        model: the model's directory.
        held: whether each run of the model waits for another `go`.
        claim: the most messages of one round.
    """

    def __init__(self, url: str, model: Path, *, held: bool = False, claim: int = 256) -> None:
        arguments = [url, str(model), "held" if held else "free", str(claim)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORK, *arguments], cwd=_ROOT, env=os.environ | {"PYTHONPATH": str(_ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.wait_for("ready")

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait_for(self, line: str) -> None:
        """Read the next line it prints, which must be this one."""
        assert self.process.stdout
        actual = self.process.stdout.readline()
        assert actual == f"{line}\n", f"it printed {actual!r} instead of {line!r}"

    def close(self) -> None:
        """End the process, in whatever state it is."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def chat(database_url: str) -> Iterator[Chat]:
    """A chat in a fresh archive."""
    made = Chat(database_url)
    yield made
    with made.connection() as connection:
        assert "counts of vectors" not in wrong_counts(connection)
    made.close()


@pytest.fixture
def model(tiny_model_dir: Path) -> WatchedModel:
    """The small model, counted."""
    return WatchedModel(Model.load(tiny_model_dir))
