"""What the parts and the format of a message say beside its text: quotes, captions, names, links, buttons.

Like `facts`, it ignores values of a wrong type. A forward holds a message, which may hold a forward again: at most
`MAX_DEPTH` levels and `MAX_QUOTES` messages are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from vkteams_daemon.botapi.values import as_list, as_text, known_name, parse_id, parse_time

MAX_DEPTH = 20
MAX_QUOTES = 200

_FILE_NAMES = ("filename", "fileName", "file_name", "name")
_MENTION = re.compile(r"@\[([^\[\]\s]{1,255})\]")
_FILES = ("file", "voice", "sticker")


@dataclass(frozen=True, slots=True)
class BesideText:
    """What one message has beside its text and the captions of its files."""

    files: tuple[str, ...] = ()
    """The names of its files."""
    links: tuple[str, ...] = ()
    """Where the words that are links lead to."""
    buttons: tuple[str, ...] = ()
    """The words on its buttons, and where they lead to."""
    mentioned: tuple[tuple[str, str], ...] = ()
    """The user ids of the people whom it mentions, with their names as far as it gives them."""


@dataclass(frozen=True, slots=True)
class QuotedMessage:
    """A message that another one forwards, or that it answers and repeats."""

    kind: Literal["forward", "reply"]
    """`forward` only if every message around it forwards it."""
    depth: int
    """How many quotes it stands in."""
    msg_id: str | None
    user_id: str | None
    name: str | None
    """Its author's name, as the quote gives it."""
    sent_at: datetime | None
    texts: tuple[str, ...]
    """Its text and the captions of its files."""
    beside: BesideText

    @property
    def text(self) -> str:
        """Its text with the captions of its files."""
        return "\n".join(self.texts)


def quotes(parts: Any) -> list[QuotedMessage]:
    """The quotes in these parts, each followed by the quotes within it."""
    found: list[QuotedMessage] = []
    for message, kind, depth in _all_quoted(parts):
        inner = message.get("parts")
        value = message.get("from")
        author: dict[str, Any] = value if isinstance(value, dict) else {}
        texts = [as_text(message.get("text")), *captions(inner)]
        found.append(
            QuotedMessage(
                kind, depth, parse_id(message.get("msgId")), parse_id(author.get("userId")), person_name(author),
                parse_time(message.get("timestamp")), tuple(dict.fromkeys(filter(None, texts))),
                beside_text(inner, message.get("format")),
            )
        )  # fmt: skip
    return found


def quoted_messages(parts: Any, kind: str) -> Iterator[dict[str, Any]]:
    """The messages that the parts forward (`forward`) or answer (`reply`), as the API gives them."""
    for payload in _payloads(parts, kind):
        message = payload.get("message")
        if isinstance(message, dict):
            yield message


def forwarded_texts(parts: Any) -> list[str]:
    """The texts and captions of the messages that these parts forward, at any depth."""
    return [text for quote in quotes(parts) if quote.kind == "forward" for text in quote.texts]


def own_text(text: str, parts: Any) -> str:
    """The message's own words: its text in the table `messages` without the texts that it forwards."""
    for forwarded in reversed(list(dict.fromkeys(forwarded_texts(parts)))):
        if text == forwarded:
            return ""
        text = text.removesuffix(f"\n{forwarded}")
    return text


def with_names(text: str, names: Mapping[str, str]) -> str:
    """The text as people see it: @Name in the place of @[user id], for everybody whose name is known."""
    if "@[" not in text:
        return text
    return _MENTION.sub(lambda match: f"@{names.get(match[1]) or match[1]}", text)


def mentioned_ids(text: str) -> list[str]:
    """The user ids that a text mentions."""
    return _MENTION.findall(text) if "@[" in text else []


def captions(parts: Any) -> list[str]:
    """The captions of the files."""
    return [caption for payload in _payloads(parts, "file") if (caption := as_text(payload.get("caption")))]


def beside_text(parts: Any, text_format: Any) -> BesideText:
    """What a message has beside its text, its quotes left out."""
    if not parts and not text_format:
        return BesideText()
    files = [payload for kind in _FILES for payload in _payloads(parts, kind)]
    names = [name for payload in files for key in _FILE_NAMES if (name := as_text(payload.get(key)))]
    links = [link for each in (text_format, *(payload.get("format") for payload in files)) for link in _links(each)]
    mentioned = {
        user_id: person_name(payload) or ""
        for payload in _payloads(parts, "mention")
        if (user_id := parse_id(payload.get("userId")))
    }
    return BesideText(tuple(names), tuple(links), tuple(_buttons(parts)), tuple(mentioned.items()))


def people(parts: Any) -> list[Any]:
    """The people whom the parts, or the quotes in them, mention or quote, as the API gives them."""
    found: list[Any] = [*_payloads(parts, "mention")]
    for message, _, _ in _all_quoted(parts):
        found += [message.get("from"), *_payloads(message.get("parts"), "mention")]
    return found


def person_name(person: dict[str, Any]) -> str | None:
    """First and last name of a person as the API gives them, otherwise the nick; None if all are blank."""
    names = (known_name(person.get("firstName")), known_name(person.get("lastName")))
    return " ".join(filter(None, names)) or known_name(person.get("nick"))


def _payloads(parts: Any, kind: str) -> Iterator[dict[str, Any]]:
    for part in as_list(parts):
        if isinstance(part, dict) and part.get("type") == kind and isinstance(part.get("payload"), dict):
            yield part["payload"]


def _all_quoted(parts: Any) -> Iterator[tuple[dict[str, Any], Literal["forward", "reply"], int]]:
    """The messages that these parts quote, as the API gives them, each followed by those that it quotes.

    Kind and depth of each are those of `QuotedMessage`.
    """
    waiting = [(message, kind, 0) for message, kind in _quotes_in(parts)][::-1]
    for _ in range(MAX_QUOTES):
        if not waiting:
            return
        message, kind, depth = waiting.pop()
        yield message, kind, depth
        if depth < MAX_DEPTH:
            within = _quotes_in(message.get("parts"))[::-1]
            waiting += [(each, "reply" if kind == "reply" else own, depth + 1) for each, own in within]


def _quotes_in(parts: Any) -> list[tuple[dict[str, Any], Literal["forward", "reply"]]]:
    return [
        *((message, "forward") for message in quoted_messages(parts, "forward")),
        *((message, "reply") for message in quoted_messages(parts, "reply")),
    ]


def _links(text_format: Any) -> list[str]:
    links = as_list(text_format.get("link")) if isinstance(text_format, dict) else []
    return [url for link in links if isinstance(link, dict) and (url := as_text(link.get("url")))]


def _buttons(parts: Any) -> Iterator[str]:
    for part in as_list(parts):
        if not isinstance(part, dict) or part.get("type") != "inlineKeyboardMarkup":
            continue
        for row in as_list(part.get("payload")):
            for button in as_list(row):
                for key in ("text", "url") if isinstance(button, dict) else ():
                    if word := as_text(button.get(key)):
                        yield word
