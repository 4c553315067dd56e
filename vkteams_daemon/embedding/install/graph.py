"""Builds the ONNX graph of a BERT encoder. Its inputs are token ids and mask, its output a vector of length 1 per text.

    embeddings → layers × (attention → add and normalise → feed forward → add and normalise) → pooling → L2 norm

As in Devlin et al. 2018 (https://arxiv.org/abs/1810.04805), with every token of type 0. All tokens of a batch are one
matrix `(texts × tokens, width)` except inside attention, so that each dense layer is one large product.

Of onnxruntime's own operators (domain com.microsoft) MultiHeadAttention and Gelu are used, which measured as fast as
the standard operators or faster. SkipLayerNormalization is not used: it is six times slower than an addition and a
LayerNormalization.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.install.encoder import BLOCK, Blocks, Encoder, Floats, missing_extra
from vkteams_daemon.embedding.model_info import Pooling
from vkteams_daemon.errors import ModelRefused

VECTORS = "embedding"

FLOAT, UINT8, INT32, INT64 = 1, 2, 6, 7  # onnx.TensorProto's numbers

_OPSET = 18
_MICROSOFT = "com.microsoft"
_MAX_CONSTANTS = (2 << 30) - (16 << 20)  # bytes: an ONNX file has at most 2 GiB, of which the nodes need some
_IR_VERSION = 9  # onnxruntime reads it since 1.17


class Graph:
    """An ONNX graph under construction. Every constant and every result of a node has a name."""

    def __init__(self) -> None:
        try:
            import onnx
        except ImportError as error:
            raise missing_extra("onnx") from error
        self._onnx = onnx
        self._bytes = 0
        # Filled in place: onnx's own builders copy every constant twice, and a table may have 400 MB.
        self._model = onnx.ModelProto(ir_version=_IR_VERSION, producer_name="vkteams-daemon")

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a constant; returns its name.

        Raises:
            ModelRefused: all constants together are larger than an ONNX file can be.
        """
        array = np.asarray(value, dtype=dtype)
        self._bytes += array.nbytes
        if self._bytes > _MAX_CONSTANTS:
            raise ModelRefused(
                "the model is too large: an ONNX file has at most 2 GiB", hint="Choose one with fewer weights."
            )
        constants = self._model.graph.initializer
        tensor = constants.add()
        tensor.name = f"c{len(constants)}"
        tensor.data_type = self._onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.dims.extend(array.shape)
        tensor.raw_data = array.tobytes()
        return str(tensor.name)

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node with one result; returns the result's name. `com.microsoft.` names an operator of onnxruntime."""
        domain, _, name = operator.rpartition(".")
        nodes = self._model.graph.node
        output = output or f"n{len(nodes)}"
        nodes.append(self._onnx.helper.make_node(name, inputs, [output], domain=domain, **attributes))
        return output

    def block_table(self, values: Blocks, ids: str) -> str:
        """Add a look-up of ids in a table of four-bit blocks, which stay as they are; returns the name of the rows."""
        return self.add(
            f"{_MICROSOFT}.GatherBlockQuantized",
            self.constant(values.packed(), np.uint8),
            ids,
            self.constant(values.scales),
            block_size=BLOCK,
            bits=4,
            gather_axis=0,
            quantize_axis=1,
        )

    def model(self, dims: int) -> bytes:
        """The complete graph as an ONNX file, for vectors of `dims` numbers."""
        helper, graph = self._onnx.helper, self._model.graph
        graph.name = "encoder"
        graph.input.extend(
            helper.make_tensor_value_info(name, INT64, ["texts", "tokens"])
            for name in (model_info.IDS, model_info.MASK)
        )
        graph.output.append(helper.make_tensor_value_info(VECTORS, FLOAT, ["texts", dims]))
        self._model.opset_import.extend([helper.make_opsetid("", _OPSET), helper.make_opsetid(_MICROSOFT, 1)])
        return bytes(self._model.SerializeToString())


class Layers(Protocol):
    """The two kinds of nodes that depend on the precision."""

    def table(self, values: Floats | Blocks, ids: str) -> str:
        """Add a look-up of ids in a table; returns the name of the rows."""

    def dense(self, rows: str, layers: Sequence[tuple[Floats, Floats]]) -> list[str]:
        """Add `rows × weight + bias` for each weight `(inputs, outputs)` and bias; returns the names of the results."""


