"""From an encoder's safetensors to a model's directory, with no more than the package onnx."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from vkteams_daemon.embedding import manifest
from vkteams_daemon.embedding.install import acceptance, graph
from vkteams_daemon.embedding.install.encoder import Encoder
from vkteams_daemon.embedding.install.graph import Fp32Layers, Graph, Layers
from vkteams_daemon.embedding.install.quantise import Int8Layers
from vkteams_daemon.embedding.install.samples import texts
from vkteams_daemon.embedding.manifest import ModelInfo, Precision, Settings
from vkteams_daemon.embedding.model import Model, load_session, load_tokenizer
from vkteams_daemon.errors import CannotCreate, ModelError, ModelRefused

_RARE = "\U00020000"  # in no vocabulary: a tokenizer without a token for the unknown fails at it, and not before

Choice = Literal["auto", "int8", "fp32"]
Report = Callable[[str], None]

_LAYERS: dict[Precision, Callable[[Graph], Layers]] = {"fp32": Fp32Layers, "int8": Int8Layers}


def convert(
    encoder: Encoder,
    settings: Settings,
    directory: Path,
    *,
    name: str,
    precision: Choice = "auto",
    source: str = "",
    revision: str = "",
    report: Report = lambda line: None,
) -> ModelInfo:
    """Make the model's directory from the encoder.

    Args:
        encoder: its weights.
        settings: window, pooling, prefixes.
        directory: empty; afterwards it holds the model, and nothing else.
        name: what the model is called.
        precision: `int8`, `fp32`, or `auto`: int8 where it is close to its source and at least 1.2 times faster on
            this machine, otherwise fp32.
        source: where the encoder came from, for model.toml.
        revision: its commit there, for model.toml.
        report: gets a line before each long step.

    Raises:
        ModelRefused: the tokenizer does not fit the encoder, or int8 was asked for and is too far from fp32.
        ModelError: a package is missing, or the runtime cannot run the result.
        CannotCreate: the directory does not take it.
    """
    tokenizer = _checked_tokenizer(encoder, settings)
    info = ModelInfo(
        name=name,
        dims=encoder.shape.hidden_size,
        precision="fp32",
        fingerprint=encoder.fingerprint(settings),
        files={},
        source=source,
        revision=revision,
        **dataclasses.asdict(settings),
    )
    full = directory / "fp32"
    report("building the fp32 graph")
    exact = _make(encoder, dataclasses.replace(info, directory=full))
    chosen = exact
    if precision != "fp32":
        report("building the int8 graph")
        small = _make(encoder, dataclasses.replace(info, precision="int8", directory=directory / "int8"))
        report("comparing int8 with fp32")
        chosen = _accepted(exact, small, tokenizer, precision)
    try:
        for file in chosen.directory.iterdir():
            file.rename(directory / file.name)
        for part in ("fp32", "int8"):
            shutil.rmtree(directory / part, ignore_errors=True)
    except OSError as error:
        raise CannotCreate(f"{directory}: cannot be written: {error.strerror}") from error
    chosen = dataclasses.replace(chosen, directory=directory)
    manifest.write(chosen)
    return chosen


def _make(encoder: Encoder, info: ModelInfo) -> ModelInfo:
    """Write the model of this precision into its directory."""
    working = Graph()
    content = graph.build(encoder, info.pooling, working, _LAYERS[info.precision](working))
    try:
        info.directory.mkdir(parents=True)
        (info.directory / manifest.ONNX).write_bytes(content)
        shutil.copyfile(encoder.directory / manifest.TOKENIZER, info.directory / manifest.TOKENIZER)
    except OSError as error:
        raise CannotCreate(f"{info.directory}: cannot be written: {error.strerror}") from error
    return dataclasses.replace(info, files=manifest.record(info.directory))


def _accepted(exact: ModelInfo, small: ModelInfo, tokenizer: Tokenizer, precision: Choice) -> ModelInfo:
    try:
        # One tokenizer for both: that of a multilingual model takes more memory than the weights.
        full, quantised = (
            Model(info, tokenizer, load_session(info.directory / manifest.ONNX)) for info in (exact, small)
        )
        found = acceptance.compare(full, quantised, texts())
    except ModelError:
        # Too far from its source, or a runtime that cannot run it; whether fp32 runs is tried when it is installed.
        if precision == "int8":
            raise
        return exact
    if precision == "auto" and found.speedup < acceptance.SPEEDUP_LEAST:
        return dataclasses.replace(exact, speedup=round(found.speedup, 3))
    return dataclasses.replace(
        small,
        cosine_mean=round(found.cosine_mean, 5),
        cosine_worst=round(found.cosine_worst, 5),
        speedup=round(found.speedup, 3),
    )


def _checked_tokenizer(encoder: Encoder, settings: Settings) -> Tokenizer:
    """The encoder's tokenizer, where it and the settings fit the encoder."""
    file = encoder.directory / manifest.TOKENIZER
    tokenizer = load_tokenizer(file)
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= highest < encoder.shape.vocab_size:
        raise ModelRefused(f"{file}: has token ids up to {highest}, and the encoder has {encoder.shape.vocab_size}")
    most = encoder.shape.max_position_embeddings
    if not 16 <= settings.max_tokens <= most:
        raise ModelRefused(f"{encoder.directory}: a window of {settings.max_tokens} tokens is not within 16 and {most}")
    for text in (_RARE, settings.query_prefix, settings.passage_prefix):
        try:
            tokens = len(tokenizer.encode(text, add_special_tokens=False))
        except Exception as error:  # the library raises Exception itself
            raise ModelRefused(f"{file}: cannot make tokens of {text!r}: {error}") from error
        if tokens > settings.max_tokens // 2:
            raise ModelRefused(f"{encoder.directory}: the prefix {text!r} fills half of the window")
    return tokenizer
