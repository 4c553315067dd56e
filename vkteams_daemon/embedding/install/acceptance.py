"""Is a quantised model as good as its source, and is it worth having on this machine.

Both are asked over the built-in texts of samples.py: the cosine of each text's two vectors, and the processor time of
the loop the workers run (sorted by length, batches under a token budget, one thread).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vkteams_daemon.embedding.model import TOKEN_BUDGET, Chunk, Model, Vectors, batches
from vkteams_daemon.errors import ModelRefused

COSINE_LEAST = 0.985
SPEEDUP_LEAST = 1.2


@dataclass(frozen=True, slots=True)
class Comparison:
    """A quantised model against its source: cosines over the texts, and how many times faster it is."""

    cosine_mean: float
    cosine_worst: float
    speedup: float


def compare(source: Model, quantised: Model, texts: Sequence[str]) -> Comparison:
    """Run both over the texts, turn about batch by batch, so that a busy machine slows down both.

    Raises:
        ModelRefused: the mean cosine is below `COSINE_LEAST`, or a vector is no vector at all.
    """
    chunks = [chunk for text in texts for chunk in source.chunks(text)]
    expected = np.zeros((len(chunks), source.dims), np.float32)
    vectors = np.zeros_like(expected)
    first = second = 0.0
    for model in (source, quantised):
        model.embed(chunks[:32])  # the first run of a session also takes its memory
    for batch in batches(chunks, TOKEN_BUDGET):
        part = [chunks[i] for i in batch]
        expected[batch], seconds = _timed(source, part)
        first += seconds
        vectors[batch], seconds = _timed(quantised, part)
        second += seconds
    cosines = (expected * vectors).sum(axis=1)
    result = Comparison(float(cosines.mean()), float(cosines.min()), first / second)
    # NaN is not below the limit either.
    if not result.cosine_mean >= COSINE_LEAST:
        raise ModelRefused(
            f"{quantised.name}: its int8 form is too far from its source: mean cosine {result.cosine_mean:.4f},"
            f" {COSINE_LEAST} is needed",
            hint="Install it with `--precision fp32`.",
        )
    return result


def _timed(model: Model, batch: Sequence[Chunk]) -> tuple[Vectors, float]:
    """The batch's vectors, and the seconds this thread computed: waiting for a busy processor does not count."""
    start = time.thread_time()
    return model.embed(batch), time.thread_time() - start
