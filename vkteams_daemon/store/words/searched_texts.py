"""What of a message is searched: its texts, each cut into words, with the weight of its words."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from vkteams_daemon.botapi import message_parts
from vkteams_daemon.botapi.message_parts import BesideText
from vkteams_daemon.store.words.tokens import Tokens, tokens

VERSION = 6
"""The version of what is searched and of how words are folded; `messages.search_version` has it.

Raise it, and replace the index `messages_search_version` in a migration, when a stored message would get other terms.
"""

# Letters beyond ASCII: other signs divide words in either form.
_PERCENT_ENCODED = re.compile("(?:%[89A-Fa-f][0-9A-Fa-f])+")

OWN, FORWARDED, REPEATED = 0, 1, 2
"""The weights of a message's own words, of those that it forwards, and of those that it answers and repeats."""

Texts = list[tuple[Tokens, int]]
"""Texts of a message with the weight of their words, as `search_vector` takes them."""


def texts(text: str | None, parts: Any, text_format: Any) -> Texts:
    """The texts of a message that search looks at; the arguments are columns of `messages`."""
    if not parts and not text_format:
        if text and "%" in text and (plain := _without_percent_encoding(text)) != text:
            return [(tokens(text), OWN), (tokens(plain), OWN)]
        return [(tokens(text), OWN)] if text else []
    own = message_parts.beside_text(parts, text_format)
    found = _with_names(message_parts.own_text(text or "", parts), own, OWN) + _beside(own, OWN)
    for quote in message_parts.quotes(parts):
        weight = FORWARDED if quote.kind == "forward" else REPEATED
        found += _with_names(quote.text, quote.beside, weight) + _beside(quote.beside, weight)
    found += [(_without_percent_encoding(each), weight) for each, weight in found if each and "%" in each]
    return [(tokens(each), weight) for each, weight in dict.fromkeys(found) if each]


def _without_percent_encoding(text: str) -> str:
    """The text with the letters of its addresses: https://ru.wikipedia.org/wiki/%D0%9C%D0%BE is …/Мо."""
    return _PERCENT_ENCODED.sub(lambda match: urllib.parse.unquote(match[0]), text)


def _with_names(text: str, beside: BesideText, weight: int) -> list[tuple[str, int]]:
    """The text as it is shown, with names in the place of user ids; and these ids."""
    shown = message_parts.with_names(text, dict(beside.mentioned))
    return [(shown, weight), *((user_id, weight) for user_id, _ in beside.mentioned)]


def _beside(beside: BesideText, weight: int) -> list[tuple[str, int]]:
    return [(each, weight) for each in (*beside.files, *beside.links, *beside.buttons)]
