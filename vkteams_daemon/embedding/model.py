"""A model at work: texts become chunks of token ids, chunks become vectors of length 1.

One ONNX session serves every thread of the process: its runs are independent, each on one core in the thread that
asks. Two threads on one session embed as much as two sessions of one thread each, and the weights are in memory once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Encoding, Tokenizer

from vkteams_daemon.embedding import manifest
from vkteams_daemon.embedding.manifest import ModelInfo, Precision
from vkteams_daemon.errors import ModelError, ModelRefused

OVERLAP = 32  # tokens that neighbouring chunks of one text share, where the window has room for it
TOKEN_BUDGET = 512  # of one run; what it takes then stays in a core's own cache

# Above this many tokens in one run, what it took is given back at once instead of being kept for the next.
_KEPT_TOKENS = 4096

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the model reads at once: token ids with special tokens and prefix, at most `max_tokens` of them."""

    ids: tuple[int, ...]

    def __len__(self) -> int:
        """How many tokens."""
        return len(self.ids)


class Model:
    """An installed model; may be used from several threads at once.

    Attributes:
        name: of the directory.
        dims: length of a vector.
        max_tokens: the longest chunk, special tokens and prefix included.
        fingerprint: models of one fingerprint share vectors, whatever their precision.
        precision: `int8` or `fp32`.
        query_prefix: stands before a query.
        passage_prefix: stands before a passage.
    """

    def __init__(self, info: ModelInfo, tokenizer: Tokenizer, session: Any) -> None:
        self.name = info.name
        self.dims = info.dims
        self.max_tokens = info.max_tokens
        self.fingerprint = info.fingerprint
        self.precision: Precision = info.precision
        self.query_prefix = info.query_prefix
        self.passage_prefix = info.passage_prefix
        self._session = session
        self._tokenizer = tokenizer
        self._head, self._tail = _frame(tokenizer)
        self._unknown = {tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>")}
        self._room = self.max_tokens - len(self._head) - len(self._tail)

    @classmethod
    def load(cls, directory: Path) -> Model:
        """The model in that directory.

        Raises:
            ModelAbsent: there is none.
            ModelRefused: its files are not those that model.toml describes.
            ModelError: the runtime cannot load it.
        """
        info = manifest.read(directory)
        manifest.check_sizes(info)
        return cls(info, load_tokenizer(directory / manifest.TOKENIZER), load_session(directory / manifest.ONNX))

    def chunks(self, text: str) -> list[Chunk]:
        """The passage as chunks that overlap; none for a text of which the tokenizer leaves nothing."""
        return self._chunks([text], self.passage_prefix)[0]

    def chunks_of(self, texts: Sequence[str]) -> list[list[Chunk]]:
        """The same of several; one call lets other threads work meanwhile, which one for each text does not."""
        return self._chunks(texts, self.passage_prefix)

    def embed(self, chunks: Sequence[Chunk]) -> Vectors:
        """The vectors of one batch, `(n, dims)`, rows of length 1; padded to the longest chunk.

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
        if ids.size > _KEPT_TOKENS:
            options = onnxruntime.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            vectors: Vectors = self._session.run(None, {manifest.IDS: ids, manifest.MASK: mask}, options)[0]
        except Exception as error:  # the runtime's errors have no common base
            raise ModelError(f"{self.name}: the model failed: {error}") from error
        return vectors

    def embed_texts(self, texts: Sequence[str], *, query: bool = False, token_budget: int = TOKEN_BUDGET) -> Vectors:
        """One vector for each text, `(n, dims)`, rows of length 1; of zeros where a text has no token.

        A long query is its first chunk, a long passage the mean of its chunks. A query of which the vocabulary knows
        nothing is of zeros, too: to the model one emoji that it does not know is as good as any other.

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

    def _query(self, text: str) -> list[Chunk]:
        body = {token for chunk in self._chunks([text], "")[0][:1] for token in chunk.ids[len(self._head) :]}
        return self._chunks([text], self.query_prefix)[0][:1] if body - self._unknown - {*self._tail} else []

    def _chunks(self, texts: Sequence[str], prefix: str) -> list[list[Chunk]]:
        # Half of a surrogate pair cannot be written as UTF-8, which is all that the tokenizer takes.
        clean = [prefix + text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        # Where a prefix ends is only known with the offsets, which the faster way leaves out.
        encode = self._tokenizer.encode_batch if prefix else self._tokenizer.encode_batch_fast
        return [self._cut(encoding, prefix) for encoding in encode(clean, add_special_tokens=False)]

    def _cut(self, encoding: Encoding, prefix: str) -> list[Chunk]:
        ids = encoding.ids
        lead = sum(1 for _, end in encoding.offsets if end <= len(prefix)) if prefix else 0
        if len(ids) == lead:
            return []
        if len(ids) <= self._room:
            return [Chunk((*self._head, *ids, *self._tail))]
        head = (*self._head, *ids[:lead])
        body = ids[lead:]
        return [Chunk((*head, *body[start:end], *self._tail)) for start, end in windows(len(body), self._room - lead)]


def batches(chunks: Sequence[Chunk], token_budget: int) -> Iterator[list[int]]:
    """Indices of the chunks in batches: sorted by length, and at most `token_budget` tokens with the padding.

    A batch that is half full ends where the length changes: a run of half the tokens costs hardly more by the token,
    and padding is all waste. A chunk longer than the budget is a batch of its own.
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


def windows(length: int, room: int) -> Iterator[tuple[int, int]]:
    """Start and end of the fewest windows of at most `room` that cover `length`, of even size, neighbours overlapping.

    They share `OVERLAP` tokens, or a quarter of the room where that is less. Even windows leave no tail of two words
    with a vector of its own.
    """
    if length <= room:
        yield 0, length
        return
    overlap = min(OVERLAP, room // 4)
    count = -(-(length - overlap) // (room - overlap))
    for number in range(count):
        start = number * (length - overlap) // count
        yield start, (number + 1) * (length - overlap) // count + overlap


def load_tokenizer(file: Path) -> Tokenizer:
    """The tokenizer in that file, cutting and padding nothing.

    Raises:
        ModelRefused: it is none.
    """
    # Its own threads would take the cores that the model has, and do not outlive a fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise ModelRefused(f"{file}: is not a tokenizer: {error}") from error
    # The file may cut and pad to a fixed length: we cut with an overlap, and pad each batch to its longest.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # A chat that says "[SEP]" or "<s>" means these letters.
    tokenizer.encode_special_tokens = True
    return tokenizer


def load_session(file: Path) -> Any:
    """A session for this file: one thread a run, nothing that spins while idle.

    Raises:
        ModelError: the runtime cannot load it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The graph is fused as it was measured to be fastest; further fusing by the runtime has nothing to gain.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # A pattern is kept for every shape of batch ever seen; without them a session stays 40 MB smaller and as fast.
    options.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common base
        raise ModelError(f"{file}: the runtime cannot load it: {error}") from error


def _frame(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and after a text."""
    encoding = tokenizer.encode("a")
    special = encoding.special_tokens_mask
    first = special.index(0) if 0 in special else len(special)
    last = len(special) - special[::-1].index(0) if 0 in special else len(special)
    return tuple(encoding.ids[:first]), tuple(encoding.ids[last:])
