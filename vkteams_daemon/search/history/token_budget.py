"""A budget of tokens: how much a reader may be told, and what a message costs of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vkteams_daemon.search.messages import ArchivedMessage

CUT = " […]"
"""What a text ends with that was shortened."""

MOST = 4000
"""Tokens of an answer where nothing is said."""

LEAST = 12
"""Tokens of a message beside its author and its text: the time, whom it answers, the marks."""

_HEADING = 48  # tokens of what stands over a conversation: its ids, title and day, also as JSON


def tokens(text: str) -> int:
    """About how many tokens a text takes: a quarter of its UTF-8 bytes, four Latin or two Cyrillic letters each."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def as_read(said: ArchivedMessage) -> int:
    """What a message costs that is read as a line: the time, the author, the text."""
    return LEAST + tokens(said.author or "") + tokens(said.text) + 2 * said.text.count("\n")


class TokenBudget:
    """The room that is left; a text may take a quarter of the whole at most, and is shortened to it.

    Args:
        most: tokens.
        cost: what a message costs, at least `LEAST`.
    """

    def __init__(self, most: int = MOST, cost: Callable[[ArchivedMessage], int] = as_read) -> None:
        self._longest = max(32, most // 4)
        self._cost = cost
        self.left = most
        self.used = 0
        self.cut = False

    def fit(self, said: ArchivedMessage, *, first: bool = False) -> ArchivedMessage | None:
        """The message, shortened where it must be; None where there is no room for it, nor for any other after that.

        Args:
            said: the message.
            first: whether it is a conversation's first, which wants a heading.
        """
        if tokens(said.text) > self._longest:
            kept = said.text.encode()[: 4 * self._longest].decode("utf-8", "ignore")
            said = replace(said, text=kept.rstrip() + CUT)
            self.cut = True
        cost = max(LEAST, self._cost(said)) + (_HEADING if first else 0)
        if cost > self.left:
            self.cut = True
            return None
        self.left -= cost
        self.used += cost
        return said
