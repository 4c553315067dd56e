"""Short names for the cursors that people pass back: the long ones stay in a file of the user's cache.

Programs get the cursor itself (`--output json`). If the cache cannot be written, people get it too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from pathlib import Path

from vkteams_daemon import plain_file
from vkteams_daemon.ctl import user_cache
from vkteams_daemon.system import files

_FILE = "cursors.json"
_MOST = 100  # cursors that are remembered, the newest
_NAME = re.compile(r"[0-9a-f]{6}")


def shorten(cursor: str) -> str:
    """The short name of a cursor; the cursor itself if the cache cannot be written."""
    name = hashlib.sha256(cursor.encode()).hexdigest()[:6]
    path = user_cache.file(_FILE, os.environ)
    if path is None:
        return cursor
    known = _read(path)
    known.pop(name, None)
    known[name] = cursor
    content = json.dumps(dict(list(known.items())[-_MOST:])).encode()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.atomic_write(path, content, 0o600, writer=str(os.getpid()))
    except OSError:
        return cursor
    return name


def expand(text: str | None) -> str | None:
    """The cursor that a short name stands for; any other text as it is."""
    path = user_cache.file(_FILE, os.environ) if text and _NAME.fullmatch(text) else None
    return _read(path).get(text or "", text) if path else text


def _read(path: Path) -> dict[str, str]:
    known: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(plain_file.read(path))
        if isinstance(content, dict):
            known = {str(name): str(cursor) for name, cursor in content.items()}
    return known
