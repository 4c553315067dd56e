"""A model's directory: model.onnx, tokenizer.json, and model.toml, which says what they are and what they must hash to.

Sizes are compared at every load: they betray a copy that was cut off or files of two models in one directory, and
cost nothing. Whole hashes are compared at installation and by `vkteamsctl model status`; at every start they would
cost up to a second, and whoever can change a file of the directory can change its hash in model.toml as well.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from vkteams_daemon.errors import CannotCreate, ModelAbsent, ModelRefused

ONNX = "model.onnx"
TOKENIZER = "tokenizer.json"
MANIFEST = "model.toml"
IDS, MASK = "input_ids", "attention_mask"  # the inputs of the graph in model.onnx

Pooling = Literal["mean", "cls"]
Precision = Literal["int8", "fp32"]

_REPAIR = "Install it again: `vkteamsctl model install`."


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was installed: SHA-256 in hexadecimal and bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Settings:
    """What turns an encoder into a model of texts.

    Attributes:
        max_tokens: the window, special tokens and prefix included.
        pooling: `mean` over the tokens, or `cls`, the first one.
        query_prefix: stands before what is looked for.
        passage_prefix: stands before what is found.
    """

    max_tokens: int
    pooling: Pooling = "mean"
    query_prefix: str = ""
    passage_prefix: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What model.toml says, and where it stands.

    Attributes:
        fingerprint: SHA-256 over source weights, shape, tokenizer and settings, not over the precision: models of one
            fingerprint share their vectors.
        files: by name, each file of the directory but model.toml.
        source: what it was installed from.
        revision: the commit of the source, where it has one.
        cosine_mean: of int8 against fp32 over the acceptance texts; None for fp32.
        cosine_worst: likewise.
        speedup: of int8 over fp32 on the machine that installed it; None where it was not measured.
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
    cosine_mean: float | None = None
    cosine_worst: float | None = None
    speedup: float | None = None
    directory: Path = field(default=Path())


def read(directory: Path) -> ModelInfo:
    """What the directory's model.toml says.

    Raises:
        ModelAbsent: there is none.
        ModelRefused: it cannot be read, or lacks something.
    """
    file = directory / MANIFEST
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
        info = msgspec.convert({**table, "directory": directory}, ModelInfo, dec_hook=_path)
    except FileNotFoundError as error:
        raise ModelAbsent(f"{directory}: holds no model") from error
    except (OSError, ValueError) as error:
        raise ModelRefused(f"{file}: not a model's description: {error}", hint=_REPAIR) from error
    missing = {ONNX, TOKENIZER} - info.files.keys()
    if missing or any(Path(name).name != name or "\0" in name for name in info.files):
        raise ModelRefused(f"{file}: its list of files is not right", hint=_REPAIR)
    return info


def write(info: ModelInfo) -> None:
    """Write model.toml into the model's directory.

    Raises:
        CannotCreate: the directory does not take it.
    """
    table = dataclasses.asdict(info)
    del table["directory"]
    files: Mapping[str, Mapping[str, Any]] = table.pop("files")
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if value is not None]
    for name, entry in sorted(files.items()):
        lines += ["", f"[files.{_toml(name)}]", f'sha256 = "{entry["sha256"]}"', f"size = {entry['size']}"]
    try:
        (info.directory / MANIFEST).write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")
    except OSError as error:
        raise CannotCreate(f"{info.directory / MANIFEST}: cannot be written: {error.strerror}") from error


def record(directory: Path) -> dict[str, FileRecord]:
    """Hashes and sizes of the model's files as they lie in the directory."""
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
        ModelRefused: a file is missing or is another.
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
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelRefused(f"{file}: cannot be read: {error.strerror}") from error


def fingerprint(weights: str, tokenizer: str, shape: Mapping[str, Any], settings: Settings) -> str:
    """One hash over everything that decides what a vector is, apart from its precision.

    Args:
        weights: SHA-256 of the source's model.safetensors.
        tokenizer: SHA-256 of tokenizer.json.
        shape: the numbers of the encoder's configuration.
        settings: window, pooling and prefixes.
    """
    parts = {"weights": weights, "tokenizer": tokenizer, "shape": dict(shape), **dataclasses.asdict(settings)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _toml(value: str | int | float) -> str:
    """A JSON string or number is a TOML string or number too, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _path(kind: type, value: Any) -> Any:
    return kind(value)
