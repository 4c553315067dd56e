"""The numbers of the hits that this user has seen last: `vkteamsctl open 3` opens the third.

They are in the user's cache directory, with the ids of chats and messages and no text.
"""

from __future__ import annotations

from collections.abc import Sequence

from vkteams_daemon.config import Config
from vkteams_daemon.ctl import user_cache
from vkteams_daemon.errors import NotFound, UsageError

_FILE = "hits.json"


def keep(config: Config, hits: Sequence[tuple[str, str]]) -> None:
    """Keep chat_id and msg_id of the hits in the order of their numbers; an empty answer keeps the numbers before."""
    if hits:
        user_cache.write(_FILE, config, [list(hit) for hit in hits])


def find(config: Config, number: int) -> tuple[str, str]:
    """The chat_id and msg_id of the hit with this number, from 1.

    Raises:
        NotFound: this user has searched nothing in this archive yet.
        UsageError: the last search had fewer hits.
    """
    try:
        hits = [(str(chat_id), str(msg_id)) for chat_id, msg_id in user_cache.read(_FILE, config) or ()]
    except (TypeError, ValueError):
        hits = []
    if not hits:
        raise NotFound("no hit of this archive has a number yet", hint="Search first: `vkteamsctl find WORDS`.")
    if number > len(hits):
        raise UsageError(f"the last search had no hit {number}", hint=f"Its hits are 1 to {len(hits)}.")
    return hits[number - 1]
