"""Makes HTML of what people wrote. Every text is hostile: it is escaped, and its invisible characters are removed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from markupsafe import Markup, escape

from vkteams_daemon.botapi.text_format import Run
from vkteams_daemon.search.results import MARKS
from vkteams_daemon.system.text import visible

MAX_SHOWN = 5000
"""Characters of a text within a chat; its own address shows more."""
MAX_WHOLE = 100_000

_ELEMENTS = (
    ("quote", "q"), ("pre", "pre"), ("code", "code"), ("bold", "strong"), ("italic", "em"), ("underline", "u"),
    ("strikethrough", "s"),
)  # fmt: skip
_SCHEMES = ("http", "https", "mailto")
_HUES = 12


def plain(text: str | None, limit: int = MAX_SHOWN) -> Markup:
    """A text without its invisible characters, cut if it is too long."""
    return escape(_cut(visible(text or ""), limit))


def formatted(runs: Iterable[Run], limit: int) -> Markup:
    """A text with its formatting, its links and its mentions."""
    pieces: list[Markup] = []
    left = limit
    for run in runs:
        text = visible(run.text)
        if not text:
            continue
        piece = escape(_cut(text, left))
        left -= len(text)
        # A quote becomes a span with a style, because a browser puts quotation marks around <q>.
        for style, element in _ELEMENTS:
            if style in run.styles:
                element = "span" if element == "q" else "code" if element == "pre" else element
                piece = Markup('<{0} class="{1}">{2}</{0}>').format(element, f"as-{style}", piece)
        url = safe_url(run.url)
        if url is not None:
            piece = Markup('<a href="{}" rel="noopener noreferrer nofollow" target="_blank">{}</a>').format(url, piece)
            if not _says_where(text, url):
                piece += Markup(' <span class="host">({})</span>').format(_host(url))
        elif run.user_id is not None:
            piece = Markup('<span class="mention">{}</span>').format(piece)
        pieces.append(piece)
        if left <= 0:
            break
    return Markup("").join(pieces)


def marked(snippet: str) -> Markup:
    """The part of a text that matches, with its words marked."""
    pieces = visible(snippet).split(MARKS[0])
    if len(pieces) % 2 == 0:  # the text has such marks of its own
        pieces[-2:] = ["".join(pieces[-2:])]
    return Markup("").join(
        Markup("<mark>{}</mark>").format(piece) if number % 2 else escape(piece) for number, piece in enumerate(pieces)
    )


def safe_url(url: str | None) -> str | None:
    """The URL if a click on it can do no harm; otherwise None."""
    if not url or len(url) > 4000 or url != visible(url).strip() or re.search(r"\s", url):
        return None
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port >= 0
    except ValueError:
        return None
    if parts.scheme.lower() not in _SCHEMES or not port_is_fine:
        return None
    return url if parts.netloc or parts.scheme.lower() == "mailto" else None


def hue(user_id: str | None) -> int:
    """The number of a person's colour."""
    return hashlib.blake2b((user_id or "").encode("utf-8", "replace"), digest_size=2).digest()[0] % _HUES


def initials(name: str | None) -> str:
    """One or two letters for a person."""
    words = [word for word in re.split(r"[\s._@-]+", visible(name or "")) if word and word[0].isalnum()]
    return "".join(word[0] for word in words[:2]).upper() or "?"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(0, limit)] + " […]"


def _says_where(text: str, url: str) -> bool:
    """Whether the words of a link name its host."""
    return _host(url).lower() in text.lower()


def _host(url: str) -> str:
    parts = urlsplit(url)
    return parts.hostname or parts.path
