"""The embedding worker: takes messages from the queue in the database and stores their vectors, a transaction a round.

A worker reads the database only. So a broken model delays search but loses nothing, and a worker on another machine
runs the same code.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import threading
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

import numpy as np

from vkteams_daemon.daemon.watch import Pulse
from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.model import TOKEN_BUDGET, Chunk, Model, batches
from vkteams_daemon.errors import ModelError, StoreError
from vkteams_daemon.store import embedding_models, queue, vector_index
from vkteams_daemon.store.blockers import SilentSessions
from vkteams_daemon.store.connections import Connection, abort
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.embedding_models import StoredModel
from vkteams_daemon.store.queue import Claim, EmbeddingFailure, EmbeddingResult, Vector

log = logging.getLogger(__name__)

CLAIM = 2048  # messages; sorting more messages by length leaves less padding
RETRY_FIRST = 5.0  # seconds between the first two attempts to embed a text; doubled after each further attempt
RETRY_MAX = 3600.0  # seconds; the longest wait between two attempts to embed a text
TOKENIZE_BATCH = 64  # texts that are tokenized at once
ROUND_LIMIT = 60.0  # seconds after which a round is overdue
LOAD_LIMIT = 300.0  # seconds after which loading the model, or a step of the leader's work, is overdue
ROUND_SECONDS = 2.0  # the aim for a round: it is one transaction, so others wait for its locks and its snapshot
ROUND_TOKENS_FIRST = 8192  # about; the following rounds take as many as this machine does in ROUND_SECONDS
ROUND_TOKENS_MIN, ROUND_TOKENS_MAX = 256, 16384
TOKENS_PER_CLAIM = 4  # hardly a message has fewer; claiming more messages than a round embeds is wasted
MARK_INTERVAL = 60.0  # seconds between two notes in the database that somebody works for the model
COUNT_INTERVAL = 10.0  # seconds between two counts of a queue that is being worked off


class Stopped(Exception):
    """The worker was told to end in the middle of a round. The transaction is rolled back."""


class Worker:
    """What one thread does for one model: rounds over the model's queue.

    Args:
        database: open.
        load: returns the model. It is called in the worker's thread: with None at first, and with the broken model
            after the model has failed.
        stats: the counters of all workers.
        model_threads: the threads that the model runs in. All workers share them, so that no core is idle while one
            worker reads or writes the database. None: the model runs in the worker's own thread.
        claim: maximum messages of one round.
        token_budget: maximum tokens of one run of the model.
        max_attempts: failed attempts after which a text is parked.
        stop: set when the worker must end. An uncommitted round returns its claims to the queue.
        is_leader: whether this worker also counts the queue, builds the index and completes a change of models. Each
            process has one leader for each model.
        chosen: gives the fingerprints of the other chosen models; None if they are not known at present.
        pulse: its thread's.

    Attributes:
        stats: as given.
    """

    def __init__(
        self,
        database: Database,
        load: Callable[[Model | None], Model],
        stats: WorkerStats,
        *,
        model_threads: Executor | None = None,
        claim: int = CLAIM,
        token_budget: int = TOKEN_BUDGET,
        max_attempts: int = 5,
        stop: threading.Event | None = None,
        is_leader: bool = True,
        chosen: Callable[[], Collection[str] | None] = tuple,
        pulse: Pulse | None = None,
    ) -> None:
        self._database = database
        self._load = load
        self.stats = stats
        self._map = model_threads.map if model_threads else map
        self._claim = claim
        self._token_budget = token_budget
        self._max_attempts = max_attempts
        self._stop = stop or threading.Event()
        self._is_leader = is_leader
        self._chosen = chosen
        self._pulse = pulse or Pulse("worker")
        self._connection: Connection | None = None  # in use now
        self._broken: Model | None = None
        self._current: tuple[Model, StoredModel] | None = None
        self._missing_enqueued = self._indexed = self._settled = False
        self._counted_at = self._marked_at = -math.inf
        self._round_tokens = ROUND_TOKENS_FIRST
        self._index_holders = SilentSessions(database.patience)
        self._claim_holders = SilentSessions(database.patience)

    def abort(self) -> None:
        """End what the worker waits for in the database, from any thread: its server process may hang."""
        if connection := self._connection:
            abort(connection)

    @contextlib.contextmanager
    def _connect(self) -> Iterator[Connection]:
        with self._database.connection() as connection:
            self._connection = connection
            try:
                yield connection
            finally:
                self._connection = None

    def turn(self) -> bool:
        """One round and, for a leader, the work beside it; returns whether there may be more to do at once."""
        with self._pulse.turn(ROUND_LIMIT):
            busy = self.round() > 0
        if self._is_leader:
            with self._pulse.turn(LOAD_LIMIT):
                busy = self.maintain(idle=not busy) or busy
        return busy

    @property
    def is_building(self) -> bool:
        """Whether search does not ask the model yet, as far as this worker knows."""
        return self._current is not None and self._current[1].state == "building"

    @property
    def waits_for_others(self) -> bool:
        """Whether other workers still have claims on the queue that this leader counts."""
        return self._is_leader and bool(self.stats.queued)

    def round(self) -> int:
        """Claim, embed and store once; returns how many queue rows were claimed.

        Raises:
            VkTeamsError: the model cannot be loaded or does not work, or the database does not answer. Nothing has
                changed then.
        """
        model, stored = self._ready()
        limit = min(self._claim, self._round_tokens // TOKENS_PER_CLAIM)
        with self._connect() as connection:
            queue.prepare_connection(connection)
            if time.monotonic() - self._marked_at > MARK_INTERVAL:
                state = embedding_models.mark_worked(connection, stored.model_id)
                self._marked_at = time.monotonic()
                if state == "active" and not self._is_leader:  # a leader has completed it
                    self._current = model, replace(stored, state=state)
            claimed_at = time.monotonic()
            full = False
            try:
                with connection.transaction():
                    claims = queue.claim(connection, stored.model_id, limit)
                    if not claims:
                        return 0
                    results, failures = self._embed(connection, model, stored, claims)
                    count = queue.finish(connection, stored.model_id, results, failures)
                full = len(claims) == limit or len(results) + len(failures) < len(claims)
            finally:
                self._adapt_round(time.monotonic() - claimed_at, full)
        for failure in failures:
            if failure.delay is None:
                key = failure.claim.msg_id, failure.claim.chat_id
                log.error("message %s of chat %s cannot be embedded and is parked: %s", *key, failure.error)
        duration = time.monotonic() - claimed_at
        ages = [result.claim.age + duration for result in results if result.claim.age is not None]
        self.stats.add(count, len(failures), ages)
        return len(claims)

    def _adapt_round(self, duration: float, full: bool) -> None:
        """Choose the tokens of the next round from the duration of this one, which was cut off if it was `full`.

        A failed round counts as well: the server ends a transaction whose model takes too long.
        """
        tokens = self._round_tokens * max(0.25, min(2.0, ROUND_SECONDS / max(duration, 0.001)))
        if not full:
            tokens = min(tokens, self._round_tokens)
        self._round_tokens = min(ROUND_TOKENS_MAX, max(ROUND_TOKENS_MIN, int(tokens)))

    def maintain(self, *, idle: bool) -> bool:
        """Do the leader's work: count the queue, build the index and complete a change of models.

        The first call enqueues messages that have neither a vector nor a place in the queue. In a busy archive a worker
        may never be idle, so at each count it also looks whether its model has caught up.

        Returns:
            Whether there is work again.
        """
        _, stored = self._ready()
        with self._connect() as connection:
            if not self._missing_enqueued:
                count = embedding_models.enqueue_missing(connection, stored.model_id)
                self._missing_enqueued = True
                if count:
                    return True
            counting = idle or time.monotonic() - self._counted_at > COUNT_INTERVAL
            complete = self._indexed and self._settled and stored.state == "active"
            if idle or (counting and not complete and embedding_models.has_caught_up(connection, stored.model_id)):
                self._complete_model(connection, stored)
            if counting:
                self.stats.queued = queue.length(connection, stored.model_id)
                self._counted_at = time.monotonic()
            if idle and self.stats.queued:
                return queue.free_claims(connection, self._claim_holders)
            self._claim_holders.forget()
        return False

    def _complete_model(self, connection: Connection, stored: StoredModel) -> None:
        """Build the index, activate a complete model, retire those that are not chosen, and delete their vectors."""
        if not self._indexed:
            self._pulse.idle()  # a build has no limit
            self._indexed = vector_index.ensure_index(connection, stored.model_id, stored.dims, self._index_holders)
            self._pulse.busy(LOAD_LIMIT)
        if stored.state == "building" and self._indexed and embedding_models.activate_if_complete(connection, stored):
            log.info("model %s is complete and in use", stored.name)
            assert self._current is not None
            self._current = (self._current[0], replace(stored, state="active"))
            self._settled = False
        if not self._settled:
            chosen = self._chosen()
            if chosen is not None:
                for name in embedding_models.retire_others(connection, {stored.fingerprint, *chosen}):
                    log.info("model %s is not in use any more", name)
            self._pulse.idle()  # nor has the deletion of a million vectors
            embedding_models.delete_retired(connection, self._index_holders)
            self._pulse.busy(LOAD_LIMIT)
            self._settled = True

    def _ready(self) -> tuple[Model, StoredModel]:
        """The model and its row, loaded and registered if necessary."""
        if self._current is None:
            self._pulse.busy(LOAD_LIMIT)
            model = self._load(self._broken)
            with self._connect() as connection:
                stored = embedding_models.register(
                    connection, model.name, model.fingerprint, model.dims, self._chosen()
                )
            self._current, self._broken = (model, stored), None
            self._missing_enqueued = self._indexed = self._settled = False
            self._pulse.busy(ROUND_LIMIT)
        self.stats.model = self._current[0].name
        return self._current

    def _embed(
        self, connection: Connection, model: Model, stored: StoredModel, claims: list[Claim]
    ) -> tuple[list[EmbeddingResult], list[EmbeddingFailure]]:
        """The claims with their vectors, and those that failed. Claims beyond the round's tokens are in neither."""
        hashed: list[tuple[Claim, list[bytes]]] = []
        distinct: dict[bytes, Chunk] = {}
        errors: dict[Claim, str] = {}
        tokens = 0
        for claim, chunks in _split_into_chunks(model, claims):
            if tokens > self._round_tokens:
                break
            if isinstance(chunks, str):
                errors[claim] = chunks
                continue
            hashes = [_hash(chunk) for chunk in chunks]
            hashed.append((claim, hashes))
            distinct.update(zip(hashes, chunks, strict=True))
            tokens += sum(map(len, chunks))
        vectors = queue.stored_vectors(connection, stored.model_id, list(distinct))
        missing = {text_hash: chunk for text_hash, chunk in distinct.items() if text_hash not in vectors}
        new_vectors, chunk_errors = self._embed_chunks(connection, model, missing)
        vectors.update(new_vectors)
        results = []
        for claim, hashes in hashed:
            reason = next((chunk_errors[text_hash] for text_hash in hashes if text_hash in chunk_errors), None)
            if reason:
                errors[claim] = reason
            else:
                results.append(EmbeddingResult(claim, tuple((text_hash, vectors[text_hash]) for text_hash in hashes)))
        return results, [EmbeddingFailure(claim, reason, self._retry_delay(claim)) for claim, reason in errors.items()]

    def _embed_chunks(
        self, connection: Connection, model: Model, chunks: dict[bytes, Chunk]
    ) -> tuple[dict[bytes, Vector], dict[bytes, str]]:
        """The vectors of these chunks, and the errors of the chunks that have none.

        Raises:
            ModelError: the model fails on a harmless text too.
        """
        hashes, parts = list(chunks), list(chunks.values())
        plan = list(batches(parts, min(self._token_budget, self._round_tokens)))
        vectors: dict[bytes, Vector] = {}
        errors: dict[bytes, str] = {}
        spoke_at = time.monotonic()
        for batch, result in zip(plan, self._map(partial(self._try_batch, model, hashes, parts), plan), strict=True):
            # One message may be so long that the round lasts. The server ends a transaction that is silent for 10 s.
            if time.monotonic() - spoke_at > min(ROUND_SECONDS, self._database.patience / 3):
                queue.keep_alive(connection)
                spoke_at = time.monotonic()
            if isinstance(result, dict):
                vectors.update(result)
                continue
            self._check_model(model)
            for i in batch:
                try:
                    vectors.update(_run(model, [hashes[i]], [parts[i]]))
                except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base
                    errors[hashes[i]] = f"{type(error).__name__}: {error}"
        return vectors, errors

    def _try_batch(
        self, model: Model, hashes: list[bytes], parts: list[Chunk], batch: list[int]
    ) -> dict[bytes, Vector] | Exception:
        """Run the model on one batch, in any thread; returns its vectors, or the error."""
        if self._stop.is_set():
            raise Stopped
        try:
            return _run(model, [hashes[i] for i in batch], [parts[i] for i in batch])
        except Exception as error:  # noqa: BLE001 - the other batches of the round go on
            return error

    def _check_model(self, model: Model) -> None:
        """Run the model on a harmless text. If that fails too, raise ModelError and load the model again later."""
        try:
            _run(model, [b""], model.chunks("a")[:1])
        except Exception as error:
            self._broken, self._current = model, None
            raise ModelError(f"the model {model.name} does not work: {error}") from error

    def _retry_delay(self, claim: Claim) -> float | None:
        """Seconds until this claim is tried again, or None after the last attempt."""
        if claim.attempts + 1 >= self._max_attempts:
            return None
        return min(RETRY_MAX, RETRY_FIRST * 2.0**claim.attempts)