class Fp32Layers:
    """`Layers` in fp32, with the weights as they are published."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def table(self, values: Floats | Blocks, ids: str) -> str:
        """See `Layers`."""
        if isinstance(values, Blocks):
            return self._graph.block_table(values, ids)
        return self._graph.add("Gather", self._graph.constant(values), ids)

    def dense(self, rows: str, layers: Sequence[tuple[Floats, Floats]]) -> list[str]:
        """See `Layers`."""
        graph = self._graph
        return [graph.add("Gemm", rows, graph.constant(weight), graph.constant(bias)) for weight, bias in layers]


def build(encoder: Encoder, pooling: Pooling, graph: Graph, layers: Layers) -> bytes:
    """The ONNX file of this encoder.

    Args:
        encoder: its weights.
        pooling: how the tokens become one vector.
        graph: empty.
        layers: over that graph.
    """
    hidden = encoder.shape.hidden_size
    by_text = graph.add("Concat", graph.add("Shape", model_info.IDS), graph.constant([hidden], np.int64), axis=0)
    mask = graph.add("Cast", model_info.MASK, to=INT32)
    rows = _embeddings(encoder, graph, layers)
    for number in range(encoder.shape.num_hidden_layers):
        rows = _layer(encoder, f"encoder.layer.{number}", graph, layers, rows, mask, by_text)
    tokens = graph.add("Reshape", rows, by_text)
    one = graph.constant([1], np.int64)
    if pooling == "cls":
        pooled = graph.add("Gather", tokens, graph.constant(0, np.int64), axis=1)
    else:
        # The sum over the tokens has the direction of their mean, and the length becomes 1 in any case.
        weights = graph.add("Unsqueeze", graph.add("Cast", model_info.MASK, to=FLOAT), one)
        pooled = graph.add("Squeeze", graph.add("MatMul", weights, tokens), one)
    graph.add("LpNormalization", pooled, p=2, axis=-1, output=VECTORS)
    return graph.model(hidden)


def _embeddings(encoder: Encoder, graph: Graph, layers: Layers) -> str:
    words = layers.table(encoder.table("embeddings.word_embeddings.weight"), model_info.IDS)
    # Every token is of type 0, so the type's embedding is a constant, added to the positions here.
    types = encoder.tensor("embeddings.token_type_embeddings.weight")
    positions = graph.constant(encoder.tensor("embeddings.position_embeddings.weight") + types[0])
    length = graph.add(
        "Slice", graph.add("Shape", model_info.IDS), graph.constant([1], np.int64), graph.constant([2], np.int64)
    )
    zero = graph.constant([0], np.int64)
    positions = graph.add("Slice", positions, zero, length, zero)
    flat = graph.constant([-1, encoder.shape.hidden_size], np.int64)
    return _norm(encoder, "embeddings.LayerNorm", graph, graph.add("Reshape", graph.add("Add", words, positions), flat))


def _layer(encoder: Encoder, name: str, graph: Graph, layers: Layers, rows: str, mask: str, by_text: str) -> str:
    def dense(over: str, *parts: str) -> list[str]:
        names = [f"{name}.{part}" for part in parts]
        return layers.dense(over, [(encoder.weight(name), encoder.bias(name)) for name in names])

    attention = dense(rows, "attention.self.query", "attention.self.key", "attention.self.value")
    mixed = graph.add(
        f"{_MICROSOFT}.MultiHeadAttention",
        *(graph.add("Reshape", part, by_text) for part in attention),
        "",
        mask,
        num_heads=encoder.shape.num_attention_heads,
    )
    flat = graph.add("Reshape", mixed, graph.constant([-1, encoder.shape.hidden_size], np.int64))
    (attended,) = dense(flat, "attention.output.dense")
    rows = _norm(encoder, f"{name}.attention.output.LayerNorm", graph, graph.add("Add", attended, rows))
    (inner,) = dense(rows, "intermediate.dense")
    (outer,) = dense(graph.add(f"{_MICROSOFT}.Gelu", inner), "output.dense")
    return _norm(encoder, f"{name}.output.LayerNorm", graph, graph.add("Add", outer, rows))


def _norm(encoder: Encoder, name: str, graph: Graph, rows: str) -> str:
    weight, bias = graph.constant(encoder.tensor(f"{name}.weight")), graph.constant(encoder.bias(name))
    epsilon = encoder.shape.layer_norm_eps
    return graph.add("LayerNormalization", rows, weight, bias, axis=-1, epsilon=epsilon)
