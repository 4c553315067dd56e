"""The embedding workers: from the queue in the database to vectors in the database, one transaction a round.

A worker reads nothing but the database, so a broken model delays search and loses nothing, and a worker on another
machine is the same code.
"""

from __future__ import annotations

import hashlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vkteams_daemon.embedding.model import Chunk, Model, batches
from vkteams_daemon.errors import StoreError, VkTeamsError
from vkteams_daemon.store import models, queue
from vkteams_daemon.store.database import Connection, Database
from vkteams_daemon.store.models import StoredModel
from vkteams_daemon.store.queue import Claim, Embedded, Vector

log = logging.getLogger(__name__)

RETRY_MAX = 3600.0  # seconds between two attempts at a text that fails
TROUBLE_MAX = 60.0  # seconds between two attempts at a database or model that fails


class Stopped(Exception):
    """The worker was told to end in the middle of a round; the transaction is rolled back."""


@dataclass(slots=True)
class Tally:
    """What the workers of this process have done; shared by them.

    Attributes:
        state: `ok`, `off` without a model, `failing` while the model or the database does not answer.
        row_to_vector: milliseconds from queued to stored, the last thousand.
    """

    state: Literal["ok", "off", "failing"] = "off"
    model: str | None = None
    embedded: int = 0
    failed: int = 0
    queued: int | None = None
    row_to_vector: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    rounds: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=1000))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, embedded: int, failed: int, ages: Sequence[float]) -> None:
        """Count one round."""
        with self.lock:
            self.embedded += embedded
            self.failed += failed
            self.row_to_vector.extend(1000 * age for age in ages)
            self.rounds.append((time.monotonic(), embedded))

    def per_second(self, window: float = 60.0) -> float:
        """Messages a second over the last `window` seconds."""
        with self.lock:
            since = time.monotonic() - window
            return round(sum(count for at, count in self.rounds if at >= since) / window, 3)