def _split_into_chunks(model: Model, claims: Sequence[Claim]) -> Iterator[tuple[Claim, list[Chunk] | str]]:
    """Each claim with its chunks, or with the reason why it has none."""
    for start in range(0, len(claims), TOKENIZE_BATCH):
        part = claims[start : start + TOKENIZE_BATCH]
        try:
            yield from zip(part, model.chunks_of([claim.text or "" for claim in part]), strict=True)
        except Exception as error:  # noqa: BLE001 - one text must not stop the others, whatever the tokenizer raises
            if len(part) == 1:
                yield part[0], f"{type(error).__name__}: {error}"
            else:
                for claim in part:
                    yield from _split_into_chunks(model, [claim])


def _run(model: Model, hashes: list[bytes], parts: list[Chunk]) -> dict[bytes, Vector]:
    """The vector of each chunk, by the chunk's hash; StoreError if a vector is not finite."""
    vectors = model.embed(parts)
    if not np.isfinite(vectors).all():
        raise StoreError("the model gave a vector that is not finite")
    return dict(zip(hashes, vectors.astype(np.float16), strict=True))


def _hash(chunk: Chunk) -> bytes:
    """16 bytes that identify the chunk's tokens. The same tokens have the same vector."""
    return hashlib.blake2b(array("i", chunk.ids).tobytes(), digest_size=16).digest()
