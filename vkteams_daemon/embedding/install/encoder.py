"""Reads a BERT encoder as it is published.

Its files are config.json, model.safetensors, tokenizer.json, and those of sentence-transformers with window, pooling
and prompts. The configuration is transformers' BertConfig. The tensors have the names of its BertModel, with `bert.`
before them if the file is of a model that contains a BertModel.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.model_info import Settings, Weights
from vkteams_daemon.errors import ModelError, ModelRefused

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
POOLING = "1_Pooling/config.json"
WINDOW = "sentence_bert_config.json"
PROMPTS = "config_sentence_transformers.json"
MODULES = "modules.json"
FILES = (CONFIG, WEIGHTS, model_info.TOKENIZER)
OPTIONAL_FILES = (POOLING, WINDOW, PROMPTS, MODULES)  # of sentence-transformers

BLOCK = 32  # numbers of a block
ZERO = 8  # the four bits that mean zero

Floats = npt.NDArray[np.float32]

_ARCHITECTURES = ("BertModel", "BertForPreTraining", "BertForMaskedLM")
_MODULES = ("Transformer", "Pooling", "Normalize")  # the steps that the graph computes, see graph.py
_DTYPES = ("F16", "F32", "F64")
_E5 = re.compile(r"(?i)(^|[-_.])e5([-_.]|$)")
_E5_PROMPTS = {"query": "query: ", "passage": "passage: "}
_DEFAULT_WINDOW = 512  # tokens; a longer window costs more time than it improves search


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes in config.json that the graph is built from."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix in blocks of four bits.

    Attributes:
        numbers: `(rows, columns)` uint8, each 0..15.
        scales: `(rows, columns / 32)` float32.
    """

    numbers: npt.NDArray[np.uint8]
    scales: Floats

    def values(self) -> Floats:
        """The matrix `(rows, columns)`."""
        rows, columns = self.numbers.shape
        centred = self.numbers.reshape(rows, columns // BLOCK, BLOCK).astype(np.float32) - ZERO
        return (centred * self.scales[:, :, None]).reshape(rows, columns)

    def packed(self) -> npt.NDArray[np.uint8]:
        """The numbers as onnxruntime packs them, `(rows, columns / 2)`: of two neighbours the first in the low bits."""
        low, high = self.numbers[:, ::2], self.numbers[:, 1::2]
        packed: npt.NDArray[np.uint8] = np.bitwise_or(low, np.left_shift(high, 4)).astype(np.uint8)
        return packed


class Encoder:
    """The encoder in one directory. A tensor is read from the file each time it is asked for.

    Attributes:
        directory: its directory, with tokenizer.json.
        weights_file: the file of its tensors.
        shape: its sizes.
        weights: the form of the weights that it is published in.

    Raises:
        ModelRefused: a file is missing, or it is no BertModel, or its tensors do not fit its configuration.
        ModelError: safetensors is not installed.
    """

    weights: Weights = "full"

    def __init__(self, directory: Path) -> None:
        for name in FILES:
            if not (directory / name).is_file():
                raise ModelRefused(f"{directory}: holds no {name}")
        self.directory = directory
        self.weights_file = directory / WEIGHTS
        self.shape = _shape(directory / CONFIG)
        self._file = _safetensors(directory / WEIGHTS)
        self._names = {_canonical(name): name for name in self._file.keys()}  # noqa: SIM118 - it is no dictionary
        for name, expected in tensor_shapes(self.shape):
            if name not in self._names:
                raise ModelRefused(f"{directory / WEIGHTS}: lacks the tensor {name}")
            tensor = self._file.get_slice(self._names[name])
            if tuple(tensor.get_shape()) != expected:
                raise ModelRefused(f"{directory / WEIGHTS}: {name} is {tensor.get_shape()} and not {list(expected)}")
            if tensor.get_dtype() not in _DTYPES:
                raise ModelRefused(
                    f"{directory / WEIGHTS}: {name} is {tensor.get_dtype()}; only {', '.join(_DTYPES)} are known"
                )

    def tensor(self, name: str) -> Floats:
        """One tensor as float32, by its name in BertModel.

        Raises:
            ModelRefused: a number of it is not finite as float32.
        """
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(self._file.get_tensor(self._names[name]), dtype=np.float32)
        if not np.isfinite(values).all():
            raise ModelRefused(
                f"{self.directory / WEIGHTS}: {name} holds a number that is not finite",
                hint="The file is damaged: fetch it again.",
            )
        return values

    def table(self, name: str) -> Floats | Blocks:
        """One tensor whose rows are looked up, in the form that it is published in."""
        return self.tensor(name)

    def weight(self, name: str) -> Floats:
        """The matrix of a dense layer, `(inputs, outputs)`: the transpose of the file's."""
        return np.ascontiguousarray(self.tensor(f"{name}.weight").T)

    def bias(self, name: str) -> Floats:
        """The bias of a layer, `(outputs,)`."""
        return self.tensor(f"{name}.bias")

    def fingerprint(self, settings: Settings) -> str:
        """See `model_info.fingerprint`."""
        weights, tokenizer = (
            model_info.sha256(file) for file in (self.weights_file, self.directory / model_info.TOKENIZER)
        )
        return model_info.fingerprint(weights, tokenizer, asdict(self.shape), settings)


def read_settings(directory: Path, shape: Shape, name: str) -> tuple[Settings, str]:
    """Read window, pooling and prefixes from the files of sentence-transformers beside the encoder.

    Without such files: the mean, and a window of 512 tokens or as many as the encoder has positions for. Prefixes that
    no file gives are guessed from the name: models of the family E5 want theirs, others none.

    Returns:
        The settings, and what of them was guessed, as a sentence; empty if nothing was.

    Raises:
        ModelRefused: a file cannot be read, or demands a pooling other than mean or cls, or a step that is not known.
    """
    for module in _modules(directory / MODULES):
        if module not in _MODULES:
            raise ModelRefused(f"{directory}: has a step {module}; only {', '.join(_MODULES)} are known")
    pooling = _json(directory / POOLING, {"pooling_mode_mean_tokens": True})
    modes = sorted(mode for mode, on in pooling.items() if mode.startswith("pooling_mode_") and on is True)
    supported = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in supported:
        raise ModelRefused(
            f"{directory}: pools by {', '.join(modes) or 'nothing'}; mean_tokens and cls_token are known"
        )
    if not pooling.get("include_prompt", True):
        raise ModelRefused(f"{directory}: pools without the prompt (include_prompt), which is not known")
    transformer = _json(directory / WINDOW, {})
    if transformer.get("do_lower_case"):
        raise ModelRefused(f"{directory}: wants its texts in lower case (do_lower_case), which is not known")
    window = transformer.get("max_seq_length") or _DEFAULT_WINDOW
    prompts = _json(directory / PROMPTS, {}).get("prompts")
    guess = ""
    if prompts is None:
        prompts = _E5_PROMPTS if _E5.search(name) else {}
        kind = "those of the family E5, for its name" if prompts else "none"
        guess = f"No file of {name} gives its prefixes. They are guessed: {kind}."
    try:
        settings = msgspec.convert(
            {
                "max_tokens": min(window, shape.max_position_embeddings),
                "pooling": supported[modes[0]],
                "query_prefix": prompts.get("query", ""),
                "passage_prefix": prompts.get("passage", prompts.get("document", "")),
            },
            Settings,
        )
        return settings, guess
    except (TypeError, AttributeError, msgspec.ValidationError) as error:
        raise ModelRefused(f"{directory}: its sentence-transformers files cannot be understood: {error}") from error


def _shape(file: Path) -> Shape:
    config = _json(file, None)
    architectures = config.get("architectures") or ["BertModel"]
    if not isinstance(architectures, list):
        architectures = [architectures]
    if config.get("model_type", "bert") != "bert" or not any(name in _ARCHITECTURES for name in architectures):
        kind = ", ".join(map(str, architectures))
        raise ModelRefused(f"{file}: is of a {kind} ({config.get('model_type')}); only BertModel can be converted")
    if config.get("hidden_act", "gelu") != "gelu":
        raise ModelRefused(f"{file}: its activation {config['hidden_act']!r} is not known; only gelu is")
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise ModelRefused(f"{file}: its positions are {config['position_embedding_type']!r}; only absolute is known")
    if config.get("is_decoder"):
        raise ModelRefused(f"{file}: is of a decoder (is_decoder); only an encoder can be converted")
    try:
        shape = msgspec.convert(config, Shape)
    except msgspec.ValidationError as error:
        raise ModelRefused(f"{file}: not a BERT configuration: {error}") from error
    numbers = asdict(shape)
    numbers.pop("layer_norm_eps")
    if min(numbers.values()) < 1 or shape.hidden_size % shape.num_attention_heads:
        raise ModelRefused(f"{file}: its sizes do not fit together")
    return shape


def _modules(file: Path) -> list[str]:
    """The names of the steps from a text to its vector; an empty list if there is no such file."""
    if not file.is_file():
        return []
    try:
        return [str(module["type"]).rpartition(".")[2] for module in _read(file)]
    except (TypeError, LookupError) as error:
        raise ModelRefused(f"{file}: is not a list of steps") from error


def _json(file: Path, default: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The JSON object in the file; the default if the file is missing and a default is given."""
    if default is not None and not file.is_file():
        return default
    value = _read(file)
    if not isinstance(value, dict):
        raise ModelRefused(f"{file}: is not an object")
    return value


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelRefused(f"{file}: cannot be read: {error}") from error


def _safetensors(file: Path) -> Any:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise missing_extra("safetensors") from error
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ModelRefused(f"{file}: is not a safetensors file: {error}") from error


def missing_extra(package: str) -> ModelError:
    """The error for a package of the extra `models` that is not installed."""
    return ModelError(
        f"the package {package}, which installing a model needs, is not installed",
        hint="Install it: `pip install 'vkteams-daemon[models]'`.",
    )


def _canonical(name: str) -> str:
    """BertModel's present name of a tensor. Files from before 2019 call the weights of a LayerNorm gamma and beta."""
    name = name.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def tensor_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that the graph needs, with its shape in the file."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    yield "embeddings.word_embeddings.weight", (shape.vocab_size, hidden)
    yield "embeddings.position_embeddings.weight", (shape.max_position_embeddings, hidden)
    yield "embeddings.token_type_embeddings.weight", (shape.type_vocab_size, hidden)
    dense = {
        "attention.self.query": (hidden, hidden),
        "attention.self.key": (hidden, hidden),
        "attention.self.value": (hidden, hidden),
        "attention.output.dense": (hidden, hidden),
        "intermediate.dense": (inner, hidden),
        "output.dense": (hidden, inner),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(shape.num_hidden_layers):
        layer = f"encoder.layer.{number}."
        for name, (outputs, inputs) in dense.items():
            yield f"{layer}{name}.weight", (outputs, inputs)
            yield f"{layer}{name}.bias", (outputs,)
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    for name in norms:
        yield f"{name}.weight", (hidden,)
        yield f"{name}.bias", (hidden,)
