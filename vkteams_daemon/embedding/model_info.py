"""A model's directory: model.onnx, tokenizer.json, and model.toml, which describes them and holds their hashes.

Sizes are compared at every load. This costs nothing, and finds a copy that was cut off and files of two models in one
directory. Hashes are compared at installation and by `vkteamsctl model status`. At every start they would cost up to a
second and protect from nobody: a user who can change a file can change its hash in model.toml as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from vkteams_daemon import plain_file
from vkteams_daemon.embedding.language_axis import LanguageAxis
from vkteams_daemon.errors import CannotCreate, ModelAbsent, ModelRefused

ONNX = "model.onnx"
TOKENIZER = "tokenizer.json"
MODEL_TOML = "model.toml"
IDS, MASK = "input_ids", "attention_mask"  # the inputs of the graph in model.onnx

Pooling = Literal["mean", "cls"]
Precision = Literal["int8", "fp32"]
Weights = Literal["full", "four bits"]

_REPAIR = "Install it again: `vkteamsctl model install`."


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was installed: its SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Settings:
    """How an encoder is used to embed texts.

    Attributes:
        max_tokens: the window, special tokens and prefix included.
        pooling: `mean` of the tokens' vectors, or `cls`, the first token's.
        query_prefix: put before a query.
        passage_prefix: put before a text to be found.
    """

    max_tokens: int
    pooling: Pooling = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The content of model.toml, and its directory.

    Attributes:
        fingerprint: SHA-256 of the source's weights, shape, tokenizer and settings, without the precision: models of
            one fingerprint share their vectors.
        files: each file of the directory except model.toml, by name.
        source: where it was installed from.
        revision: the commit of the source, if it has one.
        weights: the form that the source has them in; a model's weights in four bits are not its full ones.
        guess: what of its settings was guessed, as a sentence; empty if nothing was.
        cosine_mean: mean cosine of the int8 and fp32 vectors of the sample texts; None for fp32.
        cosine_worst: the lowest of these cosines; None for fp32.
        speedup: how many times int8 was faster than fp32 on the machine that installed it; None if not measured.
        language_axis: of a model that reads Russian and English; None for another.
    """

    name: str
    dims: int
    max_tokens: int
    pooling: Pooling
    precision: Precision
    query_prefix: str
    passage_prefix: str
    fingerprint: str
    files: dict[str, FileRecord]
    source: str = ""
    revision: str = ""
    weights: Weights = "full"
    guess: str = ""
    cosine_mean: float | None = None
    cosine_worst: float | None = None
    speedup: float | None = None
    language_axis: LanguageAxis | None = None
    directory: Path = field(default=Path())


def read(directory: Path) -> ModelInfo:
    """Read the directory's model.toml.

    Raises:
        ModelAbsent: there is none.
        ModelRefused: it cannot be read, or is not complete.
    """
    file = directory / MODEL_TOML
    try:
        table = tomllib.loads(plain_file.read_text(file))
        info = msgspec.convert({**table, "directory": directory}, ModelInfo, dec_hook=_path)
    except FileNotFoundError as error:
        raise ModelAbsent(f"{directory}: holds no model") from error
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{file}: not a model's description: {error}", hint=_REPAIR) from error
    if info.language_axis and len(info.language_axis.direction) != info.dims:
        raise ModelRefused(f"{file}: its language axis does not have {info.dims} numbers", hint=_REPAIR)
    missing = {ONNX, TOKENIZER} - info.files.keys()
    if missing or any(Path(name).name != name or "\0" in name for name in info.files):
        raise ModelRefused(f"{file}: its list of files is not right", hint=_REPAIR)
    return info


def write(info: ModelInfo) -> None:
    """Write model.toml into the model's directory.

    Raises:
        CannotCreate: it cannot be written.
    """
    table = dataclasses.asdict(info)
    del table["directory"]
    files: Mapping[str, Mapping[str, Any]] = table.pop("files")
    axis: Mapping[str, Any] | None = table.pop("language_axis")
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]
    if axis:
        lines += ["", "[language_axis]", *(f"{key} = {_toml(value)}" for key, value in axis.items())]
    for name, entry in sorted(files.items()):
        lines += ["", f"[files.{_toml(name)}]", f'sha256 = "{entry["sha256"]}"', f"size = {entry['size']}"]
    try:
        (info.directory / MODEL_TOML).write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotCreate(f"{info.directory / MODEL_TOML}: cannot be written: {error.strerror}") from error


def record_files(directory: Path) -> dict[str, FileRecord]:
    """The present hashes and sizes of the model's files in the directory."""
    return {name: FileRecord(sha256(directory / name), (directory / name).stat().st_size) for name in (ONNX, TOKENIZER)}


def check_sizes(info: ModelInfo) -> None:
    """Compare the files' sizes with model.toml.

    Raises:
        ModelRefused: a file is missing or has another size.
    """
    for name, expected in info.files.items():
        try:
            size = (info.directory / name).stat().st_size
        except OSError as error:
            raise ModelRefused(f"{info.directory / name}: cannot be read: {error.strerror}", hint=_REPAIR) from error
        if size != expected.size:
            raise ModelRefused(
                f"{info.directory / name}: has {size} bytes and should have {expected.size}", hint=_REPAIR
            )


def check_hashes(info: ModelInfo) -> None:
    """Compare the files' sizes and hashes with model.toml.

    Raises:
        ModelRefused: a file is missing or has been changed.
    """
    check_sizes(info)
    for name, expected in info.files.items():
        if sha256(info.directory / name) != expected.sha256:
            raise ModelRefused(f"{info.directory / name}: is not the file that was installed", hint=_REPAIR)


def sha256(file: Path) -> str:
    """The file's SHA-256 in hexadecimal.

    Raises:
        ModelRefused: it cannot be read.
    """
    try:
        with os.fdopen(plain_file.open_plain(file, os.O_RDONLY), "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelRefused(f"{file}: cannot be read: {error.strerror}") from error


def fingerprint(weights: str, tokenizer: str, shape: Mapping[str, Any], settings: Settings) -> str:
    """One hash of everything that decides a vector, except the precision.

    Args:
        weights: SHA-256 of the source's model.safetensors.
        tokenizer: SHA-256 of tokenizer.json.
        shape: the numbers of the encoder's configuration.
        settings: window, pooling and prefixes.
    """
    parts = {"weights": weights, "tokenizer": tokenizer, "shape": dict(shape), **dataclasses.asdict(settings)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _toml(value: str | int | float | tuple[float, ...]) -> str:
    """The value in TOML. JSON's strings, numbers and lists are TOML's too, except for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _path(kind: type, value: Any) -> Any:
    return kind(value)
