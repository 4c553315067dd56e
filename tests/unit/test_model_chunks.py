"""Texts become chunks: all of the text, in windows that overlap, batched with little padding."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness.models import SPECIAL
from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.install.samples import sample_texts
from vkteams_daemon.embedding.model import OVERLAP, Chunk, Model, batches, load_session, load_tokenizer, windows
from vkteams_daemon.embedding.tokenizer import load_library

CLS, SEP = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Model:
    return Model.load(tiny_model_dir)


def prefixed(directory: Path, prefix: str) -> Model:
    info = model_info.read(directory)
    info = model_info.ModelInfo(
        **{name: getattr(info, name) for name in info.__slots__} | {"passage_prefix": prefix, "query_prefix": "ask: "}
    )
    return Model(info, load_tokenizer(directory / model_info.TOKENIZER), load_session(directory / model_info.ONNX))


@given(length=st.integers(0, 5000), room=st.integers(4, 510))
def test_windows_cover_everything_overlap_and_fit(length: int, room: int) -> None:
    parts = list(windows(length, room))
    overlap = min(OVERLAP, room // 4)
    assert parts[0][0] == 0 and parts[-1][1] == length
    assert all(end - start <= room for start, end in parts)
    assert all(end - start == overlap for (_, end), (start, _) in pairwise(parts))
    sizes = [end - start for start, end in parts]
    assert max(sizes) - min(sizes) <= 1
    if len(parts) > 1:
        one_less = len(parts) - 1
        assert one_less * (room - overlap) + overlap < length


def test_a_short_text_is_one_chunk_as_the_tokenizer_gives_it(model: Model, tiny_model_dir: Path) -> None:
    tokenizer = load_library(tiny_model_dir / model_info.TOKENIZER)
    for text in sample_texts():
        expected = tuple(tokenizer.encode(text).ids)
        if len(expected) <= model.max_tokens:
            assert model.chunks(text) == [Chunk(expected)]


def test_chunks_of_a_long_text_hold_all_of_it(model: Model, tiny_model_dir: Path) -> None:
    tokenizer = load_library(tiny_model_dir / model_info.TOKENIZER)
    text = " ".join(sample_texts())
    chunks = model.chunks(text)
    assert len(chunks) > 50
    assert all(len(chunk) <= model.max_tokens for chunk in chunks)
    assert all(chunk.ids[0] == CLS and chunk.ids[-1] == SEP for chunk in chunks)
    overlap = min(OVERLAP, (model.max_tokens - 2) // 4)
    joined = list(chunks[0].ids[1:-1])
    for chunk in chunks[1:]:
        assert list(chunk.ids[1 : 1 + overlap]) == joined[-overlap:]
        joined += chunk.ids[1 + overlap : -1]
    assert joined == tokenizer.encode(text, add_special_tokens=False).ids


def test_every_chunk_starts_with_the_prefix(tiny_model_dir: Path) -> None:
    plain, model = Model.load(tiny_model_dir), prefixed(tiny_model_dir, "find: ")
    prefix = plain.chunks("find: ")[0].ids[1:-1]
    text = " ".join(sample_texts()[:60])
    body = [token for chunk in model.chunks(text) for token in chunk.ids[1 + len(prefix) : -1]]
    assert len(model.chunks(text)) > 5
    for chunk in [*model.chunks(text), *model.chunks("ok")]:
        assert chunk.ids[1 : 1 + len(prefix)] == prefix
        assert len(chunk) <= model.max_tokens
    assert body[0] == plain.chunks(text)[0].ids[1]


@pytest.mark.parametrize("text", ["", " \t\n", "\x00\x01", "\u200b"])
def test_a_text_without_a_token_has_no_chunk(model: Model, tiny_model_dir: Path, text: str) -> None:
    assert model.chunks(text) == []
    assert prefixed(tiny_model_dir, "find: ").chunks(text) == []


def test_special_tokens_in_a_text_are_read_as_letters(model: Model) -> None:
    (chunk,) = model.chunks("a [SEP] b [MASK]")
    assert chunk.ids[0] == CLS and chunk.ids[-1] == SEP
    assert not {CLS, SEP, SPECIAL.index("[MASK]")} & set(chunk.ids[1:-1])


def test_half_a_surrogate_pair_is_embedded(model: Model) -> None:
    assert len(model.chunks("ок\ud83d, понял")) == 1


@given(
    lengths=st.lists(st.integers(1, 300), max_size=80),
    budget=st.integers(64, 1024),
)
def test_batches_hold_each_chunk_once_within_the_budget(lengths: list[int], budget: int) -> None:
    chunks = [Chunk(tuple(range(length))) for length in lengths]
    parts = list(batches(chunks, budget))
    assert sorted(index for part in parts for index in part) == list(range(len(chunks)))
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[index] for index in part) <= budget
    assert [lengths[index] for part in parts for index in part] == sorted(lengths)


@given(lengths=st.lists(st.integers(1, 40), max_size=200), budget=st.integers(64, 512))
def test_a_batch_ends_where_it_is_half_full_and_the_length_changes(lengths: list[int], budget: int) -> None:
    parts = [[lengths[index] for index in part] for part in batches([Chunk(tuple(range(n))) for n in lengths], budget)]
    for part in parts:
        shorter = [length for length in part if length < part[-1]]
        assert 2 * len(shorter) * max(shorter, default=0) < budget, "padded to the next length though half full"
    for part, following in pairwise(parts):
        half_full = 2 * len(part) * part[-1] >= budget
        full = (len(part) + 1) * following[0] > budget
        assert full or (half_full and following[0] > part[-1]), "a run that could have taken more"
