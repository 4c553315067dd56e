"""The embedding workers: from the queue in the database to vectors in the database, one transaction a round.

A worker reads nothing but the database, so a broken model delays search and loses nothing, and a worker on another
machine is the same code.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial

import numpy as np

from vkteams_daemon.daemon.workers.worker_stats import WorkerStats
from vkteams_daemon.embedding.model import TOKEN_BUDGET, Chunk, Model, batches
from vkteams_daemon.errors import ModelError, StoreError
from vkteams_daemon.store import models, queue
from vkteams_daemon.store.connections import Connection
from vkteams_daemon.store.database import Database
from vkteams_daemon.store.models import StoredModel
from vkteams_daemon.store.queue import Claim, EmbeddingFailure, EmbeddingResult, Vector

log = logging.getLogger(__name__)

CLAIM = 2048  # messages; the more are sorted by length, the less is padding
RETRY_FIRST = 5.0  # seconds between the first two attempts at a text that fails; doubled from one to the next
RETRY_MAX = 3600.0
TROUBLE_MAX = 60.0  # seconds between two attempts at a database or model that fails
SLICE = 64  # texts that are cut into tokens at a time
ROUND_TOKENS = 49152  # about; one round is seconds of work, however long the texts are
COUNT_EVERY = 10.0  # seconds between two counts of a queue that is being worked off
RECOUNT = 1.0  # seconds until an idle leader counts again what others have claimed


class Stopped(Exception):
    """The worker was told to end in the middle of a round; the transaction is rolled back."""


class Worker:
    """One thread's loop over the queue.

    Args:
        database: open.
        load: gives the model; called in the worker's own thread, again after it has failed, with the one that failed.
        stats: where it counts.
        runs: where the model runs, shared by the workers: so no core waits while one of them fetches or stores; without
            it, in the worker's own thread.
        claim: most messages of one round.
        token_budget: most tokens of one run of the model.
        max_attempts: attempts before a text is parked.
        stop: set when the worker is to end; a round that has not been committed is then given back.
        is_leader: whether this worker also builds the index and completes a change of model; one does.
    """

    def __init__(
        self,
        database: Database,
        load: Callable[[Model | None], Model],
        stats: WorkerStats,
        *,
        runs: Executor | None = None,
        claim: int = CLAIM,
        token_budget: int = TOKEN_BUDGET,
        max_attempts: int = 5,
        stop: threading.Event | None = None,
        is_leader: bool = True,
    ) -> None:
        self._database = database
        self._load = load
        self._stats = stats
        self._map = runs.map if runs else map
        self._claim = claim
        self._token_budget = token_budget
        self._max_attempts = max_attempts
        self._stop = stop or threading.Event()
        self._is_leader = is_leader
        self._broken: Model | None = None
        self._use: tuple[Model, StoredModel] | None = None
        self._missing_queued = self._indexed = self._cleared = False
        self._counted_at = -math.inf

    def run(self, wake: threading.Event, poll_interval: float) -> None:
        """Work until `stop` is set; `wake` cuts an idle wait of `poll_interval` seconds short."""
        stop = self._stop
        failures = 0
        while not stop.is_set():
            wake.clear()
            try:
                busy = self.round() > 0
                if self._is_leader:
                    busy = self.maintain(idle=not busy) or busy
            except Stopped:
                return
            except Exception as error:  # noqa: BLE001 - a worker that ends unseen is worse than one that tries again
                failures += 1
                self._stats.mark_failing(self, error)
                stop.wait(random.uniform(0.5, 1) * min(TROUBLE_MAX, 2.0**failures))
                continue
            failures = 0
            self._stats.mark_ok(self)
            if not busy and not stop.is_set():
                # What another worker has claimed still counts as queued: the figure must not outlive its work.
                others_at_work = self._is_leader and self._stats.queued
                wake.wait(min(poll_interval, RECOUNT) if others_at_work else poll_interval)

    def round(self) -> int:
        """Claim, embed and store once; returns how many queue rows were claimed.

        Raises:
            VkTeamsError: the model cannot be loaded or does not work, or the database does not answer; nothing was
                changed.
        """
        model, stored = self._ready()
        with self._database.connection() as connection:
            queue.prepare_connection(connection)
            with connection.transaction():
                claims = queue.claim(connection, stored.model_id, self._claim)
                claimed_at = time.monotonic()
                if not claims:
                    return 0
                done, failed = self._embed(connection, model, stored, claims)
                count = queue.finish(connection, stored.model_id, done, failed)
        for item in failed:
            if item.delay is None:
                key = item.claim.msg_id, item.claim.chat_id
                log.error("message %s of chat %s cannot be embedded and is parked: %s", *key, item.error)
        taken = time.monotonic() - claimed_at
        ages = [item.claim.age + taken for item in done if item.claim.age is not None]
        self._stats.add(count, len(failed), ages)
        return len(claims)

    def maintain(self, *, idle: bool) -> bool:
        """What one worker does for all: count the queue; when idle, look once for what is in no queue, build the index
        and complete a change of model.

        Returns:
            Whether there is work again.
        """
        _, stored = self._ready()
        with self._database.connection() as connection:
            if idle and not self._missing_queued:
                found = models.enqueue_missing(connection, stored.model_id)
                self._missing_queued = True
                if found:
                    return True
            if idle:
                self._settle(connection, stored)
            if idle or time.monotonic() - self._counted_at > COUNT_EVERY:
                self._stats.queued = queue.length(connection, stored.model_id)
                self._counted_at = time.monotonic()
        return False

    def _settle(self, connection: Connection, stored: StoredModel) -> None:
        self._indexed = self._indexed or models.ensure_index(connection, stored)
        if stored.state == "building" and self._indexed and models.activate_if_complete(connection, stored):
            log.info("model %s is complete and in use", stored.name)
            assert self._use is not None
            self._use = (self._use[0], replace(stored, state="active"))
            self._cleared = False
        if not self._cleared:
            models.delete_retired(connection)
            self._cleared = True

    def _ready(self) -> tuple[Model, StoredModel]:
        if self._use is None:
            model = self._load(self._broken)
            with self._database.connection() as connection:
                stored = models.register(connection, model.name, model.fingerprint, model.dims)
            self._use, self._broken = (model, stored), None
            self._missing_queued = self._indexed = self._cleared = False
        self._stats.model = self._use[0].name
        return self._use

    def _embed(
        self, connection: Connection, model: Model, stored: StoredModel, claims: list[Claim]
    ) -> tuple[list[EmbeddingResult], list[EmbeddingFailure]]:
        """The claims with their vectors, and those that failed; claims beyond `ROUND_TOKENS` are in neither list."""
        hashed: list[tuple[Claim, list[bytes]]] = []
        distinct: dict[bytes, Chunk] = {}
        errors: dict[Claim, str] = {}
        tokens = 0
        for claim, parts in _cut(model, claims):
            if tokens > ROUND_TOKENS:
                break
            if isinstance(parts, str):
                errors[claim] = parts
                continue
            hashes = [_hash(chunk) for chunk in parts]
            hashed.append((claim, hashes))
            distinct.update(zip(hashes, parts, strict=True))
            tokens += sum(map(len, parts))
        vectors = queue.stored_vectors(connection, stored.model_id, list(distinct))
        missing = {text_hash: chunk for text_hash, chunk in distinct.items() if text_hash not in vectors}
        computed, broken = self._vectors(model, missing)
        vectors.update(computed)
        done = []
        for claim, hashes in hashed:
            reason = next((broken[text_hash] for text_hash in hashes if text_hash in broken), None)
            if reason:
                errors[claim] = reason
            else:
                done.append(EmbeddingResult(claim, tuple((text_hash, vectors[text_hash]) for text_hash in hashes)))
        return done, [EmbeddingFailure(claim, reason, self._delay(claim)) for claim, reason in errors.items()]

    def _vectors(self, model: Model, chunks: dict[bytes, Chunk]) -> tuple[dict[bytes, Vector], dict[bytes, str]]:
        """The vectors of these chunks, and the errors of those that have none.

        Raises:
            ModelError: it is not the texts: the model fails at any.
        """
        hashes, parts = list(chunks), list(chunks.values())
        plan = list(batches(parts, self._token_budget))
        vectors: dict[bytes, Vector] = {}
        errors: dict[bytes, str] = {}
        for batch, result in zip(plan, self._map(partial(self._attempt, model, hashes, parts), plan), strict=True):
            if isinstance(result, dict):
                vectors.update(result)
                continue
            self._probe(model)
            for i in batch:
                try:
                    vectors.update(_run(model, [hashes[i]], [parts[i]]))
                except Exception as error:  # noqa: BLE001 - the runtime's errors have no common base
                    errors[hashes[i]] = f"{type(error).__name__}: {error}"
        return vectors, errors

    def _attempt(
        self, model: Model, hashes: list[bytes], parts: list[Chunk], batch: list[int]
    ) -> dict[bytes, Vector] | Exception:
        """One run of the model, in whatever thread."""
        if self._stop.is_set():
            raise Stopped
        try:
            return _run(model, [hashes[i] for i in batch], [parts[i] for i in batch])
        except Exception as error:  # noqa: BLE001 - the others of the round go on
            return error

    def _probe(self, model: Model) -> None:
        """Raises ModelError where the model fails at a harmless text too; then it is loaded again."""
        try:
            _run(model, [b""], model.chunks("a")[:1])
        except Exception as error:
            self._broken, self._use = model, None
            raise ModelError(f"the model {model.name} does not work: {error}") from error

    def _delay(self, claim: Claim) -> float | None:
        """Seconds until this claim is tried again, or None after the last attempt."""
        if claim.attempts + 1 >= self._max_attempts:
            return None
        return min(RETRY_MAX, RETRY_FIRST * 2.0**claim.attempts)


def _cut(model: Model, claims: Sequence[Claim]) -> Iterator[tuple[Claim, list[Chunk] | str]]:
    """Each claim with its chunks, or with the reason why it has none."""
    for start in range(0, len(claims), SLICE):
        part = claims[start : start + SLICE]
        try:
            yield from zip(part, model.chunks_of([claim.text or "" for claim in part]), strict=True)
        except Exception as error:  # noqa: BLE001 - one text must not stop the others, whatever the runtime raises
            if len(part) == 1:
                yield part[0], f"{type(error).__name__}: {error}"
            else:
                yield from (found for claim in part for found in _cut(model, [claim]))


def _run(model: Model, hashes: list[bytes], parts: list[Chunk]) -> dict[bytes, Vector]:
    vectors = model.embed(parts)
    if not np.isfinite(vectors).all():
        raise StoreError("the model gave a vector that is not finite")
    return dict(zip(hashes, vectors.astype(np.float16), strict=True))


def _hash(chunk: Chunk) -> bytes:
    """16 bytes that stand for the chunk's tokens: the same tokens have the same vector."""
    return hashlib.blake2b(array("i", chunk.ids).tobytes(), digest_size=16).digest()
