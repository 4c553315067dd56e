"""The configuration of people who search, which `vkteamsctl config init` of root writes beside the daemon's."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

from vkteams_daemon import plain_file
from vkteams_daemon.config import Config
from vkteams_daemon.errors import CannotCreate, ConfigError, UsageError
from vkteams_daemon.options import DEFAULT_USER, READERS, READERS_GROUP, SYSTEM_DIRECTORY, hide_credentials
from vkteams_daemon.system import files
from vkteams_daemon.system.user import readers_group

_HEADER = (
    "# The configuration of people who search, members of the group vkteams-readers. Put neither the token nor the\n"
    "# daemon's database URL here. Written by `vkteamsctl config init`.\n"
)


def find_place(file: Path, read_url: str, *, overwrite: bool) -> Path | None:
    """The readers' configuration that belongs to this one; None if it is not to be written.

    It is written for `read_url`, and beside a configuration of the system, whose readers need it even if it is empty.

    Raises:
        UsageError: `read_url` is given, and this user is not root.
        ConfigError: `read_url` is given, and there is no group of readers.
        CannotCreate: `read_url` is given, and the file has options already.
    """
    if os.geteuid() != 0:
        if read_url:
            raise UsageError("--read-url is for root, who writes the configuration of the people who search")
        return None
    if not read_url and file.parent != SYSTEM_DIRECTORY:
        return None
    if readers_group() is None:
        if read_url:
            hint = f"Run `addgroup --system {READERS_GROUP} && adduser {DEFAULT_USER} {READERS_GROUP}`."
            raise ConfigError(f"there is no group {READERS_GROUP}", hint=hint)
        return None
    place = file.parent / READERS / file.name
    if not place.exists() or (overwrite and read_url):
        return place
    if not read_url:
        return None
    if _has_options(place):
        raise CannotCreate(f"{place} exists already", hint="Change it, or add --overwrite.")
    return place


def check_read_url(config: Config) -> None:
    """Refuse a URL that nobody can use.

    Raises:
        ConfigError: it has a wrong form, or the daemon uses the bundled PostgreSQL.
    """
    from vkteams_daemon.store import database_url

    database_url.check(config.database.read_url, "database.read_url")
    if not config.database.url:
        raise ConfigError(
            "--read-url is of a PostgreSQL of your own, and database.url is not set",
            hint="Readers of the bundled PostgreSQL need no URL.",
        )


def try_read_url(config: Config) -> str:
    """Connect as the readers will, if the URL has a password; what was found.

    Raises:
        ConfigError: the role may do more than read.
        StoreError: it cannot connect.
    """
    from vkteams_daemon.store import server_check
    from vkteams_daemon.store.connection_profiles import READER
    from vkteams_daemon.store.connections import build_conninfo, connect, translate_errors

    url = config.database.read_url
    if hide_credentials(url) == url:
        return "the readers' URL has no password and was not tried: the server will ask who each reader is"
    conninfo = build_conninfo(url, config.database.connect_timeout, "vkteamsctl")
    with translate_errors(), connect(conninfo, READER.apply) as connection:
        server_check.check_only_reads(connection)
    return "the readers' role can connect, and cannot write"


def write(place: Path, read_url: str) -> None:
    """Write the file, and its directory, for root and the readers alone.

    Raises:
        CannotCreate: it cannot be written.
    """
    text = f"{_HEADER}\n[database]\nread_url = {json.dumps(read_url, ensure_ascii=False)}\n" if read_url else _HEADER
    group = readers_group()
    try:
        if not place.parent.exists():
            place.parent.mkdir(parents=True)
            os.chown(place.parent, -1, -1 if group is None else group)
            place.parent.chmod(0o750)
        files.atomic_write(place, text.encode(), 0o640, group=group)
    except OSError as error:
        raise CannotCreate(f"{place}: cannot be written: {error.strerror}") from error


def _has_options(place: Path) -> bool:
    try:
        return any(tomllib.loads(plain_file.read_text(place)).values())
    except (OSError, ValueError):
        return True