class Worker:
    """One thread's loop over the queue.

    Args:
        database: open.
        load: gives the model; called in the worker's own thread, again after it has failed.
        tally: where it counts.
        claim: most messages of one round.
        token_budget: most tokens of one run of the model.
        max_attempts: attempts before a text is parked.
        stop: set when the worker is to end; a round that has not been committed is then given back.
        keeper: whether this worker also builds the index and completes a change of model; one does.
    """

    def __init__(
        self,
        database: Database,
        load: Callable[[], Model],
        tally: Tally,
        *,
        claim: int = 256,
        token_budget: int = 768,
        max_attempts: int = 5,
        stop: threading.Event | None = None,
        keeper: bool = True,
    ) -> None:
        self._database = database
        self._load = load
        self._tally = tally
        self._claim = claim
        self._token_budget = token_budget
        self._max_attempts = max_attempts
        self._stop = stop or threading.Event()
        self._keeper = keeper
        self._settled = False
        self._model: Model | None = None
        self._stored: StoredModel | None = None

    def run(self, wake: threading.Event, poll_interval: float) -> None:
        """Work until `stop` is set; `wake` cuts an idle wait of `poll_interval` seconds short."""
        stop = self._stop
        failures = 0
        while not stop.is_set():
            wake.clear()
            try:
                busy = self.round() > 0
                if not busy and self._keeper:
                    busy = self.settle()
            except Stopped:
                return
            except VkTeamsError as error:
                failures += 1
                if failures == 1:
                    log.warning("embedding waits: %s", error)
                self._tally.state = "failing"
                stop.wait(random.uniform(0.5, 1) * min(TROUBLE_MAX, 2.0**failures))
                continue
            if failures:
                log.info("embedding goes on")
            failures, self._tally.state = 0, "ok"
            if not busy and not stop.is_set():
                wake.wait(poll_interval)

    def round(self) -> int:
        """Claim, embed and store once; returns how many queue rows were dealt with.

        Raises:
            VkTeamsError: the model cannot be loaded, or the database does not answer; nothing was changed.
        """
        model, stored = self._ready()
        with self._database.connection() as connection:
            queue.prepare(connection)
            with connection.transaction():
                claims = queue.claim(connection, stored.model_id, self._claim)
                if not claims:
                    return 0
                done, failures = self._embed(connection, model, stored, [c for c in claims if c.text])
                queue.finish(connection, stored.model_id, done, [c for c in claims if not c.text])
                for claim, error in failures:
                    self._fail(connection, stored, claim, error)
        self._tally.add(len(done), len(failures), [item.claim.age for item in done if item.claim.attempts == 0])
        return len(claims)

    def settle(self) -> bool:
        """What is done when the queue is empty: look for what was missed, build the index, complete a change of model.

        Returns:
            Whether there is work again.
        """
        _, stored = self._ready()
        with self._database.connection() as connection:
            if not self._settled:
                # A message that was written while the model was being registered is in no queue.
                if models.enqueue_missing(connection, stored.model_id):
                    return True
                models.ensure_index(connection, stored, "message")
                if models.switch(connection, stored):
                    log.info("model %s is complete and in use", stored.name)
                models.clear_retired(connection)
                self._settled = True
            self._tally.queued = queue.length(connection, stored.model_id)
        return False

    def _ready(self) -> tuple[Model, StoredModel]:
        if self._model is None:
            self._model = self._load()
        if self._stored is None:
            with self._database.connection() as connection:
                model = self._model
                self._stored = models.register(connection, model.name, model.fingerprint, model.dims)
        self._tally.model = self._model.name
        return self._model, self._stored

    def _embed(
        self, connection: Connection, model: Model, stored: StoredModel, claims: list[Claim]
    ) -> tuple[list[Embedded], list[tuple[Claim, str]]]:
        chunks: dict[int, list[Chunk]] = {}
        failures: list[tuple[Claim, str]] = []
        for at, claim in enumerate(claims):
            try:
                chunks[at] = model.chunks(claim.text or "")
            except Exception as error:  # noqa: BLE001 - one text must not stop the others, whatever the runtime raises
                failures.append((claim, f"{type(error).__name__}: {error}"))
        distinct = {_hash(chunk): chunk for parts in chunks.values() for chunk in parts}
        vectors = queue.known_vectors(connection, stored.model_id, list(distinct))
        missing = {text_hash: chunk for text_hash, chunk in distinct.items() if text_hash not in vectors}
        computed, errors = self._vectors(model, missing)
        vectors.update(computed)
        done = []
        for at, parts in chunks.items():
            hashes = [_hash(chunk) for chunk in parts]
            broken = next((errors[text_hash] for text_hash in hashes if text_hash in errors), None)
            if broken:
                failures.append((claims[at], broken))
            else:
                done.append(Embedded(claims[at], tuple((text_hash, vectors[text_hash]) for text_hash in hashes)))
        return done, failures

    def _vectors(self, model: Model, chunks: dict[bytes, Chunk]) -> tuple[dict[bytes, Vector], dict[bytes, str]]:
        """The vectors of these chunks, and the errors of those that have none."""
        hashes, parts = list(chunks), list(chunks.values())
        vectors: dict[bytes, Vector] = {}
        errors: dict[bytes, str] = {}
        for batch in batches(parts, self._token_budget):
            if self._stop.is_set():
                raise Stopped
            try:
                vectors.update(_run(model, [hashes[i] for i in batch], [parts[i] for i in batch]))
            except Exception as error:  # noqa: BLE001 - the runtime's errors have no common base
                if len(batch) == 1:
                    errors[hashes[batch[0]]] = f"{type(error).__name__}: {error}"
                    continue
                for i in batch:
                    try:
                        vectors.update(_run(model, [hashes[i]], [parts[i]]))
                    except Exception as single:  # noqa: BLE001
                        errors[hashes[i]] = f"{type(single).__name__}: {single}"
        return vectors, errors

    def _fail(self, connection: Connection, stored: StoredModel, claim: Claim, error: str) -> None:
        park = claim.attempts + 1 >= self._max_attempts
        delay = min(RETRY_MAX, 5.0 * 2**claim.attempts)
        queue.fail(connection, stored.model_id, claim, error, delay=delay, park=park)
        if park:
            log.error("message %s of chat %s cannot be embedded and is parked: %s", claim.msg_id, claim.chat_id, error)


def _run(model: Model, hashes: list[bytes], parts: list[Chunk]) -> dict[bytes, Vector]:
    vectors = model.embed(parts)
    if not np.isfinite(vectors).all():
        raise StoreError("the model gave a vector that is not finite")
    return dict(zip(hashes, vectors.astype(np.float16), strict=True))


def _hash(chunk: Chunk) -> bytes:
    """16 bytes that stand for the chunk's tokens: the same tokens have the same vector."""
    return hashlib.blake2b(np.asarray(chunk.ids, dtype=np.int32).tobytes(), digest_size=16).digest()
