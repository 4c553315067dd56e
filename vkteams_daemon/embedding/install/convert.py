"""Converts an encoder's safetensors into a model's directory, with no package but onnx."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding import tokenizer as tokenizers
from vkteams_daemon.embedding.install import Report, acceptance, graph
from vkteams_daemon.embedding.install.encoder import Encoder
from vkteams_daemon.embedding.install.graph import Fp32Layers, Graph, Layers
from vkteams_daemon.embedding.install.quantise import Int8Layers
from vkteams_daemon.embedding.install.samples import sample_texts
from vkteams_daemon.embedding.model import Model, load_session
from vkteams_daemon.embedding.model_info import ModelInfo, Precision, Settings
from vkteams_daemon.errors import CannotCreate, ModelError, ModelRefused

_UNKNOWN = "\U00020000"  # in no vocabulary: a tokenizer without a token for unknown letters fails at it and at no other

PrecisionChoice = Literal["auto", "int8", "fp32"]
_LAYERS: dict[Precision, Callable[[Graph], Layers]] = {"fp32": Fp32Layers, "int8": Int8Layers}


def convert(
    encoder: Encoder,
    settings: Settings,
    directory: Path,
    *,
    name: str,
    precision: PrecisionChoice = "auto",
    source: str = "",
    revision: str = "",
    guess: str = "",
    report: Report = lambda line: None,
) -> ModelInfo:
    """Convert the encoder into a model.

    Args:
        encoder: the weights.
        settings: window, pooling, prefixes.
        directory: an empty directory, which afterwards holds the model and nothing else.
        name: the model's name.
        precision: `int8`, `fp32`, or `auto`: int8 if it is close to its source and at least 1.2 times faster on
            this machine, otherwise fp32.
        source: the encoder's origin, for model.toml.
        revision: its commit there, for model.toml.
        guess: what of the settings was guessed, for model.toml.
        report: gets a line before each long step.

    Raises:
        ModelRefused: the tokenizer does not fit the encoder, or `int8` is demanded and too inaccurate.
        ModelError: a package is missing, or the runtime cannot run the result.
        CannotCreate: the directory cannot be written.
    """
    _check_tokenizer(encoder, settings)
    info = ModelInfo(
        name=name,
        dims=encoder.shape.hidden_size,
        precision="fp32",
        fingerprint=encoder.fingerprint(settings),
        files={},
        source=source,
        revision=revision,
        weights=encoder.weights,
        guess=guess,
        **dataclasses.asdict(settings),
    )
    report("building the fp32 graph")
    fp32 = _write_model(encoder, dataclasses.replace(info, directory=directory / "fp32"))
    model = fp32
    if precision != "fp32":
        report("building the int8 graph")
        int8 = _write_model(encoder, dataclasses.replace(info, precision="int8", directory=directory / "int8"))
        report("comparing int8 with fp32")
        model = _choose_precision(fp32, int8, precision)
    try:
        for file in model.directory.iterdir():
            file.rename(directory / file.name)
        for part in ("fp32", "int8"):
            shutil.rmtree(directory / part, ignore_errors=True)
    except OSError as error:
        raise CannotCreate(f"{directory}: cannot be written: {error.strerror}") from error
    model = dataclasses.replace(model, directory=directory)
    model_info.write(model)
    return model


def _write_model(encoder: Encoder, info: ModelInfo) -> ModelInfo:
    """Write graph and tokenizer of this precision into `info.directory`; returns the info with their hashes."""
    empty = Graph()
    content = graph.build(encoder, info.pooling, empty, _LAYERS[info.precision](empty))
    try:
        info.directory.mkdir(parents=True)
        (info.directory / model_info.ONNX).write_bytes(content)
        shutil.copyfile(encoder.directory / model_info.TOKENIZER, info.directory / model_info.TOKENIZER)
    except OSError as error:
        raise CannotCreate(f"{info.directory}: cannot be written: {error.strerror}") from error
    return dataclasses.replace(info, files=model_info.record_files(info.directory))


def _choose_precision(fp32: ModelInfo, int8: ModelInfo, precision: PrecisionChoice) -> ModelInfo:
    """Compare the two models; returns the one to keep, with the measured figures."""
    try:
        fast = tokenizers.load(fp32.directory / model_info.TOKENIZER)
        source, quantised = (Model(info, fast, load_session(info.directory / model_info.ONNX)) for info in (fp32, int8))
        comparison = acceptance.compare(source, quantised, sample_texts())
    except ModelError:
        # int8 is too inaccurate, or the runtime cannot run it. The installer tries whether fp32 runs.
        if precision == "int8":
            raise
        return fp32
    if precision == "auto" and comparison.speedup < acceptance.MIN_SPEEDUP:
        return dataclasses.replace(fp32, speedup=round(comparison.speedup, 3))
    return dataclasses.replace(
        int8,
        cosine_mean=round(comparison.cosine_mean, 5),
        cosine_worst=round(comparison.cosine_worst, 5),
        speedup=round(comparison.speedup, 3),
    )


def _check_tokenizer(encoder: Encoder, settings: Settings) -> None:
    """Check that the encoder's tokenizer fits it.

    Raises:
        ModelRefused: it, the window or a prefix does not fit the encoder.
    """
    file = encoder.directory / model_info.TOKENIZER
    tokenizer = tokenizers.load_library(file)
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= highest < encoder.shape.vocab_size:
        raise ModelRefused(f"{file}: has token ids up to {highest}, and the encoder has {encoder.shape.vocab_size}")
    positions = encoder.shape.max_position_embeddings
    if not 16 <= settings.max_tokens <= positions:
        raise ModelRefused(
            f"{encoder.directory}: a window of {settings.max_tokens} tokens is not within 16 and {positions}"
        )
    for text in (_UNKNOWN, settings.query_prefix, settings.passage_prefix):
        try:
            tokens = len(tokenizer.encode(text, add_special_tokens=False))
        except Exception as error:  # the library raises Exception itself
            raise ModelRefused(f"{file}: cannot make tokens of {text!r}: {error}") from error
        if tokens > settings.max_tokens // 2:
            raise ModelRefused(f"{encoder.directory}: the prefix {text!r} fills half of the window")
