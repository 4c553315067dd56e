"""A loaded model: cuts texts into chunks of token ids, and embeds chunks as vectors of length 1.

One ONNX session serves every thread of the process. Each run uses one core, in the thread that calls it, and runs do
not disturb each other. Two threads on one session embed as much as two sessions with a thread each, and the weights are
in memory once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.language_axis import QueryVector, query_vector
from vkteams_daemon.embedding.model_info import ModelInfo, Precision
from vkteams_daemon.embedding.tokenizer import Tokenizer
from vkteams_daemon.embedding.tokenizer import load as load_tokenizer
from vkteams_daemon.errors import ModelError

OVERLAP = 32  # tokens that neighbouring chunks of one text share, if the window is large enough
TOKEN_BUDGET = 512  # tokens of one run, whose memory then fits into a core's own cache

# The memory of a run with more tokens than this is freed at once, and not kept for the next run.
_ARENA_TOKENS = 4096

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Chunk:
    """The input of the model for one vector: at most `max_tokens` token ids, special tokens and prefix included."""

    ids: tuple[int, ...]

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.ids)


class Model:
    """An installed model; may be used from several threads at once.

    Attributes:
        name: as model.toml gives it.
        dims: length of a vector.
        max_tokens: the longest chunk, special tokens and prefix included.
        fingerprint: models of one fingerprint share vectors, whatever their precision.
        precision: `int8` or `fp32`.
        query_prefix: put before a query.
        passage_prefix: put before a passage.
    """

    def __init__(self, info: ModelInfo, tokenizer: Tokenizer, session: Any) -> None:
        self.name = info.name
        self.dims = info.dims
        self.max_tokens = info.max_tokens
        self.fingerprint = info.fingerprint
        self.precision: Precision = info.precision
        self.query_prefix = info.query_prefix
        self.passage_prefix = info.passage_prefix
        self._language_axis = info.language_axis
        self._session = session
        self._tokenizer = tokenizer
        self._head, self._tail = tokenizer.head, tokenizer.tail
        self._max_body = self.max_tokens - len(self._head) - len(self._tail)

    @classmethod
    def load(cls, directory: Path) -> Model:
        """Load the model in that directory.

        Raises:
            ModelAbsent: there is none.
            ModelRefused: its files are not the ones that model.toml describes.
            ModelError: the runtime cannot load it.
        """
        info = model_info.read(directory)
        model_info.check_sizes(info)
        return cls(info, load_tokenizer(directory / model_info.TOKENIZER), load_session(directory / model_info.ONNX))

    def chunks(self, text: str) -> list[Chunk]:
        """The passage as chunks that overlap; none if the tokenizer finds no token in it."""
        return self._chunks([text], self.passage_prefix)[0]

    def chunks_of(self, texts: Sequence[str]) -> list[list[Chunk]]:
        """The chunks of several passages. Other threads work during this one call; a call for each text blocks them."""
        return self._chunks(texts, self.passage_prefix)

    def embed(self, chunks: Sequence[Chunk]) -> Vectors:
        """Embed one batch, padded to its longest chunk; returns `(n, dims)` float32, rows of length 1.

        Raises:
            ModelError: the runtime failed.
        """
        if not chunks:
            return np.zeros((0, self.dims), np.float32)
        longest = max(len(chunk) for chunk in chunks)
        ids = np.zeros((len(chunks), longest), np.int64)
        mask = np.zeros((len(chunks), longest), np.int64)
        for row, chunk in enumerate(chunks):
            ids[row, : len(chunk)] = chunk.ids
            mask[row, : len(chunk)] = 1
        options = None
        if ids.size > _ARENA_TOKENS:
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            vectors: Vectors = self._session.run(None, {model_info.IDS: ids, model_info.MASK: mask}, options)[0]
        except Exception as error:  # the runtime's errors have no common base
            raise ModelError(f"{self.name}: the model failed: {error}") from error
        return vectors

    def embed_texts(self, texts: Sequence[str], *, query: bool = False, token_budget: int = TOKEN_BUDGET) -> Vectors:
        """Embed whole texts; returns one vector for each, `(n, dims)` float32, rows of length 1.

        A long query is embedded by its first chunk, a long passage as the mean of its chunks. The row of a text without
        a token is zeros. So is the row of a query without a known token: the model cannot tell unknown emoji apart.

        Raises:
            ModelError: the runtime failed.
        """
        owners: list[int] = []
        chunks: list[Chunk] = []
        for row, parts in enumerate([self._query(text) for text in texts] if query else self.chunks_of(texts)):
            owners += [row] * len(parts)
            chunks += parts
        sums = np.zeros((len(texts), self.dims), np.float32)
        for batch in batches(chunks, token_budget):
            np.add.at(sums, [owners[i] for i in batch], self.embed([chunks[i] for i in batch]))
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        np.divide(sums, lengths, out=sums, where=lengths > 0)
        return sums

    def query(self, text: str) -> QueryVector:
        """The vector of a query; see `embed_texts`.

        Raises:
            ModelError: the runtime failed.
        """
        return query_vector(self.embed_texts([text], query=True)[0].tolist(), self._language_axis)

    def _query(self, text: str) -> list[Chunk]:
        ids, _ = self._tokenizer.encode([text], "")[0]
        if not set(ids[: self._max_body]) - self._tokenizer.unknown:
            return []
        return self._chunks([text], self.query_prefix)[0][:1]

    def _chunks(self, texts: Sequence[str], prefix: str) -> list[list[Chunk]]:
        return [self._cut(ids, lead) for ids, lead in self._tokenizer.encode(texts, prefix)]

    def _cut(self, ids: list[int], lead: int) -> list[Chunk]:
        if len(ids) == lead:
            return []
        if len(ids) <= self._max_body:
            return [Chunk((*self._head, *ids, *self._tail))]
        head = (*self._head, *ids[:lead])
        body = ids[lead:]
        cuts = windows(len(body), self._max_body - lead)
        return [Chunk((*head, *body[start:end], *self._tail)) for start, end in cuts]


def batches(chunks: Sequence[Chunk], token_budget: int) -> Iterator[list[int]]:
    """Batches of indices of the chunks: sorted by length, at most `token_budget` tokens each, padding included.

    A batch that is half full ends where the length changes: a token of a half-full run costs hardly more, and padding
    is wasted. A chunk longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    for index in sorted(range(len(chunks)), key=lambda i: len(chunks[i])):
        longest, length = len(chunks[batch[-1]]) if batch else 0, len(chunks[index])
        half_full = 2 * len(batch) * longest >= token_budget
        if batch and ((len(batch) + 1) * length > token_budget or (half_full and length > longest)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def windows(length: int, size: int) -> Iterator[tuple[int, int]]:
    """Start and end of the fewest windows of at most `size` tokens that cover `length` tokens.

    Neighbours share `OVERLAP` tokens, or a quarter of the size if that is less. The windows are of even length, so
    that no tail of two words gets a vector of its own.
    """
    if length <= size:
        yield 0, length
        return
    overlap = min(OVERLAP, size // 4)
    count = -(-(length - overlap) // (size - overlap))
    for number in range(count):
        start = number * (length - overlap) // count
        yield start, (number + 1) * (length - overlap) // count + overlap


def load_session(file: Path) -> Any:
    """Load the graph in this file: one thread for each run, and no thread that spins while it is idle.

    Raises:
        ModelError: the runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph is fused already, as it was measured to be fastest; further fusing by the runtime gains nothing.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # The runtime keeps a memory pattern for every shape of batch. Without them a session is 40 MB smaller and as fast.
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common base
        raise ModelError(f"{file}: the runtime cannot load it: {error}") from error
