"""A token budget: how many tokens an answer may have, and how many of them an entry takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from vkteams_daemon.search.messages import ArchivedMessage

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

E = TypeVar("E", bound="DataclassInstance")

CUT = " […]"
"""The end of a text that was shortened."""

DEFAULT_TOKENS = 4000
"""Tokens of an answer if the question names no limit."""

MIN_TOKENS = 12
"""Tokens of a message beside its author and its text: the time, the message that it answers, the marks."""

_QUOTE_HEADING = 16  # tokens of a quote beside its text
_HEADING = 48  # tokens of the heading of a conversation: its ids, title and day, also as JSON
_MIN_QUOTE = 16  # tokens that each of several quotes may take
_MIN_TEXT = 32  # tokens that a text may take however small the budget


def tokens(text: str) -> int:
    """About how many tokens a text takes: a quarter of its UTF-8 bytes, four Latin or two Cyrillic letters each."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def line_cost(message: ArchivedMessage) -> int:
    """How many tokens a message takes as a line with the time, the author and the text."""
    quoted = sum(_QUOTE_HEADING + tokens(quote.text) for quote in message.quotes)
    own = message.text if message.own_text is None else message.own_text
    return MIN_TOKENS + tokens(message.author or "") + tokens(own) + 2 * own.count("\n") + quoted


def _beginning(text: str, limit: int) -> str:
    return text.encode()[: 4 * limit].decode("utf-8", "ignore").rstrip() + CUT


class TokenBudget:
    """The tokens that are left for an answer. A text may take a quarter of the whole, and is shortened to it.

    Args:
        limit: tokens of the whole answer.
        cost: how many tokens an entry takes; it counts as `MIN_TOKENS` at least.

    Attributes:
        left: tokens that are left.
        used: tokens that the entries so far take.
        cut: whether an entry was shortened or left out.
    """

    def __init__(self, limit: int = DEFAULT_TOKENS, cost: Callable[[Any], int] = line_cost) -> None:
        self._text_limit = max(_MIN_TEXT, limit // 4)
        self._cost = cost
        self.left = limit
        self.used = 0
        self.cut = False

    def shorten(self, entry: E) -> E:
        """The entry; with a shorter text and shorter quotes if they are longer than a text may be."""
        quotes = getattr(entry, "quotes", ())
        limit = self._text_limit // (2 if quotes else 1)
        changed: dict[str, Any] = {}
        for name in ("text", "own_text"):
            text = getattr(entry, name, None) or ""
            if tokens(text) > limit:
                changed[name] = _beginning(text, limit)
        if sum(tokens(quote.text) for quote in quotes) > limit:
            each = max(_MIN_QUOTE, limit // len(quotes))
            changed["quotes"] = tuple(
                replace(quote, text=_beginning(quote.text, each)) if tokens(quote.text) > each else quote
                for quote in quotes[: max(1, limit // _MIN_QUOTE)]
            )
        if not changed:
            return entry
        self.cut = True
        return replace(entry, **changed)

    def take(self, entry: E, *, first: bool = False) -> E | None:
        """The entry, shortened if need be; None if too few tokens are left for it.

        Args:
            entry: a dataclass; a message has a field `text`.
            first: whether it is the first message of a conversation, which needs a heading.
        """
        entry = self.shorten(entry)
        cost = max(MIN_TOKENS, self._cost(entry)) + (_HEADING if first else 0)
        if cost > self.left:
            self.cut = True
            return None
        self.left -= cost
        self.used += cost
        return entry

    def fill(self, entries: Iterable[E]) -> list[E]:
        """The first entries, up to the one that too few tokens are left for."""
        fitted: list[E] = []
        for entry in entries:
            fitting = self.take(entry)
            if fitting is None:
                break
            fitted.append(fitting)
        return fitted
