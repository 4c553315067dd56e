"""The graphs compute what BERT computes: against a plain numpy reading of the paper."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from tests.harness.models import write_encoder
from vkteams_daemon.embedding.install.convert import convert
from vkteams_daemon.embedding.install.encoder import Encoder
from vkteams_daemon.embedding.install.graph import FLOAT, Graph
from vkteams_daemon.embedding.install.quantise import Int8Layers, quantise
from vkteams_daemon.embedding.install.samples import sample_texts
from vkteams_daemon.embedding.model import Chunk, Model
from vkteams_daemon.embedding.model_info import Pooling, Settings

Array = np.ndarray
erf = np.vectorize(math.erf, otypes=[np.float64])


class Reference:
    """BERT in float64, one text at a time, no padding."""

    def __init__(self, directory: Path, heads: int, layers: int, pooling: Pooling) -> None:
        tensors = load_file(directory / "model.safetensors")
        self.tensors = {name.removeprefix("bert."): tensor.astype(np.float64) for name, tensor in tensors.items()}
        self.heads, self.layers, self.pooling = heads, layers, pooling

    def vector(self, ids: tuple[int, ...]) -> Array:
        t = self.tensors
        x = t["embeddings.word_embeddings.weight"][list(ids)]
        x = x + t["embeddings.position_embeddings.weight"][: len(ids)] + t["embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        for number in range(self.layers):
            x = self.layer(x, f"encoder.layer.{number}.")
        pooled = x[0] if self.pooling == "cls" else x.mean(axis=0)
        return pooled / np.sqrt((pooled**2).sum())

    def layer(self, x: Array, name: str) -> Array:
        mixed = []
        q, k, v = (self.dense(x, f"{name}attention.self.{part}") for part in ("query", "key", "value"))
        width = x.shape[1] // self.heads
        for head in range(self.heads):
            part = slice(head * width, (head + 1) * width)
            scores = q[:, part] @ k[:, part].T / math.sqrt(width)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part])
        attended = self.dense(np.hstack(mixed), f"{name}attention.output.dense")
        x = self.norm(x + attended, f"{name}attention.output.LayerNorm")
        inner = self.dense(x, f"{name}intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        return self.norm(x + self.dense(inner, f"{name}output.dense"), f"{name}output.LayerNorm")

    def dense(self, x: Array, name: str) -> Array:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12)
        return scaled * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


@pytest.mark.parametrize(
    ("pooling", "shape"),
    [
        ("mean", {"hidden": 32, "heads": 4, "inner": 64, "layers": 2}),
        # rubert-tiny2: heads of 26, and the tensors of a model around the encoder
        ("cls", {"hidden": 78, "heads": 3, "inner": 100, "layers": 3, "tensor_prefix": "bert."}),
    ],
)
def test_fp32_graph_computes_bert(tmp_path: Path, pooling: Pooling, shape: dict[str, object]) -> None:
    directory = write_encoder(tmp_path / "encoder", spread=0.2, **shape)  # type: ignore[arg-type]
    (tmp_path / "model").mkdir()
    convert(Encoder(directory), Settings(64, pooling), tmp_path / "model", name="x", precision="fp32")
    model = Model.load(tmp_path / "model")
    reference = Reference(directory, shape["heads"], shape["layers"], pooling)  # type: ignore[arg-type]
    chunks = [chunk for text in sample_texts()[::9] for chunk in model.chunks(text)]
    expected = np.vstack([reference.vector(chunk.ids) for chunk in chunks])
    assert np.abs(model.embed(chunks) - expected).max() < 1e-5


def test_half_precision_weights_and_old_names_are_read(tmp_path: Path) -> None:
    directory = write_encoder(tmp_path / "encoder")
    file = directory / "model.safetensors"
    halves = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in ((n, t.astype(np.float16)) for n, t in load_file(file).items())
    }
    save_file(halves, file)
    encoder = Encoder(directory)
    assert encoder.bias("encoder.layer.0.output.dense").dtype == np.float32
    assert np.array_equal(
        encoder.tensor("embeddings.LayerNorm.weight"), halves["embeddings.LayerNorm.gamma"].astype(np.float32)
    )
    (tmp_path / "model").mkdir()
    convert(encoder, Settings(64), tmp_path / "model", name="x", precision="int8")
    chunk = Chunk((2, 40, 50, 3))
    assert np.isclose(np.linalg.norm(Model.load(tmp_path / "model").embed([chunk])), 1, atol=1e-5)


def run(build: object, rows: Array) -> Array:
    """One Int8Layers result over these rows, through the runtime."""
    import onnx
    import onnxruntime

    graph = Graph()
    result = build(Int8Layers(graph))  # type: ignore[operator]
    graph.add("Identity", result, output="embedding")
    model = onnx.ModelProto.FromString(graph.model(1))
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(onnx.helper.make_tensor_value_info("rows", FLOAT, ["n", rows.shape[1]]))
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info("embedding"))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"rows": rows})[0])


@settings(max_examples=40, deadline=None)
@given(
    rows=hnp.arrays(np.float32, (5, 48), elements=st.floats(-1e4, 1e4, width=32)),
    weight=hnp.arrays(np.float32, (48, 16), elements=st.floats(-10, 10, width=32)),
)
def test_the_int8_product_is_exact_integer_arithmetic(rows: Array, weight: Array) -> None:
    bias = np.linspace(-1, 1, 16, dtype=np.float32)
    found = run(lambda layers: layers.dense("rows", [(weight, bias)])[0], rows)
    packed, columns = quantise(weight, 64, axis=0)
    scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-12)) * np.float32(1 / 127)
    whole = np.clip(np.rint(rows / scale), -128, 127)
    expected = (whole @ packed.astype(np.float64)) * columns * scale + bias
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(expected).max())))


def test_seven_bit_weights_cannot_saturate_a_16_bit_sum() -> None:
    # All rows at their largest and all weights at theirs: where pairs are added in 16 bits, eight bits would overflow.
    rows = np.full((4, 64), 3.0, np.float32)
    weight = np.full((64, 16), 0.5, np.float32)
    found = run(lambda layers: layers.dense("rows", [(weight, np.zeros(16, np.float32))])[0], rows)
    assert np.allclose(found, rows @ weight, rtol=1e-3)
    assert np.abs(quantise(weight, 64, axis=0)[0].astype(int)).max() * 255 * 2 < 2**15


def test_a_row_is_quantised_by_itself() -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((32, 32)).astype(np.float32)
    small = random.standard_normal((1, 32)).astype(np.float32)
    huge = np.vstack([small, 1e4 * random.standard_normal((7, 32)).astype(np.float32)])

    def product(rows: Array) -> Array:
        return run(lambda layers: layers.dense("rows", [(weight, np.zeros(32, np.float32))])[0], rows)

    assert np.array_equal(product(small)[0], product(huge)[0])
    assert np.abs(product(small) - small @ weight).max() < 0.2


def test_rows_of_zeros_give_zeros() -> None:
    weight = np.ones((16, 16), np.float32)
    found = run(lambda layers: layers.dense("rows", [(weight, np.zeros(16, np.float32))])[0], np.zeros((2, 16), "f4"))
    assert not found.any()
