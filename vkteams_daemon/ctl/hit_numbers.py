"""The numbers of the hits that this user has seen last: `vkteamsctl open 3` opens the third.

They are in the user's cache directory, in a file of mode 0600 with the ids of chats and messages and no text. Where it
cannot be written, a search works all the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from vkteams_daemon.config import Config
from vkteams_daemon.errors import NotFound, UsageError
from vkteams_daemon.system import files

_HINT = "Search first: `vkteamsctl find WORDS`."


def keep(config: Config, hits: Sequence[tuple[str, str]]) -> None:
    """Keep chat_id and msg_id of the hits in the order of their numbers; none keep the numbers before."""
    file = _file(os.environ)
    if not hits or file is None:
        return
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"archive": _archive(config), "hits": [list(hit) for hit in hits]}, ensure_ascii=False)
        with files.replace_when_whole(file, 0o600, writer=f"{os.getpid()}.part") as opened:
            opened.write(text.encode("utf-8", "surrogatepass"))


def find(config: Config, number: int) -> tuple[str, str]:
    """The chat_id and msg_id of the hit with this number, from 1.

    Raises:
        NotFound: nothing was searched yet, or not in this archive.
        UsageError: the last search had fewer hits.
    """
    file = _file(os.environ)
    try:
        kept = json.loads(file.read_bytes().decode("utf-8", "surrogatepass")) if file else {}
        archive, hits = str(kept["archive"]), [(str(chat_id), str(msg_id)) for chat_id, msg_id in kept["hits"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise NotFound("no hit has a number yet", hint=_HINT) from None
    if archive != _archive(config):
        raise NotFound("the numbers are those of another archive", hint=_HINT)
    if number > len(hits):
        raise UsageError(f"the last search had no hit {number}", hint=f"Its hits are 1 to {len(hits)}.")
    return hits[number - 1]


def _file(environ: Mapping[str, str]) -> Path | None:
    """The file; None for a user without a home."""
    cache, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    directory = Path(cache) if cache.startswith("/") else Path(home) / ".cache" if home.startswith("/") else None
    return directory / "vkteams" / "hits.json" if directory else None


def _archive(config: Config) -> str:
    """What tells this archive from another, without the secrets of its URL."""
    place = (config.source, config.instance, config.database.url or config.daemon.state_dir)
    return hashlib.sha256(repr(place).encode("utf-8", "surrogatepass")).hexdigest()[:16]
