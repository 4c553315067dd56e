"""Who else may read the files that hold secrets of a configuration."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from vkteams_daemon.config import Config, read_tables
from vkteams_daemon.errors import ConfigError, PermissionRefused
from vkteams_daemon.options import DEFAULT_USER, READERS, READERS_GROUP, SYSTEM_DIRECTORY, hide_credentials

# What a URL or a conninfo string names as libpq's file of passwords, or as the key of a client's certificate.
_URL_FILE = re.compile(r"(?:^|[\s?&])(?:passfile|sslkey)\s*=\s*'?([^\s&']+)")


def exposure(file: Path, mode: int) -> str | None:
    """Why these permissions do not suit a file that holds a secret, as a sentence; None if they do.

    Its owner may read and change it, its group may read it. Every file with a secret is held to this rule: the
    configuration, the secrets' own files, those that database.url names, the tokens of MCP clients, and
    the page's secret at the issuer of OpenID Connect.
    """
    return f"{file}: others than its owner may read or change it" if mode & 0o027 else None


def exposed_files(config: Config, environ: Mapping[str, str] | None = None) -> list[str]:
    """The sentences of `exposure` for every file that holds a secret of this configuration."""
    environ = os.environ if environ is None else environ
    files = [
        config.api.token_file, config.database.url_file, config.mcp.tokens_file, config.oidc.client_secret_file
    ]  # fmt: skip
    files += [unquote(name) for name in _URL_FILE.findall(f"{config.database.url} {config.database.read_url}")]
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        files += [f"{directory}/token", f"{directory}/database_url"]
    if config.source and _holds_secret(Path(config.source)):
        files.insert(0, config.source)
    sentences = []
    for file in dict.fromkeys(filter(None, files)):
        with contextlib.suppress(OSError):
            status = Path(file).stat()
            if sentence := exposure(Path(file), status.st_mode):
                sentences.append(f"{sentence}; run `chmod 640 {file}`")
            elif sentence := _group_exposure(Path(file), status, config.daemon.user or DEFAULT_USER):
                if Path(file).parent == SYSTEM_DIRECTORY / READERS:
                    continue  # what the readers share, such as the password of the role that only reads
                sentences.append(sentence)
    return sentences


def _group_exposure(file: Path, status: os.stat_result, daemon_user: str) -> str | None:
    """Which people may read a secret through its file's group, as a sentence; None if only the daemon's user may.

    People who search are members of another group. Whoever has the token can acknowledge events away.
    """
    if not status.st_mode & 0o040:
        return None
    try:
        group = grp.getgrgid(status.st_gid)
    except KeyError:
        return None
    accounts = pwd.getpwall()
    trusted = {account.pw_name for account in accounts if account.pw_uid in (0, os.geteuid(), status.st_uid)}
    members = {*group.gr_mem, *(account.pw_name for account in accounts if account.pw_gid == status.st_gid)}
    people = sorted(members - trusted - {daemon_user})
    if not people and group.gr_name != READERS_GROUP:
        return None
    whom = f"the group {group.gr_name}" + (f" ({', '.join(people[:5])}{', …' * (len(people) > 5)})" if people else "")
    return f"{file}: {whom} may read it; put people who search into the group {READERS_GROUP} instead"


def _holds_secret(file: Path) -> bool:
    """Whether a configuration file has the value of a secret: a token, or a URL with a password."""
    try:
        tables = read_tables(file)
    except (ConfigError, PermissionRefused):
        return False
    places = (("database", "url"), ("database", "read_url"), ("api", "proxy"))
    urls = (str(tables.get(section, {}).get(key, "")) for section, key in places)
    return bool(tables.get("api", {}).get("token")) or any(
        "password=" in url or hide_credentials(url) != url for url in urls
    )
