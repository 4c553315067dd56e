"""The chats and people that the fields of the search page complete, kept for a minute for each visitor."""

from __future__ import annotations

import threading
import time

from vkteams_daemon.access import Access
from vkteams_daemon.search.archive import Archive
from vkteams_daemon.search.history.results import ChatSummary, UserSummary

_MAX_AGE = 60.0  # seconds
_MAX_KEPT = 200  # visitors
_MOST = 300  # chats, and people


class Names:
    """Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[Access, frozenset[str] | None], tuple[float, list[ChatSummary], list[UserSummary]]] = {}

    def of(self, archive: Archive, access: Access) -> tuple[list[ChatSummary], list[UserSummary]]:
        """The chats and people whom this visitor may know, the latest first.

        Args:
            archive: as the visitor sees it.
            access: the visitor's.
        """
        now = time.monotonic()
        key = (access, archive.visible_chats)  # who has left a chat does not get its name any more
        with self._lock:
            kept = self._kept.get(key)
        if kept and now - kept[0] < _MAX_AGE:
            return kept[1], kept[2]
        chats, people = archive.chats(limit=_MOST), archive.users(limit=_MOST)
        with self._lock:
            if len(self._kept) >= _MAX_KEPT:
                del self._kept[min(self._kept, key=lambda each: self._kept[each][0])]
            self._kept[key] = (now, chats, people)
        return chats, people
