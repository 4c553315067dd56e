"""Compares a quantised model with its source: accuracy, and speed on this machine.

Both models embed the sample texts of samples.py. Accuracy is the cosine of each chunk's two vectors. Speed is the
processor time of the workers' loop: sorted by length, in batches under a token budget, in one thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vkteams_daemon.embedding.model import TOKEN_BUDGET, Chunk, Model, Vectors, batches
from vkteams_daemon.errors import ModelRefused

MIN_COSINE = 0.985
MIN_SPEEDUP = 1.2


@dataclass(frozen=True, slots=True)
class Comparison:
    """The cosines of a quantised model's vectors with its source's, and how many times faster it is."""

    cosine_mean: float
    cosine_worst: float
    speedup: float


def compare(source: Model, quantised: Model, texts: Sequence[str]) -> Comparison:
    """Embed the texts with both models, in turn batch by batch, so that a busy machine slows down both.

    Raises:
        ModelRefused: the mean cosine is below `MIN_COSINE`, or not a number.
    """
    chunks = [chunk for text in texts for chunk in source.chunks(text)]
    expected = np.zeros((len(chunks), source.dims), np.float32)
    vectors = np.zeros_like(expected)
    source_seconds = quantised_seconds = 0.0
    for model in (source, quantised):
        model.embed(chunks[:32])  # the first run of a session also allocates its memory
    for batch in batches(chunks, TOKEN_BUDGET):
        part = [chunks[i] for i in batch]
        expected[batch], seconds = _timed(source, part)
        source_seconds += seconds
        vectors[batch], seconds = _timed(quantised, part)
        quantised_seconds += seconds
    cosines = (expected * vectors).sum(axis=1)
    result = Comparison(float(cosines.mean()), float(cosines.min()), source_seconds / quantised_seconds)
    # `not >=` refuses NaN too, which is not below the limit.
    if not result.cosine_mean >= MIN_COSINE:
        raise ModelRefused(
            f"{quantised.name}: its int8 form is too far from its source: mean cosine {result.cosine_mean:.4f},"
            f" {MIN_COSINE} is needed",
            hint="Install it with `--precision fp32`.",
        )
    return result


def _timed(model: Model, batch: Sequence[Chunk]) -> tuple[Vectors, float]:
    """The batch's vectors, and the seconds of processor time: waiting for a busy processor does not count."""
    start = time.thread_time()
    return model.embed(batch), time.thread_time() - start
