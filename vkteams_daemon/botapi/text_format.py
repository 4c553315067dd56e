"""The format of a text: which of its characters are bold, a link, code, …

The API gives offsets and lengths. They count UTF-16 units or characters; if these differ, the mentions tell which,
because each of them begins with `@[`. Like `message_parts`, this module ignores values of a wrong type.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vkteams_daemon.botapi.values import as_list, as_text

_STYLES = {
    "bold": "bold", "italic": "italic", "underline": "underline", "strikethrough": "strikethrough",
    "inline_code": "code", "inlineCode": "code", "pre": "pre", "quote": "quote", "link": "link", "mention": "mention",
}  # fmt: skip
_MAX_SPANS = 300
_MENTION = re.compile(r"@\[([^\[\]\s]{1,255})\]")
# A closing bracket or a full stop after an address belongs to the sentence.
_ADDRESS = re.compile(r"https?://[^\s<>\"«»]{1,2000}[^\s<>\"«».,:;!?()\[\]'*]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Run:
    """A piece of a text whose characters all look the same.

    Attributes:
        text: the characters; for a mention the `@[user id]` as it was sent.
        styles: bold, italic, underline, strikethrough, code, pre, quote.
        url: where it leads to, as it was sent; it may be any text.
        user_id: whom it mentions.
    """

    text: str
    styles: frozenset[str] = frozenset()
    url: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    style: str
    url: str | None


def runs(text: str, text_format: Any) -> list[Run]:
    """The text in runs; addresses and mentions within it are runs of their own."""
    spans = _spans(text, text_format)
    edges = sorted({0, len(text), *(edge for span in spans for edge in (span.start, span.end))})
    found: list[Run] = []
    for start, end in itertools.pairwise(edges):
        covering = [span for span in spans if span.start <= start and end <= span.end]
        url = next((span.url for span in covering if span.url), None)
        styles = frozenset(span.style for span in covering) - {"link", "mention"}
        found += _split(text[start:end], styles, url)
    return found


def _split(text: str, styles: frozenset[str], url: str | None) -> Iterator[Run]:
    """The text with its mentions and, outside of links and code, its addresses as runs of their own."""
    place = 0
    marks = [(match, match[1]) for match in _MENTION.finditer(text)]
    if url is None and not styles & {"code", "pre"}:
        marks += [(match, "") for match in _ADDRESS.finditer(text)]
    for match, user_id in sorted(marks, key=lambda mark: mark[0].start()):
        if match.start() < place:
            continue
        if match.start() > place:
            yield Run(text[place : match.start()], styles, url)
        yield Run(match[0], styles, url if user_id else match[0], user_id or None)
        place = match.end()
    if place < len(text):
        yield Run(text[place:], styles, url)


def _spans(text: str, text_format: Any) -> list[_Span]:
    if not isinstance(text_format, dict):
        return []
    entries = [
        (style, entry)
        for name, style in _STYLES.items()
        for entry in as_list(text_format.get(name))
        if isinstance(entry, dict) and _is_count(entry.get("offset")) and _is_count(entry.get("length"))
    ][:_MAX_SPANS]
    places = _utf16_places(text) if entries and _counts_utf16(text, entries) else None
    spans = []
    for style, entry in entries:
        start, end = entry["offset"], entry["offset"] + entry["length"]
        if places is not None:
            start, end = (places[min(edge, len(places) - 1)] for edge in (start, end))
        start, end = min(start, len(text)), min(end, len(text))
        if start < end:
            spans.append(_Span(start, end, style, as_text(entry.get("url")) if style == "link" else None))
    return spans


def _counts_utf16(text: str, entries: list[tuple[str, dict[str, Any]]]) -> bool:
    """Whether the offsets count UTF-16 units."""
    if all(ord(letter) < 0x10000 for letter in text):
        return False
    mentions = [entry["offset"] for style, entry in entries if style == "mention"]
    if mentions:
        return not all(text.startswith("@[", offset) for offset in mentions)
    return True


def _utf16_places(text: str) -> list[int]:
    """For each offset in UTF-16 units, the offset in characters."""
    places: list[int] = []
    for place, letter in enumerate(text):
        places += [place] * (2 if ord(letter) >= 0x10000 else 1)
    return [*places, len(text)]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 10**7
