"""Files of the user's cache directory, with mode 0600: what this user has seen of an archive.

If they cannot be read or written, everything works without them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vkteams_daemon import plain_file
from vkteams_daemon.config import Config
from vkteams_daemon.system import files


def read(name: str, config: Config) -> Any:
    """What was written for this archive; None if that was nothing, or for another archive."""
    path = file(name, os.environ)
    try:
        kept = json.loads(plain_file.read(path).decode("utf-8", "surrogatepass")) if path else None
        return kept["value"] if kept and kept["archive"] == _archive(config) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(name: str, config: Config, value: Any) -> None:
    """Keep a value for this archive, in the place of what the file held."""
    path = file(name, os.environ)
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"archive": _archive(config), "value": value}, ensure_ascii=False)
        with files.replace_when_whole(path, 0o600, writer=f"{os.getpid()}.part") as opened:
            opened.write(text.encode("utf-8", "surrogatepass"))


def file(name: str, environ: Mapping[str, str]) -> Path | None:
    """The file of this name; None for a user without a home."""
    cache, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    directory = Path(cache) if cache.startswith("/") else Path(home) / ".cache" if home.startswith("/") else None
    return directory / "vkteams" / name if directory else None


def _archive(config: Config) -> str:
    """What tells this archive from another, without the secrets of its URL."""
    place = (config.source, config.instance, config.database.url or config.daemon.state_dir)
    return hashlib.sha256(repr(place).encode("utf-8", "surrogatepass")).hexdigest()[:16]
