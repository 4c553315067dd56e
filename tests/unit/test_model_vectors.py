"""Vectors have length 1 and do not depend on the batch or on the number of threads."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.install.samples import sample_texts
from vkteams_daemon.embedding.model import Chunk, Model, batches
from vkteams_daemon.errors import ModelAbsent, ModelError, ModelRefused

SOME = sample_texts()[::3]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def model(request: pytest.FixtureRequest) -> Model:
    loaded = Model.load(request.getfixturevalue("tiny_model_dir" if request.param == "fp32" else "tiny_int8_dir"))
    assert loaded.precision == request.param
    return loaded


def test_vectors_are_float32_rows_of_length_one(model: Model) -> None:
    vectors = model.embed_texts(SOME)
    assert vectors.shape == (len(SOME), model.dims) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert model.embed([]).shape == (0, model.dims)


def test_a_vector_does_not_depend_on_its_batch_mates(model: Model) -> None:
    chunks = [chunk for text in SOME for chunk in model.chunks(text)]
    alone = np.vstack([model.embed([chunk]) for chunk in chunks])
    longest = max(chunks, key=len)
    # A row of huge activations beside it is what ruins a scale that is common to the batch.
    beside = np.vstack([model.embed([longest, chunk, longest])[1:2] for chunk in chunks])
    together = np.zeros_like(alone)
    for batch in batches(chunks, 512):
        together[batch] = model.embed([chunks[i] for i in batch])
    assert np.abs(alone - beside).max() < 1e-5
    assert np.abs(alone - together).max() < 1e-5


def test_int8_is_close_to_its_source(tiny_model_dir: Path, tiny_int8_dir: Path) -> None:
    exact, small = Model.load(tiny_model_dir), Model.load(tiny_int8_dir)
    assert exact.fingerprint == small.fingerprint
    cosines = (exact.embed_texts(SOME) * small.embed_texts(SOME)).sum(axis=1)
    assert cosines.min() > 0.99
    assert cosines.min() < 0.9999999  # it is another model


def test_texts_keep_their_order_and_a_text_without_tokens_is_zeros(model: Model) -> None:
    asked = ["сервер упал", "", "the login page fails", "\u200b", "сервер упал"]
    vectors = model.embed_texts(asked, token_budget=64)
    assert not vectors[1].any() and not vectors[3].any()
    for row in (0, 2, 4):
        assert np.abs(vectors[row] - model.embed(model.chunks(asked[row]))[0]).max() < 1e-5


def test_query_without_a_known_token_is_zeros(model: Model) -> None:
    vectors = model.embed_texts(["\u4f60", "\u4f60 \u597d", "\u4f60 сервер"], query=True)
    assert vectors.any(axis=1).tolist() == [False, False, True]
    assert model.embed_texts(["\u4f60"]).any()


def test_a_long_passage_is_the_mean_of_its_chunks_and_a_long_query_its_first(model: Model) -> None:
    text = " ".join(sample_texts()[:40])
    parts = model.embed(model.chunks(text))
    assert len(parts) > 3
    mean = parts.sum(axis=0) / np.linalg.norm(parts.sum(axis=0))
    assert np.abs(model.embed_texts([text])[0] - mean).max() < 1e-5
    assert np.abs(model.embed_texts([text], query=True)[0] - parts[0]).max() < 1e-5


def test_threads_sharing_a_model_get_the_same_vectors(model: Model) -> None:
    expected = model.embed_texts(SOME)
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(model.embed_texts(SOME))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert all(np.abs(vectors - expected).max() < 1e-6 for vectors in found)


def test_a_run_that_fails_is_an_error_of_ours_and_the_model_goes_on(model: Model) -> None:
    with pytest.raises(ModelError, match="the model failed"):
        model.embed([Chunk((2, 10**6, 3))])
    assert model.embed_texts(["ok"]).any()


def test_a_directory_without_a_model_is_absent_and_a_cut_file_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    with pytest.raises(ModelAbsent):
        Model.load(tmp_path)
    for file in tiny_model_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    Model.load(tmp_path)
    onnx = tmp_path / model_info.ONNX
    onnx.write_bytes(onnx.read_bytes()[:-100])
    with pytest.raises(ModelRefused, match=r"model\.onnx: has \d+ bytes and should have \d+"):
        Model.load(tmp_path)
