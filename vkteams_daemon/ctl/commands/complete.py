"""`vkteamsctl complete KIND`: what the shells' completion offers, one a line. It is for them, and not in the help.

An answer within 0.2 s: the names of chats and people come from a file of the user's cache directory. Another process
reads them from the archive for the next time, if they are older than a minute; this one waits a moment for it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import user_cache
from vkteams_daemon.ctl.command_line import Noun
from vkteams_daemon.ctl.connections import open_archive
from vkteams_daemon.ctl.output import Answer, Screen, one_line
from vkteams_daemon.errors import VkTeamsError
from vkteams_daemon.options import READERS, SYSTEM_DIRECTORY

_PATIENCE = 0.2  # seconds that a person waits for a completion
_MAX_AGE = 60.0  # seconds after which the names are read again
_MAX_NAMES = 1000
_READ_WITHIN = 30.0  # seconds after which the process that reads them ends


def register(noun: Noun) -> None:
    """Add the command complete."""
    verb = noun.verb("complete", "names for the shells' completion", _complete, "vkteamsctl complete chats")
    verb.add_argument("kind", metavar="KIND", choices=tuple(_KINDS), help=", ".join(_KINDS))


def _complete(args: argparse.Namespace, config: Config) -> Answer:
    names = list(dict.fromkeys(one_line(name) for name in _KINDS[args.kind](config) if name))

    def render(screen: Screen) -> None:
        for name in names:
            screen.line(name)

    return Answer({"rows": names}, render, ids=names)


def _instances(config: Config) -> list[str]:
    user = Path(os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", "/")) / ".config") / "vkteams"
    files = [file for place in (SYSTEM_DIRECTORY, SYSTEM_DIRECTORY / READERS, user) for file in place.glob("*.toml")]
    return sorted({file.stem for file in files} - {"vkteamsd", "mcp-tokens"})


def _models(config: Config) -> list[str]:
    from vkteams_daemon.embedding.catalogue import CATALOGUE

    with contextlib.suppress(OSError):
        return sorted({*CATALOGUE, *(each.name for each in config.models_dir.iterdir() if each.is_dir())} - {""})
    return sorted(CATALOGUE)


def _kept(key: str) -> Callable[[Config], Iterable[str]]:
    return lambda config: _names(config).get(key, [])


_KINDS: dict[str, Callable[[Config], Iterable[str]]] = {
    "chats": _kept("chats"), "chat-ids": _kept("chat-ids"), "people": _kept("people"),
    "people-ids": _kept("people-ids"), "models": _models, "instances": _instances,
}  # fmt: skip


def _names(config: Config) -> dict[str, list[str]]:
    """The names of the archive by kind, as they were read last; empty if they never were."""
    kept = user_cache.read("names.json", config)
    fresh = isinstance(kept, dict) and time.time() - float(kept.get("at", 0)) < _MAX_AGE
    if not fresh and _can_be_asked(config):
        _wait_for(_read_in_another_process(config))
        kept = user_cache.read("names.json", config)
    return kept if isinstance(kept, dict) else {}


def _can_be_asked(config: Config) -> bool:
    """Whether a question starts nothing: the bundled server is asked only while it runs."""
    from vkteams_daemon.store.bundled.server import BundledServer

    if user_cache.file("names.json", os.environ) is None:
        return False
    if config.database.url:
        return True
    with contextlib.suppress(VkTeamsError, OSError):
        return BundledServer(config.state_dir, config.runtime_dir, config.daemon.user).running() is not None
    return False


def _read_in_another_process(config: Config) -> int:
    """Start a process that reads the names and keeps them; its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        import signal

        signal.alarm(int(_READ_WITHIN))
        with contextlib.suppress(VkTeamsError, OSError), open_archive(config) as archive:
            chats, people = archive.chats(limit=_MAX_NAMES), archive.users(limit=_MAX_NAMES)
            names = {
                "chats": [chat.title for chat in chats if chat.title and not chat.parent_msg_id],
                "chat-ids": [chat.chat_id for chat in chats],
                "people": [user.name for user in people if user.name],
                "people-ids": [user.user_id for user in people],
            }
            user_cache.write("names.json", config, {"at": time.time(), **names})
    finally:
        os._exit(0)


def _wait_for(child: int) -> None:
    """Wait for the process, but no longer than a person waits. It goes on without us."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and os.waitpid(child, os.WNOHANG) == (0, 0):
        time.sleep(0.005)
