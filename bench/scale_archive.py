"""The archive that bench.scale measures: varied texts in 1,000 chats, kept from run to run, with a vector each.

The vectors are synthetic but structured: a model's vectors of some ten thousand of the texts, each mixed with another
one and a little noise, so that neighbours lie as near as those of texts that differ in a few words. Embedding a million
texts would take hours.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pgvector import HalfVector
from pgvector.psycopg import register_vector

from bench.archive import Meter
from bench.relevance import install
from vkteams_daemon.botapi.events import Event, read
from vkteams_daemon.config import Config
from vkteams_daemon.embedding import catalogue
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.options import Daemon, Embedding
from vkteams_daemon.store import embedding_models
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.embedding_models import StoredModel
from vkteams_daemon.store.ingest.writer import Writer
from vkteams_daemon.store.vector_counts import VectorCountChanges
from vkteams_daemon.system.user import choose_owner

BOT = "1000000001"
MODEL = "all-MiniLM-L6-v2"
CHATS, _USERS = 1000, 5000
START = 1_600_000_000
SECONDS = 20  # between two messages
_BATCH = 1000
_EMBEDDED = 30_000  # texts with a vector of the model's own
_NOISE = 0.3  # the length of the noise that is added to such a vector
_COPY = "COPY embeddings (chat_id, msg_id, model_id, kind, chunk, text_hash, embedding) FROM STDIN (FORMAT BINARY)"


class VariedTexts:
    """The texts over and over; from the second time on each has words of another text in it."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.originals = texts
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


class VariedVectors:
    """Vectors of length 1, made of a model's vectors of some texts.

    Args:
        file: keeps the model's vectors for the next run.
        texts: the texts.
        model: embeds them, if the file is missing.
    """

    def __init__(self, file: Path, texts: Sequence[str], model: Model) -> None:
        if not file.exists():
            some = sorted(random.Random(2).sample(range(len(texts)), min(len(texts), _EMBEDDED)))
            np.save(file, model.embed_texts([texts[i] for i in some]))
        self._embedded: npt.NDArray[np.float32] = np.load(file)

    def batch(self, first: int, last: int) -> npt.NDArray[np.float16]:
        """The vectors of these messages, `(n, dims)`."""
        source = np.random.default_rng(first)
        numbers = np.arange(first, last + 1) % len(self._embedded)
        others = source.integers(len(self._embedded), size=len(numbers))
        noise = source.standard_normal((len(numbers), self._embedded.shape[1]), dtype=np.float32)
        noise *= _NOISE / np.sqrt(noise.shape[1])
        # Of texts that differ in some words, as `VariedTexts` makes them, the cosines are 0.2 to 1, in the middle 0.78.
        shares = source.random((len(numbers), 1), dtype=np.float32)
        vectors = self._embedded[numbers] + shares * self._embedded[others] + noise
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float16)


def configuration(home: Path) -> Config:
    """The archive below this directory; the model is installed beside it if it is missing."""
    if os.geteuid() == 0:
        # PostgreSQL does not run as root, and this archive holds nothing of value.
        choose_owner("nobody").make_directory(home / "state" / "postgresql", 0o750)
    config = Config(
        daemon=Daemon(state_dir=str(home / "state"), runtime_dir=str(home / "run")),
        embedding=Embedding(models=(MODEL,), models_dir=str(home.parent / "models")),
    )
    install(config.models_dir, [MODEL])
    return config


def load_model(config: Config) -> Model:
    """The model of this archive."""
    return Model.load(catalogue.find_directory(config.models_dir, MODEL))


def key(number: int) -> tuple[str, str]:
    """chat_id and msg_id of a message."""
    return f"{_speaks(number)[0]}@chat.agent", str(7_576_322_310_144_000_000 + number)


def _speaks(number: int) -> tuple[int, int]:
    """The numbers of a message's chat and person.

    Chat k has about 1 / k of the messages and people of the first, where everybody speaks, and some people more.
    """
    source = random.Random(number)
    chat = int(CHATS ** source.random())
    members = min(_USERS, 20 + _USERS // chat)
    return chat, (chat * 7919 + int(members * source.random() ** 2)) % _USERS


def batches(texts: VariedTexts, first: int, last: int) -> Iterator[list[Event]]:
    """The events with these ids, as the Bot API delivers them."""
    for start in range(first, last + 1, _BATCH):
        events = [_event(texts, number) for number in range(start, min(start + _BATCH - 1, last) + 1)]
        yield read(json.dumps({"ok": True, "events": events}).encode(), datetime.now(UTC))


def _event(texts: VariedTexts, number: int) -> dict[str, object]:
    chat_id, msg_id = key(number)
    user = _speaks(number)[1]
    return {
        "eventId": number,
        "type": "newMessage",
        "payload": {
            "msgId": msg_id,
            "chat": {"chatId": chat_id, "type": "group", "title": f"Room {chat_id}"},
            "from": {"userId": f"u{user}@corp.example", "firstName": f"U{user}"},
            "timestamp": START + number % 10**9 * SECONDS,
            "text": texts[number],
        },
    }


def store(database: Database, texts: VariedTexts, count: int, meter: Meter) -> float | None:
    """Store messages until there are so many; returns µs of CPU a message of the last 10,000, None without any."""
    with contextlib.closing(open_writer(database)) as writer:
        assert writer.cursor is not None
        cost = None
        for first in range(writer.cursor.last_event_id + 1, count + 1, 10_000):
            cost = store_part([writer], texts, first, min(first + 9_999, count), meter)
        return cost


def open_writer(database: Database) -> Writer:
    """A writer that has the lock of the bot."""
    writer = Writer(database.connect, BOT)
    assert writer.acquire()
    return writer


def store_part(writers: Sequence[Writer], texts: VariedTexts, first: int, last: int, meter: Meter) -> float:
    """Store these messages by the first of the writers; returns µs of CPU a message."""
    events = []
    for batch in batches(texts, first, last):
        events.append(batch)
        for writer in writers:
            writer.ping()  # otherwise the server takes it for a stopped one
    spent = meter.cost(lambda: [writers[0].store(batch) for batch in events])
    return 1e6 * spent.cpu / (last - first + 1)


def store_vectors(connection: Connection, model: StoredModel, vectors: VariedVectors, first: int, last: int) -> None:
    """Store the vectors of these messages."""
    register_vector(connection)
    for start in range(first, last + 1, _BATCH):
        end = min(start + _BATCH - 1, last)
        counts = VectorCountChanges()
        with connection.transaction():
            with connection.cursor().copy(_COPY) as copy:
                copy.set_types(["text", "text", "int4", "text", "int4", "bytea", "halfvec"])
                for number, vector in enumerate(vectors.batch(start, end), start):
                    chat_id, msg_id = key(number)
                    hashed = number.to_bytes(16, "big")
                    copy.write_row((chat_id, msg_id, model.model_id, "message", 0, hashed, HalfVector(vector)))
                    counts.stored(chat_id, model.model_id, 1)
            counts.save(connection)


def register(connection: Connection, model: Model) -> StoredModel:
    """The model's row in the archive, active."""
    return embedding_models.register(connection, model.name, model.fingerprint, model.dims)
