"""An encoder in four-bit blocks: its tensors, its tokenizer, and the graph that is made from it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.harness.blocks import pieces, write_block_file
from vkteams_daemon.embedding.install.blocks import BLOCKS, BlockEncoder, write_tokenizer
from vkteams_daemon.embedding.install.convert import convert
from vkteams_daemon.embedding.install.encoder import Encoder, Floats
from vkteams_daemon.embedding.install.samples import sample_texts
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.embedding.model_info import ModelInfo, Precision, Settings
from vkteams_daemon.embedding.tokenizer import load_library
from vkteams_daemon.errors import ModelRefused

SETTINGS = Settings(64, query_prefix="query: ", passage_prefix="passage: ")


@pytest.fixture
def published(tmp_path: Path) -> tuple[BlockEncoder, dict[str, Floats]]:
    """A small encoder in blocks, and the numbers in them."""
    _, tensors = write_block_file(tmp_path / BLOCKS)
    write_tokenizer(tmp_path)
    return BlockEncoder(tmp_path), tensors


def made(encoder: Encoder, directory: Path, precision: Precision) -> tuple[ModelInfo, Floats]:
    """The model of this encoder, and its vectors of some texts."""
    directory.mkdir(parents=True)
    info = convert(encoder, SETTINGS, directory, name="x", precision=precision)
    return info, Model.load(directory).embed_texts(sample_texts()[::7])


def test_tensors_are_the_numbers_in_the_blocks(published: tuple[BlockEncoder, dict[str, Floats]]) -> None:
    encoder, tensors = published
    for name, expected in tensors.items():
        assert np.array_equal(encoder.tensor(name), expected), name
    assert encoder.weight("encoder.layer.1.output.dense").shape == (64, 32)


def test_graph_computes_what_it_computes_of_the_same_numbers_in_full(
    published: tuple[BlockEncoder, dict[str, Floats]], tmp_path: Path
) -> None:
    encoder, tensors = published
    full = tmp_path / "full"
    full.mkdir()
    save_file(tensors, full / "model.safetensors")
    (full / "config.json").write_text(json.dumps(asdict(encoder.shape)))
    (full / "tokenizer.json").write_bytes((tmp_path / "tokenizer.json").read_bytes())
    info, vectors = made(encoder, tmp_path / "fp32", "fp32")
    of_full, expected = made(Encoder(full), tmp_path / "reference", "fp32")
    assert np.abs(vectors - expected).max() < 1e-5
    _, quantised = made(encoder, tmp_path / "int8", "int8")
    assert (quantised * expected).sum(axis=1).mean() > 0.99
    assert (info.weights, of_full.weights) == ("four bits", "full")
    assert info.fingerprint != of_full.fingerprint


def test_tokenizer_normalises_as_the_package_does(published: tuple[BlockEncoder, dict[str, Floats]]) -> None:
    tokenizer = load_library(published[0].directory / "tokenizer.json")

    def tokens(text: str) -> list[str]:
        return [str(token) for token in tokenizer.encode(text).tokens]

    assert tokens("почему сервер") == ["<s>", "\u2581почему", "\u2581сервер", "</s>"]
    same = ["почему\u200bсервер", " почему \t\n сервер ", "поч\x07ему\u00a0сервер\ufeff", "почему\u2581сервер"]
    assert all(tokens(text) == tokens("почему сервер") for text in same)
    assert tokens("\uff41\uff42") == tokens("ab")  # full-width letters
    assert tokenizer.encode("\U00020000").ids[-2] == 3


def test_tokenizer_has_the_same_bytes_everywhere(published: tuple[BlockEncoder, dict[str, Floats]]) -> None:
    # The fingerprint of every vector depends on them, and no library or version of Python may change them.
    content = json.loads((published[0].directory / "tokenizer.json").read_text())
    vocabulary = content["model"].pop("vocab")
    assert [piece for piece, _ in vocabulary] == pieces()
    content["post_processor"]["special_tokens"] = content["added_tokens"] = None
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert digest == "18f3fa8de19b2ca078777838b7c1cb12ae0f9001d5ce94f146e263c7572d345f"


@pytest.mark.parametrize("damage", ["other format", "cut in the header", "cut in a tensor", "empty"])
def test_damaged_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    write_block_file(tmp_path / BLOCKS)
    content = (tmp_path / BLOCKS).read_bytes()
    cut = {"other format": b"E5S2" + content[4:], "cut in the header": content[:300], "empty": b""}
    (tmp_path / BLOCKS).write_bytes(cut.get(damage, content[:-10]))
    with pytest.raises(ModelRefused, match="is not a file of four-bit blocks") as caught:
        write_tokenizer(tmp_path)
        for name in (part for layer in "01" for part in (f"encoder.layer.{layer}.output.LayerNorm.bias",)):
            BlockEncoder(tmp_path).tensor(name)
    assert "\n" not in str(caught.value)
