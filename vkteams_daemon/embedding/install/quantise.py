"""The int8 form of the encoder's tables and dense layers.

A dense layer over rows x with weight W:

    a_r = max|x_r| / 127            one scale per row (token), from that row alone
    q   = round(x_r / a_r) + 128    uint8
    w_c = max|W_c| / 64             one scale per column
    P   = round(W / w_c)            int8, seven bits
    x W + b ≈ a_r (q - 128) P w_c + b

A row's scale comes from the row alone, so a vector never depends on its batch-mates. With onnxruntime's own dynamic
quantisation it does: that has one scale for the whole batch. The weights have seven bits, because processors without
VNNI add pairs of 8-bit products in a 16-bit sum that saturates: 2 × 255 × 64 < 2¹⁵.

MatMulIntegerToFloat computes (q - 128) P w_c in one pass. With uint8 rows and int8 weights it was the fastest of
onnxruntime's products (3.7 times as fast as fp32 on AVX-512 VNNI; MatMulNBits 1.3 to 1.8 times; int8 rows 0.3 times).
For weights that are published in blocks of four bits it is as well: the whole model runs 2.3 times as fast as fp32, by
MatMulNBits over the blocks as they are 0.98 times, and 0.73 times with its own int8 rows (accuracy level 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vkteams_daemon.embedding.install.encoder import Blocks, Floats
from vkteams_daemon.embedding.install.graph import FLOAT, Graph

_ZERO_POINT = 128
_WEIGHT_LEVELS = 64
_TABLE_LEVELS = 127
_TINY = 1e-12  # takes the place of the largest number of a row of zeros

Int8s = npt.NDArray[np.int8]


def quantise(values: Floats, levels: int, axis: int) -> tuple[Int8s, Floats]:
    """Whole numbers in ±levels, and a scale for each slice along `axis`, so that `values ≈ numbers × scale`."""
    scale = np.maximum(np.abs(values).max(axis=axis, keepdims=True), _TINY) / levels
    return np.rint(values / scale).astype(np.int8), scale.astype(np.float32)


class Int8Layers:
    """`graph.Layers` in int8."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._last = graph.constant([-1], np.int64)
        self._column = graph.constant([1], np.int64)
        self._zero_point = graph.constant(_ZERO_POINT, np.uint8)
        self._one = graph.constant(1.0)
        self._step = graph.constant(1 / 127)
        self._tiny = graph.constant(_TINY)

    def table(self, values: Floats | Blocks, ids: str) -> str:
        """See `graph.Layers`; every row has a scale, unless the table is published in blocks with theirs."""
        graph = self._graph
        if isinstance(values, Blocks):
            return graph.block_table(values, ids)
        numbers, scale = quantise(values, _TABLE_LEVELS, axis=1)
        rows = graph.add("Cast", graph.add("Gather", graph.constant(numbers, np.int8), ids), to=FLOAT)
        return graph.add("Mul", rows, graph.add("Gather", graph.constant(scale), ids))

    def dense(self, rows: str, layers: Sequence[tuple[Floats, Floats]]) -> list[str]:
        """See `graph.Layers`; the rows are quantised once for all of the layers."""
        graph = self._graph
        numbers, scale = self._quantise(rows)
        results = []
        for weight, bias in layers:
            packed, columns = quantise(weight, _WEIGHT_LEVELS, axis=0)
            product = graph.add(
                "com.microsoft.MatMulIntegerToFloat",
                numbers,
                graph.constant(packed, np.int8),
                self._one,
                graph.constant(columns[0]),
                self._zero_point,
            )
            results.append(graph.add("Add", graph.add("Mul", product, scale), graph.constant(bias)))
        return results

    def _quantise(self, rows: str) -> tuple[str, str]:
        """The rows as uint8, and their scales `(rows, 1)`."""
        graph = self._graph
        highest = graph.add("ReduceMax", rows, self._last, keepdims=0)
        lowest = graph.add("Neg", graph.add("ReduceMin", rows, self._last, keepdims=0))
        scale = graph.add("Mul", graph.add("Max", highest, lowest, self._tiny), self._step)
        zero_points = graph.add("Expand", self._zero_point, graph.add("Shape", scale))
        numbers = graph.add("QuantizeLinear", rows, scale, zero_points, axis=0)
        return numbers, graph.add("Unsqueeze", scale, self._column)
