"""The room in an answer: an agent has little, and pays for all of it."""

from __future__ import annotations

from typing import TypeVar

from vkteams_daemon.mcp.answers import Answer, Message
from vkteams_daemon.search.history.token_budget import CUT, tokens

A = TypeVar("A", bound=Answer)


class Room:
    """The room in one answer. A text takes a quarter of the whole at most, and is shortened to it.

    Args:
        most: tokens, about: a quarter of the UTF-8 bytes of the JSON.
    """

    def __init__(self, most: int) -> None:
        self._longest = 4 * max(32, most // 4)
        self.left = most
        self.cut = False

    def shortened(self, entry: A) -> A:
        """The entry; a message's text no longer than one may be."""
        if not isinstance(entry, Message) or len(entry.text.encode()) <= self._longest:
            return entry
        self.cut = True
        text = entry.text.encode()[: self._longest].decode("utf-8", "ignore") + CUT
        return entry.model_copy(update={"text": text})

    def take(self, entry: A) -> A | None:
        """The entry, shortened where it must be; None where there is no room for it."""
        entry = self.shortened(entry)
        cost = tokens(entry.model_dump_json())
        if cost > self.left:
            self.cut = True
            return None
        self.left -= cost
        return entry

    def fill(self, entries: list[A]) -> list[A]:
        """As many of the entries, from the first on, as there is room for."""
        kept: list[A] = []
        for entry in entries:
            fitting = self.take(entry)
            if fitting is None:
                break
            kept.append(fitting)
        return kept
